//! Health, readiness, the load's progress, and the order to stop.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::Event as SseEvent;
use axum::response::{IntoResponse, Response};
use daemon::http::{Failure, Json, event_stream, sse_event};
use futures::{Stream, stream};
use protocol::worker::{Health, LoadProgress, Ready};
use protocol::{ApiError, ErrorCode, ErrorEnvelope};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use crate::lifecycle::{Phase, Status};
use crate::service::Service;

/// A load that makes no progress shows at least this often that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Tells who this is and how it does
#[utoipa::path(get, path = "/v1/health", responses((status = 200, description = "The answer", body = Health)))]
pub(super) async fn health(State(service): State<Arc<Service>>) -> Json<Health> {
    Json(service.health())
}

/// Tells whether requests are taken
#[utoipa::path(
    get,
    path = "/v1/ready",
    responses(
        (status = 200, description = "Requests are taken", body = Ready),
        (status = 503, description = "Loading or stopping, and why in the error", body = NotReady),
    )
)]
pub(super) async fn ready(State(service): State<Arc<Service>>) -> Response {
    let ready = service.ready();
    match service.lifecycle.status().refusal() {
        None => Json(ready).into_response(),
        Some(error) => (StatusCode::SERVICE_UNAVAILABLE, Json(NotReady { ready, error })).into_response(),
    }
}

/// The state and the error that a request would get now, so that both kinds of readers find what they look for.
#[derive(Debug, Serialize, ToSchema)]
struct NotReady {
    #[serde(flatten)]
    ready: Ready,
    error: ApiError,
}

/// Follows the load
#[utoipa::path(
    get,
    path = "/v1/loading/progress",
    responses((status = 200, description = "Server-sent events named progress: the state now, then each change; the \
        last is of stage ready or failed, unless the worker stops before.",
        body = LoadProgress, content_type = "text/event-stream"))
)]
pub(super) async fn loading_progress(State(service): State<Arc<Service>>) -> Response {
    event_stream(progress_events(service.lifecycle.watch()), KEEP_ALIVE)
}

/// How a worker is told to end.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct ShutdownQuery {
    /// Only if no slot is taken.
    #[serde(default)]
    if_idle: bool,
}

/// Ends the worker: running requests get an error event, the process exits with code 0
#[utoipa::path(
    post,
    path = "/v1/admin/shutdown",
    params(ShutdownQuery),
    responses(
        (status = 200, description = "The worker is stopping", body = Ready),
        (status = 503, description = "With `if_idle`: a slot is taken, and the worker goes on", body = ErrorEnvelope),
    )
)]
pub(super) async fn shutdown(
    State(service): State<Arc<Service>>,
    Query(query): Query<ShutdownQuery>,
) -> Result<Json<Ready>, Failure> {
    if query.if_idle && !service.slots().retire() {
        let message = "The worker is not idle, so it goes on.";
        return Err(ApiError::new(ErrorCode::AllSlotsBusy, message).into());
    }
    service.lifecycle.stopping();
    service.stop.cancel();
    Ok(Json(service.ready()))
}

fn progress_events(receiver: watch::Receiver<Status>) -> impl Stream<Item = SseEvent> {
    // Beside the receiver stands whether the state at hand is still to be told; without a receiver all is told.
    stream::unfold((Some(receiver), true), async |(receiver, tell_now)| {
        let mut receiver = receiver?;
        if !tell_now {
            receiver.changed().await.ok()?;
        }
        let status = receiver.borrow_and_update().clone();
        let goes_on = status.phase == Phase::Loading;
        Some((json_event("progress", &status.loading)?, (goes_on.then_some(receiver), false)))
    })
}

fn json_event<T: Serialize>(name: &str, data: &T) -> Option<SseEvent> {
    let json = serde_json::to_string(data);
    json.inspect_err(|error| tracing::error!(%error, "an event could not be written"))
        .ok()
        .map(|json| sse_event(name, None, &json))
}
