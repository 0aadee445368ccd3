//! /v1/events: everything that changes at this hive.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use daemon::http::{event_stream, sse_event};
use futures::StreamExt;
use protocol::headers;
use protocol::hive::HiveSnapshot;

use super::{App, KEEP_ALIVE};

/// Follows what changes
///
/// A snapshot comes first, then each change with its number as `id`. With `Last-Event-ID` the stream goes on after that
/// number; where that is not possible, because it is too old or of another run of the hive, a snapshot comes again. A
/// reader may also name the run that its number is of in `X-Rbee-Boot-Id`.
#[utoipa::path(
    get,
    path = "/v1/events",
    params(("last-event-id" = Option<u64>, Header, description = "The number of the last event seen")),
    responses((status = 200, description = "Server-sent events: snapshot, worker, worker_removed and model",
        body = HiveSnapshot, content_type = "text/event-stream"))
)]
pub(super) async fn events(State(app): State<App>, headers: HeaderMap) -> Response {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_ours = text(headers::BOOT_ID).is_none_or(|boot_id| boot_id == app.board.boot_id().as_str());
    let after = text(headers::LAST_EVENT_ID).filter(|_| is_ours).and_then(|number| number.parse().ok());
    let events = Arc::clone(&app.board)
        .follow(after)
        .filter_map(async |(number, event)| {
            Some(sse_event(event.name(), Some(&number.to_string()), &event.data().ok()?))
        })
        .take_until(app.closing.cancelled_owned());
    event_stream(events, KEEP_ALIVE)
}
