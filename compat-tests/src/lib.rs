//! Real processes, started and watched for the tests.
//!
//! A test owns a [`Sandbox`]: a data directory, and the processes that work on it. However the test ends, the sandbox
//! leaves no process behind. [`Stack`] is a queen with her hive in such a sandbox.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what fails here fails the test that called it, and is shown with it"
)]

mod chat;
pub mod fakes;
mod processes;
mod raw;
mod sandbox;
mod stack;

pub use chat::{ChatStream, Sampled, chat_body};
pub use processes::{Process, ProcessId, Signal, kill, open_files};
pub use raw::{RawConnection, Received};
pub use sandbox::{EMBEDDING_MODEL, MODEL, Sandbox};
pub use stack::Stack;

use std::time::{Duration, Instant};

/// Asks again until there is an answer; a test that waits for long enough in vain has failed.
pub async fn eventually<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
