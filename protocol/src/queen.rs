//! What the queen tells of herself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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

/// Body of POST /v2/models/pull; the answer is a stream of [`crate::hive::DownloadEvent`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PullRequest {
    /// The model's name, or `file:/path/to/model.gguf`.
    pub model: String,
}
