//! Typed clients for rbee's own HTTP interfaces: the queen's, a hive's and a worker's.
//!
//! A client is cheap to clone and shares its connections. Dropping a call, or the events it returned, closes the
//! connection under it, which the other side reads as a cancel.

pub mod gateway;
pub mod hive;
mod http;
mod http1;
mod sse;
pub mod transport;
pub mod worker;

pub use http::{Error, Events, HttpClient};
pub use sse::RawEvent;
