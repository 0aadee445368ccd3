//! Why a request went where it went.

use std::time::Duration;

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
