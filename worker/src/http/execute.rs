//! POST /v1/execute and POST /v1/cancel.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::Event as SseEvent;
use axum::response::{IntoResponse, Response};
use daemon::http::{Failure, Json, RequestId, event_stream, sse_event};
use futures::{Stream, StreamExt, stream};
use protocol::events::{End, Started, Token};
use protocol::worker::{CancelRequest, CancelResponse, ExecuteChoice, ExecuteRequest, ExecuteResponse};
use protocol::{ApiError, ErrorEnvelope, TaskEvent, WorkerId};

use crate::engine::{Event, Finish, GenerationRequest};
use crate::service::{Execution, Service};

/// An idle stream shows at least this often that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Generates text
#[utoipa::path(
    post,
    path = "/v1/execute",
    request_body = ExecuteRequest,
    responses(
        (status = 200, description = "With `stream`: server-sent events, named started, token, end and error, with one \
            end or error as the last. Without: one body.", content(
                (ExecuteResponse = "application/json"), (Token = "text/event-stream"))),
        (status = 400, description = "The request is not valid, or does not fit the context", body = ErrorEnvelope),
        (status = 409, description = "Meant for another worker", body = ErrorEnvelope),
        (status = 503, description = "Loading, shutting down, or no slot is free", body = ErrorEnvelope),
    )
)]
pub(super) async fn execute(
    State(service): State<Arc<Service>>,
    Extension(RequestId(default_id)): Extension<RequestId>,
    Json(body): Json<ExecuteRequest>,
) -> Result<Response, Failure> {
    let streams = body.stream;
    let request = GenerationRequest::try_from(body)?;
    let execution = service.execute(request, default_id).await?;
    if streams {
        let events =
            task_events(execution, service.config.worker_id.clone()).filter_map(async |event| to_sse(&event));
        return Ok(event_stream(events, KEEP_ALIVE));
    }
    Ok(Json(collect(execution).await?).into_response())
}

/// Cancels an execution
#[utoipa::path(
    post,
    path = "/v1/cancel",
    request_body = CancelRequest,
    responses((status = 200, description = "Whether such an execution was running; its slot is free now", body = CancelResponse))
)]
pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    Json(body): Json<CancelRequest>,
) -> Json<CancelResponse> {
    Json(CancelResponse { cancelled: service.cancel(&body.request_id).await })
}

/// The execution's events as the wire knows them. Dropping the stream cancels the execution.
fn task_events(execution: Execution, worker_id: WorkerId) -> impl Stream<Item = TaskEvent> {
    let Execution { prompt_tokens, seed, .. } = execution;
    let started = TaskEvent::Started(Started { worker_id, prompt_tokens, seed });
    let rest = stream::unfold(Some(execution), async |execution| {
        let mut execution = execution?;
        let event = execution.events.recv().await.unwrap_or_else(|| Event::Failed(execution.cut_off()));
        let event = wire_event(event);
        let next = if event.is_last() { None } else { Some(execution) };
        Some((event, next))
    });
    stream::iter([started]).chain(rest)
}

fn wire_event(event: Event) -> TaskEvent {
    match event {
        Event::Token { text, index } => TaskEvent::Token(Token { token: text, index, ..Token::default() }),
        Event::Finished(Finish { reason, usage, timings }) => TaskEvent::End(End {
            done: true,
            total_tokens: usage.completion_tokens,
            finish_reason: reason,
            finish_reasons: Vec::new(),
            usage,
            timings,
        }),
        Event::Failed(error) => TaskEvent::Error(error.into()),
    }
}

fn to_sse(event: &TaskEvent) -> Option<SseEvent> {
    event
        .data()
        .inspect_err(|error| tracing::error!(%error, "an event could not be written"))
        .ok()
        .map(|data| sse_event(event.name(), None, &data))
}

/// Waits for the whole answer. The caller's leaving drops this future, and with it the execution.
async fn collect(mut execution: Execution) -> Result<ExecuteResponse, ApiError> {
    let mut answer = String::new();
    loop {
        match execution.events.recv().await.unwrap_or_else(|| Event::Failed(execution.cut_off())) {
            Event::Token { text, .. } => answer.push_str(&text),
            Event::Finished(Finish { reason, usage, timings }) => {
                let seed = execution.seed;
                let choice = ExecuteChoice {
                    text: answer,
                    reasoning: String::new(),
                    tool_calls: Vec::new(),
                    logprobs: Vec::new(),
                    finish_reason: reason,
                };
                return Ok(ExecuteResponse { choices: vec![choice], prompt: None, usage, timings, seed });
            }
            Event::Failed(error) => return Err(error),
        }
    }
}
