//! /v2/tasks: submit, preview, list, look, follow, cancel.

use std::time::Duration;

use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use daemon::http::{Failure, Json, Path, event_stream, sse_event};
use futures::StreamExt;
use protocol::task::{TaskAccepted, TaskList, TaskPreview, TaskRequest, TaskStatus, TaskSummary, TaskView};
use protocol::{ApiError, ErrorEnvelope, JobId, headers};

use super::State;
use super::asking::Asking;
use super::idempotency;
use super::page::{self, Parameters, parameter};
use crate::store::Order;
use crate::tasks::{EventId, Filter, IsNew};

/// Submit a task. It is on disk when it is answered, and runs whether or not anyone reads its events, and whether or not
/// the server is started anew meanwhile. The same body under the same Idempotency-Key is the same task.
#[utoipa::path(
    post, path = "/v2/tasks", operation_id = "submit_task", tag = "tasks",
    params(("idempotency-key" = Option<String>, Header, description = "1 to 255 bytes")),
    request_body = TaskRequest,
    responses(
        (status = 202, description = "Accepted", body = TaskAccepted),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
        (status = 409, description = "The key was used for another body", body = ErrorEnvelope),
        (status = 429, description = "The queue is full", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
    )
)]
pub(super) async fn submit(
    queen: State,
    asking: Asking,
    request_headers: HeaderMap,
    Json(body): Json<TaskRequest>,
) -> Result<Response, Failure> {
    let key = idempotency::durable_key(&request_headers, &body)?;
    let submitted = queen.jobs.submit(body, &asking.asker, key).await?;
    let accepted = TaskAccepted {
        events_url: format!("/v2/tasks/{}/events", submitted.job_id),
        job_id: submitted.job_id,
        status: TaskStatus::Queued,
        queue_position: submitted.position,
        eta_ms: submitted.eta.map(|eta| eta.as_millis() as u64),
    };
    let mut response = (StatusCode::ACCEPTED, Json(accepted)).into_response();
    if submitted.is_new == IsNew::No {
        idempotency::mark_replayed(&mut response);
    }
    Ok(response)
}

/// Tell what would come of a task now: whether it can be served, where or what it would wait for, and how long. Nothing is
/// queued.
#[utoipa::path(
    post, path = "/v2/tasks/preview", operation_id = "preview_task", tag = "tasks",
    request_body = TaskRequest,
    responses(
        (status = 200, description = "The answer, be the task feasible or not", body = TaskPreview),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
    )
)]
pub(super) async fn preview(
    queen: State,
    asking: Asking,
    Json(body): Json<TaskRequest>,
) -> Result<Json<TaskPreview>, Failure> {
    Ok(Json(queen.jobs.preview(body, &asking.asker)?))
}

/// The caller's own tasks, the newest first.
#[utoipa::path(
    get, path = "/v2/tasks", operation_id = "list_tasks", tag = "tasks",
    params(
        ("status" = Option<TaskStatus>, Query, description = "Only tasks that stand so"),
        ("model" = Option<String>, Query, description = "Only tasks for this model"),
        ("limit" = Option<usize>, Query, description = "1 to 100; 20 if absent. With `status`, a page may be shorter though there are more"),
        ("order" = Option<String>, Query, description = "`desc` (newest first, the default) or `asc`"),
        ("after" = Option<String>, Query, description = "The id of the task after which the page begins"),
    ),
    responses(
        (status = 200, description = "The answer", body = TaskList),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
    )
)]
pub(super) async fn list(
    queen: State,
    asking: Asking,
    parameters: Query<Vec<(String, String)>>,
) -> Result<Json<TaskList>, Failure> {
    let filter = filter(&parameters)?;
    let page = page::page(&parameters, Order::NewestFirst)?;
    let paged = queen.jobs.list(&asking.asker.caller, &filter, &page).await?;
    let paged = paged.ok_or_else(page::no_such_beginning)?;
    let tasks: Vec<TaskSummary> = paged.entries;
    Ok(Json(TaskList { tasks, has_more: paged.has_more }))
}

fn filter(parameters: &Parameters) -> Result<Filter, ApiError> {
    let status = parameter(parameters, "status").map(|status| {
        serde_json::from_value(status.into()).map_err(|_| {
            let known = "queued, dispatched, running, completed, failed or cancelled";
            ApiError::invalid("status", format!("'status' must be {known}."))
        })
    });
    Ok(Filter { status: status.transpose()?, model: parameter(parameters, "model").map(str::to_owned) })
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
pub(super) async fn get(
    queen: State,
    asking: Asking,
    Path(job_id): Path<JobId>,
) -> Result<Json<TaskView>, Failure> {
    Ok(Json(queen.jobs.view(&asking.asker.caller, &job_id).await?))
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
pub(super) async fn cancel(
    queen: State,
    asking: Asking,
    Path(job_id): Path<JobId>,
) -> Result<Json<TaskView>, Failure> {
    Ok(Json(queen.jobs.cancel(&asking.asker.caller, &job_id).await?))
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
pub(super) async fn delete(
    queen: State,
    asking: Asking,
    path: Path<JobId>,
) -> Result<Json<TaskView>, Failure> {
    cancel(queen, asking, path).await
}

/// A task's events: `queued`, `narration`, `started`, `token` (for vectors one `result`), then one `end` or one `error`. They begin with the first,
/// or after the one that Last-Event-ID names; many readers may follow one task. Events without an id tell how the task
/// waits, and are not told again. A second `started` means that another attempt was begun, and that what came before
/// it is void; its tokens are the same where the machine is of the same kind.
#[utoipa::path(
    get, path = "/v2/tasks/{job_id}/events", operation_id = "task_events", tag = "tasks",
    params(("job_id" = String, Path), ("last-event-id" = Option<String>, Header, description = "The id that was seen last")),
    responses(
        (status = 200, description = "Server-sent events", content_type = "text/event-stream"),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(super) async fn events(
    queen: State,
    asking: Asking,
    Path(job_id): Path<JobId>,
    request_headers: HeaderMap,
) -> Result<Response, Failure> {
    let last_seen = request_headers
        .get(headers::LAST_EVENT_ID)
        .and_then(|value| EventId::parse(value.to_str().ok()?.trim()));
    let events = queen.jobs.events(&asking.asker.caller, &job_id, last_seen).await?;
    let events = events.map(|(id, event)| {
        let id = id.map(|id| id.to_string());
        sse_event(event.name(), id.as_deref(), &event.data().unwrap_or_default())
    });
    Ok(event_stream(events, Duration::from_secs(10)))
}
