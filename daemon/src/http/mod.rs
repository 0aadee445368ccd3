//! The HTTP manners that all daemons share: the error envelope, JSON bodies, request ids, event streams.

mod failure;
mod json;
mod layers;
mod path;
mod sse;

pub use failure::Failure;
pub use json::Json;
pub use layers::{RequestId, correlated, with_fallbacks, with_manners};
pub use path::Path;
pub use sse::{event_stream, sse_event};
