//! POST /v1/embed and POST /v1/rerank.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use daemon::http::{Failure, Json, RequestId};
use protocol::ErrorEnvelope;
use protocol::vectors::{EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse};

use crate::service::Service;

/// Makes vectors of texts
#[utoipa::path(
    post,
    path = "/v1/embed",
    request_body = EmbedRequest,
    responses(
        (status = 200, description = "A vector for each text", body = EmbedResponse),
        (status = 400, description = "The request is not valid, a text is too long, or the model does something else",
            body = ErrorEnvelope),
        (status = 409, description = "Meant for another worker", body = ErrorEnvelope),
        (status = 503, description = "Loading, shutting down, or no slot is free", body = ErrorEnvelope),
    )
)]
pub(super) async fn embed(
    State(service): State<Arc<Service>>,
    Extension(RequestId(default_id)): Extension<RequestId>,
    Json(body): Json<EmbedRequest>,
) -> Result<Json<EmbedResponse>, Failure> {
    Ok(Json(service.embed(body, default_id).await?))
}

/// Tells how relevant documents are to a query
#[utoipa::path(
    post,
    path = "/v1/rerank",
    request_body = ScoreRequest,
    responses(
        (status = 200, description = "A score for each document", body = ScoreResponse),
        (status = 400, description = "The request is not valid, a text is too long, or the model does something else",
            body = ErrorEnvelope),
        (status = 409, description = "Meant for another worker", body = ErrorEnvelope),
        (status = 503, description = "Loading, shutting down, or no slot is free", body = ErrorEnvelope),
    )
)]
pub(super) async fn rerank(
    State(service): State<Arc<Service>>,
    Extension(RequestId(default_id)): Extension<RequestId>,
    Json(body): Json<ScoreRequest>,
) -> Result<Json<ScoreResponse>, Failure> {
    Ok(Json(service.score(body, default_id).await?))
}
