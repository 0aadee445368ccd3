//! The wire: every type that crosses a process boundary has its one home here.
//!
//! Queen, hive, worker, keeper and outside clients all speak these types; nothing here does anything. The crate
//! imports serde and utoipa only. What a type means inside a process (validated, resolved, owned) is that process's
//! own affair: inner types are not serde.

/// Gives an enum of events its names and its two ways over the wire: `event:` holds the name, `data:` the content's JSON.
macro_rules! sse_events {
    ($type:ident { $($variant:ident => $name:literal),* $(,)? }) => {
        impl $type {
            /// The name that goes into the `event:` line.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name),* }
            }

            /// The JSON that goes into the `data:` line.
            pub fn data(&self) -> serde_json::Result<String> {
                match self { $(Self::$variant(data) => serde_json::to_string(data)),* }
            }

            /// Reads an event back; `None` for a name that a newer peer may send and we do not know.
            pub fn parse(name: &str, data: &str) -> serde_json::Result<Option<Self>> {
                Ok(Some(match name {
                    $($name => Self::$variant(serde_json::from_str(data)?),)*
                    _ => return Ok(None),
                }))
            }
        }
    };
}

pub mod anthropic;
pub mod config;
pub mod error;
pub mod events;
pub mod headers;
pub mod hive;
pub mod ids;
pub mod openai;
pub mod queen;
pub mod rerank;
pub mod routing;
pub mod task;
pub mod tokens;
pub mod vectors;
pub mod worker;

pub use error::{ApiError, ErrorCode, ErrorEnvelope};
pub use events::TaskEvent;
pub use ids::{BootId, JobId, WorkerId};
