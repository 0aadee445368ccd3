//! /v2/queue and /v2/decisions: the queue explains itself.

use daemon::http::{Failure, Json, Path};
use protocol::queen::QueueView;
use protocol::task::JobDecision;
use protocol::{ApiError, ErrorCode, ErrorEnvelope, JobId};

use super::State;

/// Who waits for what, and for how long.
#[utoipa::path(
    get, path = "/v2/queue", operation_id = "get_queue", tag = "queue",
    responses((status = 200, description = "The answer", body = QueueView))
)]
pub(super) async fn queue(queen: State) -> Json<QueueView> {
    Json(queen.inference.scheduler.view())
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
pub(super) async fn decision(queen: State, Path(job_id): Path<JobId>) -> Result<Json<JobDecision>, Failure> {
    let view = queen.jobs.get(&job_id)?.view();
    let decision = view.decision.ok_or_else(|| {
        ApiError::new(ErrorCode::NotFound, "The task waits; nothing was decided yet.").with_param("job_id")
    })?;
    Ok(Json(JobDecision { job_id: job_id.to_string(), decision }))
}
