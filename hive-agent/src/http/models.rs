//! /v1/models: list and download.

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use daemon::http::{Failure, Json, event_stream, sse_event};
use futures::{Stream, StreamExt, stream};
use protocol::ErrorEnvelope;
use protocol::hive::{DownloadEvent, DownloadProgress, DownloadRequest, ModelList};
use tokio_stream::wrappers::BroadcastStream;

use super::{App, KEEP_ALIVE};

/// Lists the models that this hive has or knows how to fetch
#[utoipa::path(get, operation_id = "list_models", path = "/v1/models/list", responses((status = 200, description = "The answer", body = ModelList)))]
pub(super) async fn list(State(app): State<App>) -> Json<ModelList> {
    Json(ModelList { models: app.board.models() })
}

/// Fetches a model
///
/// Requests for one model share one download. It goes on for as long as one of them is connected.
#[utoipa::path(
    post, operation_id = "download_model",
    path = "/v1/models/download",
    request_body = DownloadRequest,
    responses(
        (status = 200, description = "Server-sent events: progress, then one done or one error",
            body = DownloadProgress, content_type = "text/event-stream"),
        (status = 400, description = "The provider cannot be used", body = ErrorEnvelope),
        (status = 404, description = "No such model", body = ErrorEnvelope),
    )
)]
pub(super) async fn download(
    State(app): State<App>,
    Json(request): Json<DownloadRequest>,
) -> Result<Response, Failure> {
    let model = app.catalog.resolve(&request.reference, request.provider).await?;
    let download = app.catalog.fetch(&model).await?;
    let events = stream::unfold(download, async |mut download| Some((download.next().await?, download)));
    Ok(event_stream(until_closing(&app, events), KEEP_ALIVE))
}

/// Follows all downloads
///
/// The stream tells where each stands, then goes on with whatever is fetched. An error's details name its reference.
#[utoipa::path(
    get,
    path = "/v1/models/download/progress",
    responses((status = 200, description = "Server-sent events: progress, done and error of all downloads",
        body = DownloadProgress, content_type = "text/event-stream"))
)]
pub(super) async fn download_progress(State(app): State<App>) -> Response {
    let (now, changes) = app.catalog.downloads().feed();
    // A reader that is too slow misses progress that is outdated; what became of the models is told by /v1/events.
    let changes = BroadcastStream::new(changes).filter_map(async |event| event.ok());
    event_stream(until_closing(&app, stream::iter(now).chain(changes)), KEEP_ALIVE)
}

fn until_closing<S>(app: &App, events: S) -> impl Stream<Item = Event> + Send + use<S>
where
    S: Stream<Item = DownloadEvent> + Send + 'static,
{
    events
        .filter_map(async |event| Some(sse_event(event.name(), None, &event.data().ok()?)))
        .take_until(app.closing.clone().cancelled_owned())
}
