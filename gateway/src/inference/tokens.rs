//! Tokens of prompts and texts of tokens. Workers tell them without a slot, so that no caller waits for answers to others;
//! only a model that nobody serves goes through the queue, which starts a worker for it.

use client::worker::WorkerClient;
use futures::future::BoxFuture;
use protocol::ApiError;
use protocol::hive::ModelKind;
use protocol::tokens::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};
use tokio::time::Instant;

use super::call::{Call, unanswered};
use super::run::may_go_elsewhere;
use super::{Asked, Asker, Inference, InferenceRequest};

impl Inference {
    /// How many tokens a request's prompt has: what its answer would tell as `usage.prompt_tokens`. Nothing is generated,
    /// and a prompt that is longer than the context is counted too.
    pub async fn count_tokens(&self, request: &InferenceRequest, asker: &Asker) -> Result<u32, ApiError> {
        self.model(&request.model, ModelKind::TextGen)?;
        let timeout = request.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let asked = Asked::in_person(&request.model, timeout, asker);
        let counted = self.tokenize(asked, TokenizeRequest::from(&request.order)).await;
        counted.map(|answer| answer.count).map_err(|error| request.in_callers_words(error))
    }

    /// Tells the tokens of a prompt, by a model of any kind.
    pub async fn tokenize(
        &self,
        asked: Asked<'_>,
        request: TokenizeRequest,
    ) -> Result<TokenizeResponse, ApiError> {
        let call = |worker: WorkerClient, _: String| -> BoxFuture<'_, _> {
            let request = &request;
            Box::pin(async move { worker.tokenize(request, &asked.asker.correlation_id).await })
        };
        self.on_any(asked, &call).await
    }

    /// Tells the text of tokens, by a model of any kind.
    pub async fn detokenize(
        &self,
        asked: Asked<'_>,
        request: DetokenizeRequest,
    ) -> Result<DetokenizeResponse, ApiError> {
        let call = |worker: WorkerClient, _: String| -> BoxFuture<'_, _> {
            let request = &request;
            Box::pin(async move { worker.detokenize(request, &asked.asker.correlation_id).await })
        };
        self.on_any(asked, &call).await
    }

    /// Calls a worker of the model: one that is ready, however busy it is, or else one that the queue finds.
    async fn on_any<T>(&self, asked: Asked<'_>, call: &Call<'_, T>) -> Result<T, ApiError> {
        let (model, _) = self.model_of_any_kind(asked.model)?;
        self.in_time(asked, async {
            if let Some(worker) = self.ready_worker(model) {
                match call(worker, asked.asker.correlation_id.to_string()).await.map_err(unanswered) {
                    Err(error) if may_go_elsewhere(&error, 1) => {}
                    outcome => return outcome,
                }
            }
            self.on_slot(model, asked, call).await
        })
        .await
    }

    /// A worker of the model that takes requests, whether or not it has a free slot.
    fn ready_worker(&self, model: &str) -> Option<WorkerClient> {
        let fleet = self.hives.fleet();
        let mut workers = fleet.reachable_workers();
        let (node, worker) =
            workers.find(|(_, worker)| worker.model_ref == model && worker.state.takes_requests())?;
        self.hives.worker_client(node, worker).ok()
    }
}
