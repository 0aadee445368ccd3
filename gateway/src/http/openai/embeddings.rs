//! POST /v1/embeddings.

use axum::response::Response;
use daemon::http::{Failure, Json};
use protocol::ErrorEnvelope;
use protocol::openai::embeddings::{EmbeddingList, EmbeddingRequest};

use super::super::State;
use crate::http::asking::Asking;
use crate::inference::{Asked, embed_request, embedding_list};

/// Make vectors of texts.
#[utoipa::path(
    post, path = "/v1/embeddings", operation_id = "create_embedding", tag = "openai",
    request_body = EmbeddingRequest,
    responses(
        (status = 200, description = "A vector for each text", body = EmbeddingList),
        (status = 400, description = "The request is not valid, or a text is too long", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
        (status = 429, description = "The queue is full", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
        (status = 504, description = "The deadline has passed", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn create(
    queen: State,
    asking: Asking,
    Json(body): Json<EmbeddingRequest>,
) -> Result<Response, Failure> {
    let model = body.model.clone();
    let asked = Asked::in_person(&model, asking.answer_timeout(), &asking.asker);
    let (answer, sharing) = queen.inference.embed(asked, embed_request(body)?).await?;
    let list = embedding_list(answer, queen.inference.names.shown(&model));
    Ok(asking.told(Json(list), sharing))
}
