//! What the queen tells of herself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::task::Priority;
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

/// Answer of GET /v2/queue: who waits for what, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// Requests that have a slot.
    pub running: u32,
    /// Requests that wait for one.
    pub waiting: u32,
    /// Requests that may wait, and MiB of their prompts.
    pub limit: QueueLimit,
    /// What waits in each band, the first to be served first.
    pub bands: Vec<BandView>,
    /// What waits for each model.
    pub models: Vec<QueuedModel>,
    /// Requests that were given to a second worker too.
    pub hedges: HedgeCounts,
    /// The tasks of /v2, which outlast this server.
    pub tasks: TaskCounts,
}

/// Requests that were given to a second worker, since the first had not begun to answer (`--hedge-after-ms`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HedgeCounts {
    /// In all, since the server's start.
    pub sent: u64,
    /// Of these, those that the second worker answered.
    pub won: u64,
}

/// How the tasks of /v2 stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskCounts {
    /// Tasks that have not ended, in all.
    pub unfinished: u64,
    /// Of these, those that this server has taken; they wait for a slot or have one.
    pub held: u64,
    /// Ends of tasks that came too late, since another server had taken them over, and were refused.
    pub fenced: u64,
}

/// What may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueLimit {
    /// Requests.
    pub requests: u64,
    /// Bytes of their prompts.
    pub bytes: u64,
}

/// One band of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BandView {
    /// Which.
    pub band: Priority,
    /// Requests that came with this priority and wait.
    pub waiting: u32,
    /// Bytes of their prompts.
    pub bytes: u64,
}

/// One model that requests wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueuedModel {
    /// Its name in the catalog.
    pub model: String,
    /// Requests that wait for it.
    pub waiting: u32,
    /// Workers that serve it.
    pub workers: u32,
    /// Their slots.
    pub slots_total: u32,
    /// Of these, those that are given out.
    pub slots_taken: u32,
    /// How long the longest has waited by now, in milliseconds.
    pub longest_wait_ms: u64,
    /// How long one would wait that came now, in milliseconds, if there is ground for an estimate.
    pub eta_ms: Option<u64>,
    /// Whether a worker for it is being started.
    pub is_starting: bool,
}
