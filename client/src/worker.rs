//! A worker's HTTP interface.

use http::HeaderName;
use protocol::tokens::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};
use protocol::vectors::{EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse};
use protocol::worker::{CancelRequest, CancelResponse, ExecuteRequest, Health, LoadProgress};
use protocol::{BootId, TaskEvent, WorkerId, headers};

use crate::{Error, Events, HttpClient};

/// A client for one run of one worker: a different process on the same port answers 409.
#[derive(Debug, Clone)]
pub struct WorkerClient(HttpClient);

impl WorkerClient {
    /// `http` has the worker's base URL.
    pub fn new(http: HttpClient, worker_id: &WorkerId, boot_id: &BootId) -> Self {
        Self(
            http.with_header(&HeaderName::from_static(headers::WORKER_ID), worker_id.as_str())
                .with_header(&HeaderName::from_static(headers::BOOT_ID), boot_id.as_str()),
        )
    }

    /// Runs a request; dropping what comes back cancels it.
    pub async fn execute(&self, request: &ExecuteRequest, correlation_id: &str) -> Result<TaskEvents, Error> {
        let headers = [(HeaderName::from_static(headers::REQUEST_ID), correlation_id.to_owned())];
        self.0.post_events("/v1/execute", request, &headers).await.map(TaskEvents)
    }

    /// Makes vectors of texts; dropping the future cancels it.
    pub async fn embed(&self, request: &EmbedRequest, correlation_id: &str) -> Result<EmbedResponse, Error> {
        let headers = [(HeaderName::from_static(headers::REQUEST_ID), correlation_id.to_owned())];
        self.0.post_with("/v1/embed", request, &headers).await
    }

    /// Tells how relevant documents are to a query; dropping the future cancels it.
    pub async fn score(&self, request: &ScoreRequest, correlation_id: &str) -> Result<ScoreResponse, Error> {
        let headers = [(HeaderName::from_static(headers::REQUEST_ID), correlation_id.to_owned())];
        self.0.post_with("/v1/rerank", request, &headers).await
    }

    /// Tells the tokens of a prompt. It takes no slot.
    pub async fn tokenize(
        &self,
        request: &TokenizeRequest,
        correlation_id: &str,
    ) -> Result<TokenizeResponse, Error> {
        let headers = [(HeaderName::from_static(headers::REQUEST_ID), correlation_id.to_owned())];
        self.0.post_with("/v1/tokenize", request, &headers).await
    }

    /// Tells the text of tokens. It takes no slot.
    pub async fn detokenize(
        &self,
        request: &DetokenizeRequest,
        correlation_id: &str,
    ) -> Result<DetokenizeResponse, Error> {
        let headers = [(HeaderName::from_static(headers::REQUEST_ID), correlation_id.to_owned())];
        self.0.post_with("/v1/detokenize", request, &headers).await
    }

    /// Ends a running execution.
    pub async fn cancel(&self, request_id: &str) -> Result<CancelResponse, Error> {
        self.0.post("/v1/cancel", &CancelRequest { request_id: request_id.to_owned() }).await
    }

    /// How the worker is.
    pub async fn health(&self) -> Result<Health, Error> {
        self.0.get("/v1/health").await
    }

    /// How its load goes, until it is ready or failed.
    pub async fn loading_progress(&self) -> Result<LoadEvents, Error> {
        self.0.get_events("/v1/loading/progress", &[]).await.map(LoadEvents)
    }

    /// Tells it to end, whatever runs.
    pub async fn shutdown(&self) -> Result<serde_json::Value, Error> {
        self.0.post("/v1/admin/shutdown", &serde_json::json!({})).await
    }

    /// Tells it to end unless a slot is taken; one that is busy answers with an error that is an `ALL_SLOTS_BUSY`.
    pub async fn shutdown_if_idle(&self) -> Result<serde_json::Value, Error> {
        self.0.post("/v1/admin/shutdown?if_idle=true", &serde_json::json!({})).await
    }
}

/// The events of one execution, or of one task.
#[derive(Debug)]
pub struct TaskEvents(pub(crate) Events);

impl TaskEvents {
    /// The next event. The stream may end without a last event only if the sender died.
    pub async fn next(&mut self) -> Result<Option<TaskEvent>, Error> {
        Ok(self.0.next_as(TaskEvent::parse).await?.map(|(event, _)| event))
    }
}

/// The stages of a load.
#[derive(Debug)]
pub struct LoadEvents(Events);

impl LoadEvents {
    /// The next stage; `None` after ready or failed, or when the worker died.
    pub async fn next(&mut self) -> Result<Option<LoadProgress>, Error> {
        let parse = |_: &str, data: &str| serde_json::from_str(data).map(Some);
        Ok(self.0.next_as(parse).await?.map(|(progress, _)| progress))
    }
}
