//! Vectors of texts and ranks of documents.

use client::worker::WorkerClient;
use futures::future::BoxFuture;
use protocol::ApiError;
use protocol::hive::ModelKind;
use protocol::vectors::{EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse};

use super::{Asked, Inference};

impl Inference {
    /// Makes vectors of texts.
    pub async fn embed(&self, asked: Asked<'_>, request: EmbedRequest) -> Result<EmbedResponse, ApiError> {
        self.check_model(asked.model, ModelKind::Embedding)?;
        let call = |worker: WorkerClient, execution_id: String| -> BoxFuture<'_, _> {
            let request = EmbedRequest { request_id: Some(execution_id), ..request.clone() };
            Box::pin(async move { worker.embed(&request, asked.correlation_id).await })
        };
        self.in_time(asked, self.on_slot(asked, &call)).await
    }

    /// Tells how relevant documents are to a query.
    pub async fn score(&self, asked: Asked<'_>, request: ScoreRequest) -> Result<ScoreResponse, ApiError> {
        self.check_model(asked.model, ModelKind::Rerank)?;
        let call = |worker: WorkerClient, execution_id: String| -> BoxFuture<'_, _> {
            let request = ScoreRequest { request_id: Some(execution_id), ..request.clone() };
            Box::pin(async move { worker.score(&request, asked.correlation_id).await })
        };
        self.in_time(asked, self.on_slot(asked, &call)).await
    }
}
