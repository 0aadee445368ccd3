//! queen-rbee: takes requests, decides who answers them, and relays the answers.
//!
//! `http` is the door, `inference` the path of one request, `scheduler` the queue and the slots, `hives` the machines,
//! `tasks` the jobs of /v2. ARCHITECTURE.md walks a request through them.

mod batches;
mod clock;
pub mod config;
pub mod database;
pub mod hives;
pub mod http;
mod inference;
mod responses;
mod run;
mod runtime_file;
pub mod scheduler;
pub mod store;
mod tasks;

pub use run::run;
