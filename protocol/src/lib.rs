//! The wire: every type that crosses a process boundary has its one home here.
//!
//! Queen, hive, worker, keeper and outside clients all speak these types; nothing here does anything. The crate
//! imports serde and utoipa only. What a type means inside a process (validated, resolved, owned) is that process's
//! own affair: inner types are not serde.

pub mod config;
pub mod error;
pub mod events;
pub mod headers;
pub mod hive;
pub mod ids;
pub mod openai;
pub mod queen;
pub mod task;
pub mod worker;

pub use error::{ApiError, ErrorCode, ErrorEnvelope};
pub use events::TaskEvent;
pub use ids::{BootId, JobId, WorkerId};
