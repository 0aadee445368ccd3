//! /v2/routing: how the script stands, what it decided, and what another one would.

use axum::extract::Query;
use daemon::http::{Failure, Json, Path};
use protocol::routing::{
    Replay, ReplayRequest, RoutingDecision, RoutingDecisions, RoutingView, ScriptFault, SimulateRequest,
    ValidateRequest, Validated,
};
use protocol::{ApiError, ErrorCode, ErrorEnvelope};

use super::State;
use super::page::parameter;
use crate::routing::{self, Unsimulated};

/// Decisions that are told if the caller does not say how many, and at most.
const TOLD: usize = 20;
const TOLD_MAX: usize = 1000;

/// How the routing script stands: what is in force, what it decided how often, and what is wrong with its file.
#[utoipa::path(
    get, path = "/v2/routing", operation_id = "get_routing", tag = "routing",
    responses((status = 200, description = "The answer", body = RoutingView))
)]
pub(super) async fn state(queen: State) -> Json<RoutingView> {
    Json(queen.inference.router.view())
}

/// What the routing script decided lately, the latest first. The last 1000 decisions are kept.
#[utoipa::path(
    get, path = "/v2/routing/decisions", operation_id = "list_routing_decisions", tag = "routing",
    params(("limit" = Option<usize>, Query, description = "1 to 1000; 20 if absent")),
    responses(
        (status = 200, description = "The answer", body = RoutingDecisions),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
    )
)]
pub(super) async fn decisions(
    queen: State,
    parameters: Query<Vec<(String, String)>>,
) -> Result<Json<RoutingDecisions>, Failure> {
    let limit = parameter(&parameters, "limit").map_or(Some(TOLD), |limit| limit.parse().ok());
    let limit = limit.filter(|limit| (1..=TOLD_MAX).contains(limit)).ok_or_else(|| {
        ApiError::invalid("limit", format!("'limit' must be a whole number from 1 to {TOLD_MAX}."))
    })?;
    let records = queen.inference.router.records(limit);
    Ok(Json(RoutingDecisions { decisions: records.iter().map(|record| record.summary()).collect() }))
}

/// What the routing script decided about one request, with all that it knew.
#[utoipa::path(
    get, path = "/v2/routing/decisions/{id}", operation_id = "get_routing_decision", tag = "routing",
    params(("id" = String, Path, description = "The request's id, as the answer's x-request-id tells it, or the task's")),
    responses(
        (status = 200, description = "The answer", body = RoutingDecision),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(super) async fn decision(queen: State, Path(id): Path<String>) -> Result<Json<RoutingDecision>, Failure> {
    let record = queen.inference.router.record(&id).ok_or_else(|| {
        let message = "No script's decision on this request is known; the last 1000 are kept.";
        ApiError::new(ErrorCode::NotFound, message).with_param("id")
    })?;
    Ok(Json(record.view()))
}

/// Tell whether a script can be loaded, and what is wrong with it if not.
#[utoipa::path(
    post, path = "/v2/routing/validate", operation_id = "validate_routing_script", tag = "routing",
    request_body = ValidateRequest,
    responses(
        (status = 200, description = "The answer, be the script valid or not", body = Validated),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
    )
)]
pub(super) async fn validate(Json(body): Json<ValidateRequest>) -> Result<Json<Validated>, Failure> {
    aside(move || Ok(Json(routing::validate(&body.script)))).await
}

/// Tell what a script would decide for a task, with the workers that there are, or with others. Nothing is queued.
#[utoipa::path(
    post, path = "/v2/routing/simulate", operation_id = "simulate_routing", tag = "routing",
    request_body = SimulateRequest,
    responses(
        (status = 200, description = "The answer", body = RoutingDecision),
        (status = 400, description = "The request, or the script in it, is not valid", body = ErrorEnvelope),
    )
)]
pub(super) async fn simulate(
    queen: State,
    Json(mut body): Json<SimulateRequest>,
) -> Result<Json<RoutingDecision>, Failure> {
    let inference = queen.inference.clone();
    if body.workers.is_none() {
        body.task.model = inference.names.resolve(&body.task.model)?.to_owned();
    }
    aside(move || {
        let decision = inference.router.simulate(&inference.scheduler, body);
        decision.map(Json).map_err(|error| match error {
            Unsimulated::Fault(fault) => invalid(&fault),
            Unsimulated::NoScript => {
                let message = "No script is in force on this server, so 'script' is required.";
                ApiError::invalid("script", message)
            }
        })
    })
    .await
}

/// Tell what a script would have decided for the requests on which the one in force decided lately.
#[utoipa::path(
    post, path = "/v2/routing/replay", operation_id = "replay_routing", tag = "routing",
    request_body = ReplayRequest,
    responses(
        (status = 200, description = "The answer", body = Replay),
        (status = 400, description = "The request, or the script in it, is not valid", body = ErrorEnvelope),
    )
)]
pub(super) async fn replay(queen: State, Json(body): Json<ReplayRequest>) -> Result<Json<Replay>, Failure> {
    let router = queen.inference.router.clone();
    aside(move || router.replay(&body.script).map(Json).map_err(|fault| invalid(&fault))).await
}

fn invalid(fault: &ScriptFault) -> ApiError {
    ApiError::invalid("script", format!("The script is not valid: {fault}"))
}

/// Does what takes long where nobody waits for it.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.unwrap_or_else(|_| Err(ApiError::new(ErrorCode::Internal, "The work was broken off.")))?)
}
