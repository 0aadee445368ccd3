//! When a daemon stops: on SIGTERM or SIGINT, and, if asked to, when its parent is gone.
//!
//! A parent that wants its child to end with it keeps the write end of the child's standard input open and never
//! writes. However the parent ends, the kernel closes the pipe, and the child reads the end of the file.

use std::io::Read;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Whether standard input is the parent's lifeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The daemon stands on its own.
    None,
    /// The daemon ends when standard input does.
    HoldsStdin,
}

/// Starts watching; the token is cancelled once, at the first cause. A second signal ends the process at once.
pub fn watch(parent: Parent) -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => (15, "SIGTERM"),
                _ = interrupt.recv() => (2, "SIGINT"),
            }
        };
        let (_, name) = next().await;
        tracing::info!(signal = name, "stopping");
        stop.cancel();
        let (number, name) = next().await;
        tracing::warn!(signal = name, "told to stop a second time: ending at once");
        std::process::exit(128 + number);
    });
    if parent == Parent::HoldsStdin {
        let stop = token.clone();
        // A thread of its own, since a runtime waits at its end for a read that it started itself.
        std::thread::Builder::new().name("parent-watch".to_owned()).spawn(move || {
            let mut ignored = [0_u8; 64];
            while matches!(std::io::stdin().read(&mut ignored), Ok(read) if read > 0) {}
            stop.cancel();
            tracing::info!("the parent process is gone, stopping");
        })?;
    }
    Ok(token)
}
