//! /v1/workers: start, list, end; and the workers' own callback.

use axum::extract::State;
use axum::http::StatusCode;
use daemon::http::{Failure, Json};
use protocol::ErrorEnvelope;
use protocol::hive::{SpawnRequest, SpawnResponse, WorkerInfo, WorkerList, WorkerReady, WorkerShutdown};

use super::App;

/// Starts a worker
///
/// The answer comes at once, with the worker loading; the model is fetched first if it is not here. How it goes is told
/// by /v1/events.
#[utoipa::path(
    post, operation_id = "spawn_worker",
    path = "/v1/workers/spawn",
    request_body = SpawnRequest,
    responses(
        (status = 202, description = "The worker is starting", body = SpawnResponse),
        (status = 400, description = "A field or the backend cannot be accepted", body = ErrorEnvelope),
        (status = 404, description = "No such model", body = ErrorEnvelope),
        (status = 507, description = "Not enough memory", body = ErrorEnvelope),
    )
)]
pub(super) async fn spawn(
    State(app): State<App>,
    Json(request): Json<SpawnRequest>,
) -> Result<(StatusCode, Json<SpawnResponse>), Failure> {
    let worker = app.workers.spawn(request).await?;
    Ok((StatusCode::ACCEPTED, Json(SpawnResponse { worker })))
}

/// Lists all workers, those that failed included
#[utoipa::path(get, operation_id = "list_workers", path = "/v1/workers/list", responses((status = 200, description = "The answer", body = WorkerList)))]
pub(super) async fn list(State(app): State<App>) -> Json<WorkerList> {
    Json(WorkerList { workers: app.board.workers() })
}

/// Takes a worker's word that it listens
#[utoipa::path(
    post, operation_id = "worker_ready",
    path = "/v1/workers/ready",
    request_body = WorkerReady,
    responses(
        (status = 200, description = "Taken; the body is an empty object"),
        (status = 404, description = "No such worker", body = ErrorEnvelope),
        (status = 409, description = "An earlier run of this worker", body = ErrorEnvelope),
    )
)]
pub(super) async fn ready(
    State(app): State<App>,
    Json(report): Json<WorkerReady>,
) -> Result<Json<serde_json::Value>, Failure> {
    app.workers.listening(&report)?;
    Ok(Json(serde_json::json!({})))
}

/// Ends a worker, or removes the record of one that failed
///
/// The answer comes at once; the worker is gone when /v1/events says so.
#[utoipa::path(
    post, operation_id = "shutdown_worker",
    path = "/v1/workers/shutdown",
    request_body = WorkerShutdown,
    responses(
        (status = 202, description = "The worker is stopping", body = WorkerInfo),
        (status = 404, description = "No such worker", body = ErrorEnvelope),
        (status = 503, description = "With `if_idle`: it has something to do, and goes on", body = ErrorEnvelope),
    )
)]
pub(super) async fn shutdown(
    State(app): State<App>,
    Json(request): Json<WorkerShutdown>,
) -> Result<(StatusCode, Json<WorkerInfo>), Failure> {
    let worker = if request.if_idle {
        app.workers.shutdown_if_idle(&request.worker_id).await?
    } else {
        app.workers.shutdown(&request.worker_id)?
    };
    Ok((StatusCode::ACCEPTED, Json(worker)))
}
