//! POST /v1/messages and /v1/messages/count_tokens.

use axum::Extension;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use daemon::http::{Failure, Json, RequestId};
use futures::StreamExt;
use protocol::anthropic::{AnthropicError, MessageAnswer, MessagesRequest, StreamEvent};
use uuid::Uuid;

use super::super::State;
use super::super::openai::request_timeout;
use super::super::stream::{events, streamed};
use crate::inference::{MessageHead, MessageWriter, collect, message, message_order};

/// Answer a conversation, in Anthropic's shapes. With `stream`, the answer is a stream of named events that ends with
/// `message_stop`.
#[utoipa::path(
    post, path = "/messages", operation_id = "create_message", tag = "anthropic",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer", content(
            (MessageAnswer = "application/json"), (StreamEvent = "text/event-stream"))),
        (status = 400, description = "The request is not valid", body = AnthropicError),
        (status = 401, description = "No valid credential", body = AnthropicError),
        (status = 404, description = "There is no such thing", body = AnthropicError),
        (status = 413, description = "The body is too large", body = AnthropicError),
        (status = 429, description = "The queue is full", body = AnthropicError),
        (status = 503, description = "No capacity now; retry-after tells when", body = AnthropicError),
        (status = 504, description = "The deadline has passed", body = AnthropicError),
    )
)]
pub(in crate::http) async fn create(
    queen: State,
    headers: HeaderMap,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Json(body): Json<MessagesRequest>,
) -> Result<Response, Failure> {
    let wants_stream = body.stream.unwrap_or(false);
    let order = message_order(body, request_timeout(&headers)?)?;
    let run = queen.inference.run(order.request, &request_id).await?;
    let head = MessageHead {
        id: format!("msg_{}", Uuid::new_v4().simple()),
        model: run.model().to_owned(),
        thoughts: order.thoughts,
        max_tokens: order.max_tokens,
    };
    if wants_stream {
        let events = events(run).map(|event| (0, event));
        return Ok(streamed(Box::pin(events), MessageWriter::new(head)).await?);
    }
    Ok(Json(message(&head, collect(run).await?)).into_response())
}
