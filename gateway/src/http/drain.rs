//! The end of the queen's work: what runs goes on, what is new is refused, and the door closes when nothing runs.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::body;
use crate::inference::shutting_down;

/// What fits into a socket's buffer.
const WRITTEN_AT_ONCE_BYTES: u64 = 64 * 1024;

/// Counts what runs, and knows when there is to be no more of it.
#[derive(Clone)]
pub struct Drain {
    stop: CancellationToken,
    running: TaskTracker,
}

impl Drain {
    /// Refuses new requests once `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, running: TaskTracker::new() }
    }

    /// Returns when the queen was told to stop and the last answer is written.
    pub async fn done(&self) {
        self.stop.cancelled().await;
        self.running.close();
        self.running.wait().await;
    }
}

/// Lets requests pass until the queen is told to stop.
pub(super) async fn admit(
    drain: &Drain,
    request: Request,
    inside: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    // Counted first: who is let through is waited for.
    let running = drain.running.token();
    if drain.stop.is_cancelled() {
        return body::refuse(request, shutting_down()).await;
    }
    let response = inside(request).await;
    // A short body that is there already is written within the grace that connections have.
    if response.body().size_hint().exact().is_some_and(|bytes| bytes <= WRITTEN_AT_ONCE_BYTES) {
        return response;
    }
    response.map(|body| Body::new(Running { body, _running: running }))
}

/// A body that counts as running until it is dropped.
struct Running {
    body: Body,
    _running: TaskTrackerToken,
}

impl HttpBody for Running {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
