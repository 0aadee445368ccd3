//! /v2/queue and /v2/decisions: the queue explains itself.

use daemon::http::{Failure, Json, Path};
use protocol::queen::QueueView;
use protocol::task::JobDecision;
use protocol::{ErrorEnvelope, JobId};

use super::State;
use super::asking::Asking;

/// Who waits for what, and for how long.
#[utoipa::path(
    get, path = "/v2/queue", operation_id = "get_queue", tag = "queue",
    responses((status = 200, description = "The answer", body = QueueView))
)]
pub(super) async fn queue(queen: State) -> Result<Json<QueueView>, Failure> {
    let mut view = queen.inference.scheduler.view();
    view.tasks = queen.jobs.counts().await?;
    Ok(Json(view))
}

/// Why a task went where it went.
#[utoipa::path(
    get, path = "/v2/decisions/{job_id}", operation_id = "get_decision", tag = "queue",
    params(("job_id" = String, Path)),
    responses(
        (status = 200, description = "The answer", body = JobDecision),
        (status = 404, description = "There is no such thing, or it waits", body = ErrorEnvelope),
    )
)]
pub(super) async fn decision(
    queen: State,
    asking: Asking,
    Path(job_id): Path<JobId>,
) -> Result<Json<JobDecision>, Failure> {
    Ok(Json(queen.jobs.decision(&asking.asker.caller, &job_id).await?))
}
