//! POST /v1/execute and POST /v1/cancel.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::Event as SseEvent;
use axum::response::{IntoResponse, Response};
use daemon::http::{Failure, Json, RequestId, event_stream, sse_event};
use futures::{Stream, StreamExt, stream};
use protocol::events::{End, FinishReason, Reasoning, Started, Token, ToolCallDelta};
use protocol::worker::{
    CancelRequest, CancelResponse, ExecuteChoice, ExecuteRequest, ExecuteResponse, ToolCall,
};
use protocol::{ApiError, ErrorEnvelope, TaskEvent, WorkerId};

use crate::engine::{Event, Finish, GenerationRequest};
use crate::service::{Execution, Service};

/// An answer that nothing has come of yet.
const NO_ANSWER: ExecuteChoice = ExecuteChoice {
    text: String::new(),
    reasoning: String::new(),
    tool_calls: Vec::new(),
    logprobs: Vec::new(),
    finish_reason: FinishReason::Stop,
    stop_sequence: None,
};
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
        Event::Prompt(prompt) => TaskEvent::Prompt(prompt),
        Event::Token(token) => TaskEvent::Token(token),
        Event::Reasoning(reasoning) => TaskEvent::Reasoning(reasoning),
        Event::ToolCall(delta) => TaskEvent::ToolCall(delta),
        Event::Finished(Finish { reasons, stop_sequences, usage, timings }) => TaskEvent::End(End {
            done: true,
            total_tokens: usage.completion_tokens,
            finish_reason: reasons.first().copied().unwrap_or(FinishReason::Stop),
            finish_reasons: if reasons.len() > 1 { reasons } else { Vec::new() },
            stop_sequences: if stop_sequences.iter().any(Option::is_some) {
                stop_sequences
            } else {
                Vec::new()
            },
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
    let mut choices = vec![NO_ANSWER; execution.choices as usize];
    let mut prompt = None;
    loop {
        match execution.events.recv().await.unwrap_or_else(|| Event::Failed(execution.cut_off())) {
            Event::Prompt(echo) => prompt = Some(echo),
            Event::Token(Token { token, choice, logprobs, .. }) => {
                let choice = &mut choices[choice as usize];
                choice.text.push_str(&token);
                choice.logprobs.extend(logprobs);
            }
            Event::Reasoning(Reasoning { text, choice }) => {
                choices[choice as usize].reasoning.push_str(&text);
            }
            Event::ToolCall(delta) => add_to_call(&mut choices[delta.choice as usize].tool_calls, delta),
            Event::Finished(Finish { reasons, stop_sequences, usage, timings }) => {
                let ends = reasons.into_iter().zip(stop_sequences);
                for (choice, (reason, stop_sequence)) in choices.iter_mut().zip(ends) {
                    (choice.finish_reason, choice.stop_sequence) = (reason, stop_sequence);
                }
                return Ok(ExecuteResponse { choices, prompt, usage, timings, seed: execution.seed });
            }
            Event::Failed(error) => return Err(error),
        }
    }
}

fn add_to_call(calls: &mut Vec<ToolCall>, delta: ToolCallDelta) {
    let index = delta.index as usize;
    while calls.len() <= index {
        calls.push(ToolCall { id: String::new(), name: String::new(), arguments: String::new() });
    }
    let call = &mut calls[index];
    call.id.extend(delta.id);
    call.name.extend(delta.name);
    call.arguments.push_str(&delta.arguments);
}
