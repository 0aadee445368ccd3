//! The machines: what each hive last reported, and how to reach it.

mod fleet;
mod link;
mod local;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use client::hive::HiveClient;
use client::worker::WorkerClient;
use protocol::hive::{DownloadRequest, SpawnRequest, WorkerInfo};
use protocol::{ApiError, ErrorCode, WorkerId};
use tokio::sync::watch;

pub use fleet::{Fleet, Node, NodeName};
pub use link::Link;
pub use local::LocalHiveProcess;

/// A hive that went away is back within about this time, if it comes back.
const RETRY_AFTER_MS: u64 = 1000;

/// All hives. Each hive's link is the one writer of its part of the fleet.
#[derive(Clone, Default)]
pub struct Hives {
    fleet: watch::Sender<Fleet>,
    clients: Arc<Mutex<HashMap<NodeName, HiveClient>>>,
}

impl Hives {
    /// What all hives reported, and a signal at each change.
    pub fn watch(&self) -> watch::Receiver<Fleet> {
        self.fleet.subscribe()
    }

    /// What all hives reported by now.
    pub fn fleet(&self) -> Fleet {
        self.fleet.borrow().clone()
    }

    /// Starts a worker on this node; it comes back loading.
    pub async fn start_worker(
        &self,
        node: &NodeName,
        request: &SpawnRequest,
    ) -> Result<WorkerInfo, ApiError> {
        self.client(node)?.spawn_worker(request).await.map_err(|error| unreachable_hive(node, error))
    }

    /// Ends a worker of this node.
    pub async fn shutdown_worker(
        &self,
        node: &NodeName,
        id: &WorkerId,
    ) -> Result<serde_json::Value, ApiError> {
        self.client(node)?.shutdown_worker(id).await.map_err(|error| unreachable_hive(node, error))
    }

    /// Ends a worker of this node unless it has something to do.
    pub async fn shutdown_idle_worker(&self, node: &NodeName, id: &WorkerId) -> Result<(), ApiError> {
        let ending = self.client(node)?;
        ending.shutdown_idle_worker(id).await.map(drop).map_err(|error| unreachable_hive(node, error))
    }

    /// Fetches a model on this node.
    pub async fn download(
        &self,
        node: &NodeName,
        request: &DownloadRequest,
    ) -> Result<client::hive::DownloadEvents, ApiError> {
        self.client(node)?.download(request).await.map_err(|error| unreachable_hive(node, error))
    }

    /// A client for one worker of this node, by the same way that leads to its hive.
    pub fn worker_client(&self, node: &NodeName, worker: &WorkerInfo) -> Result<WorkerClient, ApiError> {
        let http = self.client(node)?.http().at(&worker.url);
        Ok(WorkerClient::new(http, &worker.id, &worker.boot_id))
    }

    fn client(&self, node: &NodeName) -> Result<HiveClient, ApiError> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.get(node).cloned().ok_or_else(|| {
            ApiError::new(ErrorCode::HiveUnavailable, format!("The hive on node '{node}' is not connected."))
        })
    }

    fn set_client(&self, node: &NodeName, client: HiveClient) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(node.clone(), client);
    }
}

fn unreachable_hive(node: &NodeName, error: client::Error) -> ApiError {
    tracing::warn!(%node, %error, "a call to a hive failed");
    let error = error
        .into_api_error(ErrorCode::HiveUnavailable, &format!("The hive on node '{node}' does not answer."));
    if error.code == ErrorCode::HiveUnavailable { error.with_retry_after_ms(RETRY_AFTER_MS) } else { error }
}
