//! The whole system through its real door: real programs, real sockets, a real model.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test tells by failing, and its name tells what it is about"
)]

mod batch;
mod crash;
mod disconnect;
mod durable;
mod hedge;
mod keeper;
mod leaks;
mod outage;
mod queens;
mod relay;
mod requests;
mod routing;
mod shutdown;
