//! What every rbee daemon does the same way: read its settings, log, listen, check a token, answer errors in the one
//! envelope, and stop when it is told to or when its parent is gone. What a daemon is for stands in its own crate.

pub mod auth;
pub mod config;
pub mod descriptors;
mod driven;
pub mod http;
pub mod logging;
pub mod serve;
pub mod shutdown;
