//! What the queue tells of itself.

use std::time::Duration;

use protocol::task::Priority;

use super::policy::Why;

/// Why a request went where it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Why this worker.
    pub why: Why,
    /// Workers that had a free slot, and all that served the model.
    pub free: u32,
    /// All that served the model.
    pub serving: u32,
    /// Tokens that the worker had yet to do.
    pub outstanding: u64,
    /// How long the request waited for it.
    pub waited: Duration,
}

/// The queue at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueView {
    /// What waits, by band.
    pub bands: Vec<BandView>,
    /// What waits, by model.
    pub models: Vec<ModelView>,
    /// Slots that are given out.
    pub running: u32,
}

/// One band.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct BandView {
    pub band: Priority,
    pub waiting: u32,
    pub bytes: u64,
}

/// One model that requests wait for.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ModelView {
    pub model: String,
    pub waiting: u32,
    /// Workers that serve it.
    pub workers: u32,
    pub slots_total: u32,
    pub slots_taken: u32,
    pub longest_wait: Option<Duration>,
    /// How long one would wait that came now.
    pub eta: Option<Duration>,
    pub is_starting: bool,
}
