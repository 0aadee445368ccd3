//! Health, readiness, the load's progress, and the order to stop.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::Event as SseEvent;
use axum::response::{IntoResponse, Response};
use daemon::http::{Json, event_stream, sse_event};
use futures::{Stream, stream};
use protocol::ErrorEnvelope;
use protocol::worker::{Health, LoadProgress, Ready};
use serde::Serialize;
use tokio::sync::watch;

use crate::lifecycle::{Phase, Status};
use crate::service::Service;

/// A load that makes no progress shows at least this often that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Tells who this is and how it does
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = Health)))]
pub(super) async fn health(State(service): State<Arc<Service>>) -> Json<Health> {
    Json(service.health())
}

/// Tells whether requests are taken
#[utoipa::path(
    get,
    path = "/v1/ready",
    responses(
        (status = 200, description = "Requests are taken", body = Ready),
        (status = 503, description = "Loading or stopping", body = Ready),
    )
)]
pub(super) async fn ready(State(service): State<Arc<Service>>) -> Response {
    let ready = service.ready();
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}

/// Follows the load
#[utoipa::path(
    get,
    path = "/v1/loading/progress",
    responses((status = 200, description = "Server-sent events named progress: the state now, then each change; the \
        last is of stage ready or failed. After failed comes one event named error.",
        body = LoadProgress, content_type = "text/event-stream"))
)]
pub(super) async fn loading_progress(State(service): State<Arc<Service>>) -> Response {
    event_stream(progress_events(service.lifecycle.watch()), KEEP_ALIVE)
}

/// Ends the worker: running requests get an error event, the process exits with code 0
#[utoipa::path(
    post,
    path = "/v1/admin/shutdown",
    responses((status = 200, description = "The worker is stopping", body = Ready))
)]
pub(super) async fn shutdown(State(service): State<Arc<Service>>) -> Json<Ready> {
    service.lifecycle.stopping();
    service.stop.cancel();
    Json(service.ready())
}

/// Where a reader of the load's progress stands.
enum Follow {
    /// The state now is yet to be told.
    Now(watch::Receiver<Status>),
    /// The next change is yet to be told.
    Next(watch::Receiver<Status>),
    /// One error is yet to be told.
    Error(ErrorEnvelope),
    /// Nothing is.
    Over,
}

fn progress_events(receiver: watch::Receiver<Status>) -> impl Stream<Item = SseEvent> {
    stream::unfold(Follow::Now(receiver), async |follow| {
        let mut receiver = match follow {
            Follow::Now(receiver) => receiver,
            Follow::Next(mut receiver) => {
                receiver.changed().await.ok()?;
                receiver
            }
            Follow::Error(error) => return Some((json_event("error", &error)?, Follow::Over)),
            Follow::Over => return None,
        };
        let status = receiver.borrow_and_update().clone();
        let next = match status.phase {
            Phase::Loading => Follow::Next(receiver),
            Phase::Failed(error) => Follow::Error(error.into()),
            Phase::Serving | Phase::Stopping => Follow::Over,
        };
        Some((json_event("progress", &status.loading)?, next))
    })
}

fn json_event<T: Serialize>(name: &str, data: &T) -> Option<SseEvent> {
    let json = serde_json::to_string(data);
    json.inspect_err(|error| tracing::error!(%error, "an event could not be written"))
        .ok()
        .map(|json| sse_event(name, None, &json))
}
