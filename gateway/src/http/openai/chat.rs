//! POST /v1/chat/completions.

mod keep;
pub(in crate::http) mod stored;

use axum::response::Response;
use daemon::http::{Failure, Json};
use futures::StreamExt;
use protocol::ErrorEnvelope;
use protocol::openai::chat::{ChatCompletion, ChatCompletionChunk, ChatCompletionRequest};

use self::keep::{Keep, KeptWriter};
use super::super::State;
use crate::http::asking::Asking;
use crate::http::stream::streamed;
use crate::inference::{ChatWriter, Head, chat_completion, chat_request};

/// Answer a conversation. With `stream`, the answer is a stream of `chat.completion.chunk`s that ends with `[DONE]`; with
/// `store`, it is kept.
#[utoipa::path(
    post, path = "/v1/chat/completions", operation_id = "create_chat_completion", tag = "openai",
    request_body = ChatCompletionRequest,
    responses(
        (
            status = 200, description = "The answer",
            content((ChatCompletion = "application/json"), (ChatCompletionChunk = "text/event-stream"))
        ),
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
    asking: Asking,
    Json(body): Json<ChatCompletionRequest>,
) -> Result<Response, Failure> {
    let wants_stream = body.stream.unwrap_or(false);
    let include_usage = body.stream_options.unwrap_or_default().include_usage.unwrap_or(false);
    let timeout = if wants_stream { asking.stream_timeout() } else { asking.answer_timeout() };
    let mut head = Head::new("chatcmpl", "");
    let keep = body.store.unwrap_or(false).then(|| Keep::new(&queen.store, &asking.asker, &head, &body));
    let request = chat_request(body, timeout)?;
    head.model = queen.inference.names.shown(&request.model);
    let (choices, wants_logprobs) = (request.choices(), request.order.logprobs.is_some());
    if wants_stream {
        let (events, sharing) = queen.inference.stream(request, &asking.asker).await?;
        let events = events.map(|event| (0, event));
        let writer = ChatWriter::new(head.clone(), choices, include_usage);
        let answer = match keep {
            None => streamed(events, writer).await?,
            Some(keep) => {
                streamed(events, KeptWriter::new(writer, keep, head, choices, wants_logprobs)).await?
            }
        };
        return Ok(asking.told(answer, sharing));
    }
    let (completed, sharing) = queen.inference.complete(request, &asking.asker).await?;
    let mut completion = chat_completion(head, completed, wants_logprobs);
    if let Some(keep) = keep {
        completion = keep.kept(completion).await?;
    }
    Ok(asking.told(Json(completion), sharing))
}
