//! A hive's HTTP interface.

use http::HeaderName;
use protocol::hive::{
    DownloadEvent, DownloadRequest, HiveEvent, HiveHealth, ModelList, SpawnRequest, SpawnResponse,
    WorkerInfo, WorkerList, WorkerReady, WorkerShutdown,
};
use protocol::{WorkerId, headers};

use crate::{Error, Events, HttpClient};

/// A client for one hive.
#[derive(Debug, Clone)]
pub struct HiveClient(HttpClient);

impl HiveClient {
    /// `http` has the hive's base URL and token.
    pub fn new(http: HttpClient) -> Self {
        Self(http)
    }

    /// The connections under this client, for reaching the hive's workers the same way.
    pub fn http(&self) -> &HttpClient {
        &self.0
    }

    /// How the hive is.
    pub async fn health(&self) -> Result<HiveHealth, Error> {
        self.0.get("/health").await
    }

    /// Starts a worker; it comes back loading.
    pub async fn spawn_worker(&self, request: &SpawnRequest) -> Result<WorkerInfo, Error> {
        let response: SpawnResponse = self.0.post("/v1/workers/spawn", request).await?;
        Ok(response.worker)
    }

    /// All workers.
    pub async fn workers(&self) -> Result<WorkerList, Error> {
        self.0.get("/v1/workers/list").await
    }

    /// Ends a worker.
    pub async fn shutdown_worker(&self, worker_id: &WorkerId) -> Result<serde_json::Value, Error> {
        let order = WorkerShutdown { worker_id: worker_id.clone(), if_idle: false };
        self.0.post("/v1/workers/shutdown", &order).await
    }

    /// Ends a worker unless it has something to do, which is an error that is an `ALL_SLOTS_BUSY`.
    pub async fn shutdown_idle_worker(&self, worker_id: &WorkerId) -> Result<serde_json::Value, Error> {
        let order = WorkerShutdown { worker_id: worker_id.clone(), if_idle: true };
        self.0.post("/v1/workers/shutdown", &order).await
    }

    /// A worker's word to its hive that it listens.
    pub async fn report_ready(&self, ready: &WorkerReady) -> Result<serde_json::Value, Error> {
        self.0.post("/v1/workers/ready", ready).await
    }

    /// All models.
    pub async fn models(&self) -> Result<ModelList, Error> {
        self.0.get("/v1/models/list").await
    }

    /// Fetches a model; the events end with done or error.
    pub async fn download(&self, request: &DownloadRequest) -> Result<DownloadEvents, Error> {
        self.0.post_events("/v1/models/download", request, &[]).await.map(DownloadEvents)
    }

    /// What changes at the hive, after the event of this number; a snapshot comes first where there is a gap.
    pub async fn events(&self, last_event_id: Option<&str>) -> Result<HiveEvents, Error> {
        let headers =
            last_event_id.map(|id| (HeaderName::from_static(headers::LAST_EVENT_ID), id.to_owned()));
        self.0.get_events("/v1/events", headers.as_slice()).await.map(HiveEvents)
    }
}

/// What changes at a hive.
#[derive(Debug)]
pub struct HiveEvents(Events);

impl HiveEvents {
    /// The next change and its number.
    pub async fn next(&mut self) -> Result<Option<(HiveEvent, Option<String>)>, Error> {
        self.0.next_as(HiveEvent::parse).await
    }
}

/// How a download goes.
#[derive(Debug)]
pub struct DownloadEvents(pub(crate) Events);

impl DownloadEvents {
    /// The next event.
    pub async fn next(&mut self) -> Result<Option<DownloadEvent>, Error> {
        Ok(self.0.next_as(DownloadEvent::parse).await?.map(|(event, _)| event))
    }
}
