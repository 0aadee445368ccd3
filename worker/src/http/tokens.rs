//! POST /v1/tokenize and POST /v1/detokenize.

use std::sync::Arc;

use axum::extract::State;
use daemon::http::{Failure, Json};
use protocol::ErrorEnvelope;
use protocol::tokens::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};

use crate::service::Service;

/// Tells the tokens of a prompt, as an execution would read it; it takes no slot
#[utoipa::path(
    post,
    path = "/v1/tokenize",
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The tokens; there may be more than the context holds", body = TokenizeResponse),
        (status = 400, description = "The request is not valid, or is too long to be tokenised at once",
            body = ErrorEnvelope),
        (status = 409, description = "Meant for another worker", body = ErrorEnvelope),
        (status = 503, description = "Loading or shutting down", body = ErrorEnvelope),
    )
)]
pub(super) async fn tokenize(
    State(service): State<Arc<Service>>,
    Json(body): Json<TokenizeRequest>,
) -> Result<Json<TokenizeResponse>, Failure> {
    Ok(Json(service.tokenize(body).await?))
}

/// Tells the text of tokens; it takes no slot
#[utoipa::path(
    post,
    path = "/v1/detokenize",
    request_body = DetokenizeRequest,
    responses(
        (status = 200, description = "The text", body = DetokenizeResponse),
        (status = 400, description = "A token is none of this model's, or there are too many", body = ErrorEnvelope),
        (status = 409, description = "Meant for another worker", body = ErrorEnvelope),
        (status = 503, description = "Loading or shutting down", body = ErrorEnvelope),
    )
)]
pub(super) async fn detokenize(
    State(service): State<Arc<Service>>,
    Json(body): Json<DetokenizeRequest>,
) -> Result<Json<DetokenizeResponse>, Failure> {
    Ok(Json(service.detokenize(body).await?))
}
