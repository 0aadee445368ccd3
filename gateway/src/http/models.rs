//! POST /v2/models/pull: fetch a model on a machine of the fleet.

use std::time::Duration;

use axum::response::Response;
use daemon::http::{Failure, Json, event_stream, sse_event};
use futures::{StreamExt, stream};
use protocol::hive::{DownloadEvent, DownloadRequest};
use protocol::queen::PullRequest;
use protocol::{ApiError, ErrorCode, ErrorEnvelope};

use super::State;

/// Fetch a model, or tell that it is there. The events are `progress` (protocol DownloadProgress), then one `done`
/// (ModelEntry) or one `error`.
#[utoipa::path(
    post, path = "/v2/models/pull", operation_id = "pull_model", tag = "models",
    request_body = PullRequest,
    responses(
        (status = 200, description = "Server-sent events", content_type = "text/event-stream"),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
    )
)]
pub(super) async fn pull(queen: State, Json(body): Json<PullRequest>) -> Result<Response, Failure> {
    let hives = &queen.inference.hives;
    let fleet = hives.fleet();
    let connected = || fleet.nodes().filter(|(_, node)| node.connected);
    let knows_it = connected().find(|(_, node)| node.models.contains_key(&body.model));
    let Some((node, _)) = knows_it.or_else(|| connected().next()) else {
        let error =
            ApiError::new(ErrorCode::HiveUnavailable, "No hive is connected that could fetch the model.");
        return Err(error.with_retry_after_ms(1000).into());
    };
    let request = DownloadRequest { reference: body.model, provider: None };
    let events = hives.download(node, &request).await?;
    let events = stream::unfold(Some(events), async |events| {
        let mut events = events?;
        let (event, rest) = match events.next().await {
            Ok(Some(event @ DownloadEvent::Progress(_))) => (event, Some(events)),
            Ok(Some(last)) => (last, None),
            Ok(None) | Err(_) => (DownloadEvent::Error(broken().into()), None),
        };
        let data = event.data().unwrap_or_default();
        Some((sse_event(event.name(), None, &data), rest))
    });
    let cut = queen.inference.cut.clone().cancelled_owned();
    Ok(event_stream(events.take_until(cut), Duration::from_secs(10)))
}

fn broken() -> ApiError {
    ApiError::new(ErrorCode::DownloadFailed, "The link to the hive broke during the download.")
}
