//! POST /v1/tokenize and POST /v1/detokenize. OpenAI has no such endpoints; the form is the one that clients of vLLM send.

use daemon::http::{Failure, Json};
use protocol::ErrorEnvelope;
use protocol::tokens::{
    Detokenization, DetokenizationRequest, DetokenizeRequest, Tokenization, TokenizationRequest,
};

use super::super::State;
use crate::http::asking::Asking;
use crate::inference::{Asked, tokenize_order, tokenize_refusal};

/// Tell the tokens of a prompt or a conversation.
#[utoipa::path(
    post, path = "/v1/tokenize", operation_id = "tokenize", tag = "openai",
    request_body = TokenizationRequest,
    responses(
        (status = 200, description = "The tokens; there may be more than the context holds", body = Tokenization),
        (status = 400, description = "The request is not valid, or is too long", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
        (status = 429, description = "The queue is full", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
        (status = 504, description = "The deadline has passed", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn tokenize(
    queen: State,
    asking: Asking,
    Json(body): Json<TokenizationRequest>,
) -> Result<Json<Tokenization>, Failure> {
    let model = body.model.clone();
    let asked = Asked::in_person(&model, asking.answer_timeout(), &asking.asker);
    let order = tokenize_order(body)?;
    let answer = queen.inference.tokenize(asked, order).await.map_err(tokenize_refusal)?;
    Ok(Json(Tokenization {
        count: answer.count,
        max_model_len: answer.context_length,
        tokens: answer.tokens,
        token_strs: answer.token_strs,
    }))
}

/// Tell the text of tokens.
#[utoipa::path(
    post, path = "/v1/detokenize", operation_id = "detokenize", tag = "openai",
    request_body = DetokenizationRequest,
    responses(
        (status = 200, description = "The text", body = Detokenization),
        (status = 400, description = "A token is none of this model's, or there are too many", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
        (status = 429, description = "The queue is full", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
        (status = 504, description = "The deadline has passed", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn detokenize(
    queen: State,
    asking: Asking,
    Json(body): Json<DetokenizationRequest>,
) -> Result<Json<Detokenization>, Failure> {
    let asked = Asked::in_person(&body.model, asking.answer_timeout(), &asking.asker);
    let answer = queen.inference.detokenize(asked, DetokenizeRequest { tokens: body.tokens }).await?;
    Ok(Json(Detokenization { prompt: answer.text }))
}
