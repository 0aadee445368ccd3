//! POST /v1/messages and /v1/messages/count_tokens.

use axum::response::Response;
use daemon::http::{Failure, Json};
use futures::StreamExt;
use protocol::anthropic::{AnthropicError, InputTokens, MessageAnswer, MessagesRequest, StreamEvent};
use uuid::Uuid;

use super::super::State;
use crate::http::asking::Asking;
use crate::http::stream::streamed;
use crate::inference::{MessageHead, MessageWriter, message, message_order, message_prompt};

/// Answer a conversation, in Anthropic's shapes. With `stream`, the answer is a stream of named events that ends with
/// `message_stop`.
#[utoipa::path(
    post, path = "/v1/messages", operation_id = "create_message", tag = "anthropic",
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
    asking: Asking,
    Json(body): Json<MessagesRequest>,
) -> Result<Response, Failure> {
    let wants_stream = body.stream.unwrap_or(false);
    let timeout = if wants_stream { asking.stream_timeout() } else { asking.answer_timeout() };
    let order = message_order(body, timeout)?;
    let head = MessageHead {
        id: format!("msg_{}", Uuid::new_v4().simple()),
        model: queen.inference.names.shown(&order.request.model),
        thoughts: order.thoughts,
        max_tokens: order.max_tokens,
    };
    if wants_stream {
        let (events, sharing) = queen.inference.stream(order.request, &asking.asker).await?;
        let events = events.map(|event| (0, event));
        return Ok(asking.told(streamed(events, MessageWriter::new(head)).await?, sharing));
    }
    let (completed, sharing) = queen.inference.complete(order.request, &asking.asker).await?;
    Ok(asking.told(Json(message(&head, completed)), sharing))
}

/// Count the tokens of a conversation as the model would read it. Nothing is generated.
#[utoipa::path(
    post, path = "/v1/messages/count_tokens", operation_id = "count_message_tokens", tag = "anthropic",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "How many; there may be more than the context holds", body = InputTokens),
        (status = 400, description = "The request is not valid", body = AnthropicError),
        (status = 401, description = "No valid credential", body = AnthropicError),
        (status = 404, description = "There is no such thing", body = AnthropicError),
        (status = 429, description = "The queue is full", body = AnthropicError),
        (status = 503, description = "No capacity now; retry-after tells when", body = AnthropicError),
        (status = 504, description = "The deadline has passed", body = AnthropicError),
    )
)]
pub(in crate::http) async fn count_tokens(
    queen: State,
    asking: Asking,
    Json(body): Json<MessagesRequest>,
) -> Result<Json<InputTokens>, Failure> {
    let request = message_prompt(body, asking.answer_timeout())?;
    let input_tokens = queen.inference.count_tokens(&request, &asking.asker).await?;
    Ok(Json(InputTokens { input_tokens }))
}
