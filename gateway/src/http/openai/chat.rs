//! POST /v1/chat/completions.

use axum::Extension;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use daemon::http::{Failure, Json, RequestId};
use futures::StreamExt;
use protocol::ErrorEnvelope;
use protocol::openai::chat::{ChatCompletion, ChatCompletionRequest};

use super::super::State;
use super::super::stream::{events, streamed};
use super::{new_head, request_timeout};
use crate::inference::{ChatWriter, chat_completion, chat_request, collect};

/// Answer a conversation. With `stream`, the answer is a stream of `chat.completion.chunk`s that ends with `[DONE]`.
#[utoipa::path(
    post, path = "/chat/completions", operation_id = "create_chat_completion", tag = "openai",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The answer", body = ChatCompletion),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
        (status = 429, description = "The queue is full", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
        (status = 504, description = "The deadline has passed", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn create(
    queen: State,
    headers: HeaderMap,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Json(body): Json<ChatCompletionRequest>,
) -> Result<Response, Failure> {
    let wants_stream = body.stream.unwrap_or(false);
    let include_usage = body.stream_options.unwrap_or_default().include_usage.unwrap_or(false);
    let request = chat_request(body, request_timeout(&headers)?)?;
    let wants_logprobs = request.order.logprobs.is_some();
    let run = queen.inference.run(request, &request_id).await?;
    let head = new_head("chatcmpl", run.model());
    if wants_stream {
        let writer = ChatWriter::new(head, run.choices(), include_usage);
        let events = events(run).map(|event| (0, event));
        return Ok(streamed(Box::pin(events), writer).await?);
    }
    Ok(Json(chat_completion(head, collect(run).await?, wants_logprobs)).into_response())
}
