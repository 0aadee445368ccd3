//! /v2/tasks: submit, look, follow, cancel.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use daemon::http::{Failure, Json, Path, event_stream, sse_event};
use futures::StreamExt;
use protocol::config::DEFAULT_CHAT_MODEL;
use protocol::task::{TaskAccepted, TaskRequest, TaskStatus, TaskView};
use protocol::{ErrorEnvelope, JobId, headers};

use super::State;
use super::asking::Asking;
use crate::inference::task_request;

/// Submit a task. It is queued at once and runs whether or not anyone reads its events. The same body under the same
/// Idempotency-Key is the same task.
#[utoipa::path(
    post, path = "/v2/tasks", operation_id = "submit_task", tag = "tasks",
    request_body = TaskRequest,
    responses(
        (status = 202, description = "Accepted", body = TaskAccepted),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
        (status = 429, description = "The queue is full", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
    )
)]
pub(super) async fn submit(
    queen: State,
    asking: Asking,
    Json(body): Json<TaskRequest>,
) -> Result<(StatusCode, Json<TaskAccepted>), Failure> {
    let request = task_request(body, queen.inference.names.default_model().unwrap_or(DEFAULT_CHAT_MODEL))?;
    let priority = request.priority;
    let run = queen.inference.run(request, &asking.asker)?;
    let queue_position = run.queue_position();
    let job = queen.jobs.submit(run, priority);
    let accepted = TaskAccepted {
        job_id: job.id().clone(),
        status: TaskStatus::Queued,
        queue_position,
        eta_ms: None,
        events_url: format!("/v2/tasks/{}/events", job.id()),
    };
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// How a task stands.
#[utoipa::path(
    get, path = "/v2/tasks/{job_id}", operation_id = "get_task", tag = "tasks",
    params(("job_id" = String, Path)),
    responses(
        (status = 200, description = "The answer", body = TaskView),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(super) async fn get(queen: State, Path(job_id): Path<JobId>) -> Result<Json<TaskView>, Failure> {
    Ok(Json(queen.jobs.get(&job_id)?.view()))
}

/// Cancel a task. Cancelling one that has ended changes nothing.
#[utoipa::path(
    post, path = "/v2/tasks/{job_id}/cancel", operation_id = "cancel_task", tag = "tasks",
    params(("job_id" = String, Path)),
    responses(
        (status = 200, description = "The answer", body = TaskView),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(super) async fn cancel(queen: State, Path(job_id): Path<JobId>) -> Result<Json<TaskView>, Failure> {
    let job = queen.jobs.get(&job_id)?;
    job.cancel().await;
    Ok(Json(job.view()))
}

/// The same as POST /v2/tasks/{job_id}/cancel.
#[utoipa::path(
    delete, path = "/v2/tasks/{job_id}", operation_id = "delete_task", tag = "tasks",
    params(("job_id" = String, Path)),
    responses(
        (status = 200, description = "The answer", body = TaskView),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(super) async fn delete(queen: State, path: Path<JobId>) -> Result<Json<TaskView>, Failure> {
    cancel(queen, path).await
}

/// A task's events: `queued`, `narration`, `started`, `token`, then one `end` or one `error`. They begin with the first,
/// or after the one that Last-Event-ID names; many readers may follow one task.
#[utoipa::path(
    get, path = "/v2/tasks/{job_id}/events", operation_id = "task_events", tag = "tasks",
    params(("job_id" = String, Path), ("last-event-id" = Option<u64>, Header)),
    responses(
        (status = 200, description = "Server-sent events", content_type = "text/event-stream"),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(super) async fn events(
    queen: State,
    Path(job_id): Path<JobId>,
    request_headers: HeaderMap,
) -> Result<Response, Failure> {
    let job = queen.jobs.get(&job_id)?;
    let last_seen = request_headers
        .get(headers::LAST_EVENT_ID)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let from = last_seen.map_or(0, |last_seen| last_seen.saturating_add(1));
    let events = job
        .events(from)
        .map(|(id, event)| sse_event(event.name(), Some(id), &event.data().unwrap_or_default()));
    Ok(event_stream(events, Duration::from_secs(10)))
}
