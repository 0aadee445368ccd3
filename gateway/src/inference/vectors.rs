//! Vectors of texts and ranks of documents.

use std::sync::Arc;

use client::worker::WorkerClient;
use futures::future::BoxFuture;
use protocol::ApiError;
use protocol::hive::ModelKind;
use protocol::openai::embeddings::{Embedding, EmbeddingList};
use protocol::vectors::{EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse};

use super::{AnswerCache, Asked, Inference, Sharing};

/// Vectors as OpenAI lists them.
pub fn embedding_list(answer: EmbedResponse, model: String) -> EmbeddingList {
    let embeddings = answer.embeddings.into_iter().zip(0..);
    let data = embeddings.map(|(embedding, index)| Embedding { object: "embedding", index, embedding });
    EmbeddingList { object: "list", data: data.collect(), model, usage: answer.usage }
}

impl Inference {
    /// Makes vectors of texts.
    pub async fn embed(
        &self,
        asked: Asked<'_>,
        request: EmbedRequest,
    ) -> Result<(EmbedResponse, Sharing), ApiError> {
        let model = self.model(asked.model, ModelKind::Embedding)?;
        let Some(cache) = self.cache.as_ref().filter(|_| asked.asker.may_share) else {
            return Ok((self.compute_vectors(model, asked, &request).await?, Sharing::Off));
        };
        let key = AnswerCache::vector_key(&asked.asker.caller, model, &request);
        let compute = || -> BoxFuture<'_, _> { Box::pin(self.compute_vectors(model, asked, &request)) };
        let shared = cache.vectors(key, &compute);
        let (answer, sharing) = self.in_time(asked, shared).await?;
        Ok((Arc::unwrap_or_clone(answer), sharing))
    }

    async fn compute_vectors(
        &self,
        model: &str,
        asked: Asked<'_>,
        request: &EmbedRequest,
    ) -> Result<EmbedResponse, ApiError> {
        let call = |worker: WorkerClient, execution_id: String| -> BoxFuture<'_, _> {
            let request = EmbedRequest { request_id: Some(execution_id), ..request.clone() };
            Box::pin(async move { worker.embed(&request, &asked.asker.correlation_id).await })
        };
        self.in_time(asked, self.on_slot(model, asked, &call)).await
    }

    /// Tells how relevant documents are to a query.
    pub async fn score(&self, asked: Asked<'_>, request: ScoreRequest) -> Result<ScoreResponse, ApiError> {
        let model = self.model(asked.model, ModelKind::Rerank)?;
        let call = |worker: WorkerClient, execution_id: String| -> BoxFuture<'_, _> {
            let request = ScoreRequest { request_id: Some(execution_id), ..request.clone() };
            Box::pin(async move { worker.score(&request, &asked.asker.correlation_id).await })
        };
        self.in_time(asked, self.on_slot(model, asked, &call)).await
    }
}
