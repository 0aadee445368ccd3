//! POST /v1/chat/completions.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use daemon::http::{Failure, Json, RequestId};
use futures::stream;
use protocol::openai::chat::{
    AssistantMessage, ChatCompletion, ChatCompletionRequest, Choice, Role, StreamOptions,
};
use protocol::{ApiError, ErrorEnvelope, TaskEvent};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use super::super::State;
use super::{now_seconds, request_timeout};
use crate::inference::{
    ChunkWriter, Completed, Run, chat_finish_reason, chat_request, chat_usage, collect, comment,
};

/// A stream's head waits this long for the worker, so that a refusal can still be an HTTP status.
const HEAD_WAITS: Duration = Duration::from_secs(2);
/// A silent stream gets a comment this often.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

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
    let stream_options = body.stream_options.unwrap_or_default();
    let request = chat_request(body, request_timeout(&headers)?)?;
    let run = queen.inference.run(request, &request_id).await?;
    if wants_stream {
        Ok(streamed(run, stream_options).await?)
    } else {
        let model = run.model().to_owned();
        Ok(Json(whole(model, collect(run).await?)).into_response())
    }
}

fn whole(model: String, completed: Completed) -> ChatCompletion {
    let message = AssistantMessage { role: Role::Assistant, content: completed.text, refusal: None };
    let finish_reason = chat_finish_reason(completed.finish_reason);
    ChatCompletion {
        id: new_id(),
        object: "chat.completion".to_owned(),
        created: now_seconds(),
        model,
        choices: vec![Choice { index: 0, message, logprobs: None, finish_reason }],
        usage: chat_usage(completed.usage),
        system_fingerprint: fingerprint(),
    }
}

async fn streamed(mut run: Run, options: StreamOptions) -> Result<Response, ApiError> {
    let include_usage = options.include_usage.unwrap_or(false);
    let writer =
        ChunkWriter::new(new_id(), now_seconds(), run.model().to_owned(), fingerprint(), include_usage);
    let first = first_frames(&mut run, &writer).await?;
    let frames = stream::unfold((run, writer, Some(first)), async |(mut run, writer, first)| {
        let frame = match first {
            Some(first) => first,
            None => match timeout(KEEP_ALIVE, run.next()).await {
                Ok(event) => told(&writer, &event?),
                Err(_) => comment("keep-alive"),
            },
        };
        Some((Ok::<_, Infallible>(frame), (run, writer, None)))
    });
    let head = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((head, Body::from_stream(frames)).into_response())
}

/// An error that can no longer be a status is logged here; one that can is logged with the status.
fn told(writer: &ChunkWriter, event: &TaskEvent) -> Bytes {
    if let TaskEvent::Error(envelope) = event {
        tracing::warn!(error = %envelope.error, "a stream ended with an error");
    }
    writer.write(event)
}

/// What the stream begins with: all up to the worker's first word, or up to the time when the caller must hear something.
async fn first_frames(run: &mut Run, writer: &ChunkWriter) -> Result<Bytes, ApiError> {
    let patience = Instant::now() + HEAD_WAITS;
    let mut frames = Vec::new();
    while let Ok(Some(event)) = timeout_at(patience, run.next()).await {
        if let TaskEvent::Error(envelope) = event {
            return Err(envelope.error);
        }
        frames.extend_from_slice(&writer.write(&event));
        if !matches!(event, TaskEvent::Queued(_) | TaskEvent::Narration(_)) {
            return Ok(frames.into());
        }
    }
    frames.extend_from_slice(&comment("waiting for a worker"));
    Ok(frames.into())
}

fn new_id() -> String {
    format!("chatcmpl-{}", Uuid::new_v4().simple())
}

fn fingerprint() -> String {
    format!("rbee-{}", env!("CARGO_PKG_VERSION"))
}
