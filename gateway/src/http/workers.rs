//! /v2/workers: what runs where.

use daemon::http::{Failure, Json};
use protocol::ErrorEnvelope;
use protocol::hive::{WorkerInfo, WorkerList, WorkerShutdown};
use protocol::queen::{WorkerHealth, WorkersHealth};
use protocol::worker::WorkerState;
use protocol::{ApiError, ErrorCode};

use super::State;

/// All workers of all hives.
#[utoipa::path(
    get, path = "/v2/workers/list", operation_id = "list_workers", tag = "workers",
    responses((status = 200, description = "The answer", body = WorkerList))
)]
pub(super) async fn list(queen: State) -> Json<WorkerList> {
    Json(WorkerList { workers: workers(&queen) })
}

/// Whether each worker takes requests.
#[utoipa::path(
    get, path = "/v2/workers/health", operation_id = "workers_health", tag = "workers",
    responses((status = 200, description = "The answer", body = WorkersHealth))
)]
pub(super) async fn health(queen: State) -> Json<WorkersHealth> {
    let report = |worker: WorkerInfo| WorkerHealth {
        healthy: worker.state.takes_requests(),
        id: worker.id,
        state: worker.state,
        error: worker.error,
    };
    Json(WorkersHealth { workers: workers(&queen).into_iter().map(report).collect() })
}

/// Stop a worker; running requests on it end with an error.
#[utoipa::path(
    post, path = "/v2/workers/shutdown", operation_id = "shutdown_worker", tag = "workers",
    request_body = WorkerShutdown,
    responses(
        (status = 200, description = "It is ending"),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(super) async fn shutdown(
    queen: State,
    Json(body): Json<WorkerShutdown>,
) -> Result<Json<serde_json::Value>, Failure> {
    let hives = &queen.inference.hives;
    let fleet = hives.fleet();
    let Some((node, _)) = fleet.workers().find(|(_, worker)| worker.id == body.worker_id) else {
        return Err(ApiError::new(ErrorCode::WorkerNotFound, "There is no such worker.")
            .with_param("worker_id")
            .into());
    };
    Ok(Json(hives.shutdown_worker(node, &body.worker_id).await?))
}

/// The hives' reports, with the slots as the queen gave them out: she knows sooner.
fn workers(queen: &State) -> Vec<WorkerInfo> {
    let load = queen.inference.scheduler.load();
    let fleet = queen.inference.hives.fleet();
    let overlay = |worker: &WorkerInfo| {
        let mut worker = worker.clone();
        if worker.state.takes_requests() {
            let taken = load.taken.get(&worker.boot_id).copied().unwrap_or(0);
            worker.slots_available = worker.slots_total.saturating_sub(taken);
            worker.state = if taken > 0 { WorkerState::Busy } else { WorkerState::Idle };
        }
        worker
    };
    fleet.workers().map(|(_, worker)| overlay(worker)).collect()
}
