//! queen-rbee: takes requests, decides who answers them, and relays the answers.
//!
//! `http` is the door, `inference` the path of one request, `scheduler` the queue and the slots, `hives` the machines,
//! `tasks` the jobs of /v2, `routing` the scripts that decide. ARCHITECTURE.md walks a request through them.

mod batches;
mod breaker;
mod clock;
pub mod config;
pub mod database;
pub mod hives;
pub mod http;
mod inference;
mod pauses;
mod responses;
pub mod routing;
mod run;
mod runtime_file;
pub mod scheduler;
pub mod store;
mod tasks;

pub use run::run;

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
