//! The real rbee-hive program, driven through its HTTP and its command line, with a fake worker and pip fed from a folder.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as its tests do"
)]

mod models;
mod rig;
mod workers;
