//! The queen's HTTP interface, as the keeper uses it.

use http::HeaderName;
use protocol::hive::WorkerList;
use protocol::openai::models::ModelList;
use protocol::queen::{PullRequest, QueenHealth, QueueView};
use protocol::routing::{
    Replay, ReplayRequest, RoutingDecision, RoutingDecisions, RoutingView, SimulateRequest, ValidateRequest,
    Validated,
};
use protocol::task::{JobDecision, TaskAccepted, TaskList, TaskPreview, TaskRequest, TaskView};
use protocol::{JobId, headers};

use crate::hive::DownloadEvents;
use crate::worker::TaskEvents;
use crate::{Error, HttpClient};

/// A client for one queen.
#[derive(Debug, Clone)]
pub struct GatewayClient(HttpClient);

impl GatewayClient {
    /// `http` has the queen's base URL and token.
    pub fn new(http: HttpClient) -> Self {
        Self(http)
    }

    /// How she is.
    pub async fn health(&self) -> Result<QueenHealth, Error> {
        self.0.get("/health").await
    }

    /// All models, of all hives.
    pub async fn models(&self) -> Result<ModelList, Error> {
        self.0.get("/v1/models").await
    }

    /// Fetches a model; the events end with done or error.
    pub async fn pull(&self, model: &str) -> Result<DownloadEvents, Error> {
        let request = PullRequest { model: model.to_owned() };
        self.0.post_events("/v2/models/pull", &request, &[]).await.map(DownloadEvents)
    }

    /// All workers, of all hives.
    pub async fn workers(&self) -> Result<WorkerList, Error> {
        self.0.get("/v2/workers/list").await
    }

    /// Submits a task.
    pub async fn submit(&self, request: &TaskRequest) -> Result<TaskAccepted, Error> {
        self.0.post("/v2/tasks", request).await
    }

    /// The same; the same task under the same key is one task, however often it is submitted.
    pub async fn submit_once(&self, request: &TaskRequest, key: &str) -> Result<TaskAccepted, Error> {
        let name = HeaderName::from_static(headers::IDEMPOTENCY_KEY);
        self.0.clone().with_header(&name, key).post("/v2/tasks", request).await
    }

    /// How a task stands.
    pub async fn task(&self, job_id: &JobId) -> Result<TaskView, Error> {
        self.0.get(&format!("/v2/tasks/{job_id}")).await
    }

    /// What would come of a task now; nothing is queued.
    pub async fn preview(&self, request: &TaskRequest) -> Result<TaskPreview, Error> {
        self.0.post("/v2/tasks/preview", request).await
    }

    /// The caller's tasks, the newest first; `query` is what stands behind the question mark.
    pub async fn tasks(&self, query: &str) -> Result<TaskList, Error> {
        self.0.get(&format!("/v2/tasks?{query}")).await
    }

    /// Who waits for what, and for how long.
    pub async fn queue(&self) -> Result<QueueView, Error> {
        self.0.get("/v2/queue").await
    }

    /// Why a task went where it went.
    pub async fn decision(&self, job_id: &JobId) -> Result<JobDecision, Error> {
        self.0.get(&format!("/v2/decisions/{job_id}")).await
    }

    /// How the routing script stands.
    pub async fn routing(&self) -> Result<RoutingView, Error> {
        self.0.get("/v2/routing").await
    }

    /// What the routing script decided lately.
    pub async fn routing_decisions(&self) -> Result<RoutingDecisions, Error> {
        self.0.get("/v2/routing/decisions").await
    }

    /// What the routing script decided about one request or task.
    pub async fn routing_decision(&self, id: &str) -> Result<RoutingDecision, Error> {
        self.0.get(&format!("/v2/routing/decisions/{id}")).await
    }

    /// Whether a routing script is valid.
    pub async fn validate_routing(&self, request: &ValidateRequest) -> Result<Validated, Error> {
        self.0.post("/v2/routing/validate", request).await
    }

    /// What a routing script would decide.
    pub async fn simulate_routing(&self, request: &SimulateRequest) -> Result<RoutingDecision, Error> {
        self.0.post("/v2/routing/simulate", request).await
    }

    /// What a routing script would have decided for the latest requests.
    pub async fn replay_routing(&self, request: &ReplayRequest) -> Result<Replay, Error> {
        self.0.post("/v2/routing/replay", request).await
    }

    /// A task's events from its first; they end with end or error.
    pub async fn task_events(&self, job_id: &JobId) -> Result<TaskEvents, Error> {
        self.0.get_events(&format!("/v2/tasks/{job_id}/events"), &[]).await.map(TaskEvents)
    }

    /// Ends a task; ending an ended one is no error.
    pub async fn cancel(&self, job_id: &JobId) -> Result<TaskView, Error> {
        self.0.post(&format!("/v2/tasks/{job_id}/cancel"), &serde_json::json!({})).await
    }
}
