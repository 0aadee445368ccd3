//! What the queen tells of herself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::worker::WorkerState;
use crate::{ApiError, WorkerId};

/// Answer of the queen's GET /health: 200 as long as she takes requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueenHealth {
    /// "healthy", or "draining" once she was told to stop. No workers is healthy: they start on demand.
    pub status: String,
    /// Her version.
    pub version: String,
    /// Her process id.
    pub pid: u32,
    /// Workers known.
    pub workers_total: u32,
    /// Workers that take requests.
    pub workers_healthy: u32,
    /// Hives connected.
    pub hives_connected: u32,
    /// Requests that wait for a slot.
    pub queue_depth: u32,
    /// Seconds since she started.
    pub uptime_seconds: u64,
}

/// Content of DATA_DIR/queen.json, which is there while a queen runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueenFile {
    /// Her process id.
    pub pid: u32,
    /// Where this machine's own clients reach her.
    pub url: String,
    /// Milliseconds since 1970.
    pub started_at_ms: u64,
}

/// Body of POST /v2/models/pull; the answer is a stream of [`crate::hive::DownloadEvent`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PullRequest {
    /// The model's name, or `file:/path/to/model.gguf`.
    pub model: String,
}

/// Answer of GET /v2/workers/health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkersHealth {
    /// All workers, those that failed included.
    pub workers: Vec<WorkerHealth>,
}

/// Whether one worker takes requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerHealth {
    /// Which worker.
    pub id: WorkerId,
    /// Whether it takes requests.
    pub healthy: bool,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Why it is not running, if it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}
