//! Responses.

mod answer;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use protocol::events::{End, ToolCallDelta};
use protocol::openai::responses::{
    ErrorEvent, Lifecycle, NumberedEvent, Response, ResponseEvent, ResponseStatus,
};
use protocol::worker::ExecuteChoice;
use protocol::{ApiError, TaskEvent};

use super::{FrameWriter, waiting};
use crate::inference::Completed;
use answer::Answer;

/// A whole response.
pub fn response(draft: Response, completed: Completed) -> Response {
    let mut answer = Answer::new(draft);
    // This interface knows one choice only.
    if let Some(choice) = completed.choices.into_iter().next() {
        let ExecuteChoice { text, reasoning, tool_calls, logprobs, finish_reason, stop_sequence: _ } = choice;
        if !reasoning.is_empty() {
            answer.think(&reasoning);
        }
        if !text.is_empty() {
            answer.say(&text, &logprobs);
        }
        for (call, index) in tool_calls.into_iter().zip(0..) {
            let (id, name) = (Some(call.id), Some(call.name));
            answer.call(&ToolCallDelta { choice: 0, index, id, name, arguments: call.arguments });
        }
        answer.end(finish_reason, completed.usage);
    }
    answer.into_response()
}

/// A response after these events, as far as it is made. What came before a later start was given up.
pub fn made_response<'a>(draft: &Response, events: impl Iterator<Item = &'a TaskEvent>) -> Response {
    let mut writer = ResponseWriter::new(draft.clone());
    for event in events {
        if matches!(event, TaskEvent::Started(_)) {
            writer = ResponseWriter::new(draft.clone());
        }
        writer.events(event);
    }
    writer.answer.into_response()
}

/// Writes the events of one response.
pub struct ResponseWriter {
    answer: Answer,
    /// The number of the next event.
    sequence_number: u64,
    was_queued: bool,
    /// The events that tell the end, if it has come and was not told yet.
    last: Option<Vec<ResponseEvent>>,
    /// Events up to this number were told before.
    told: Option<u64>,
}

impl ResponseWriter {
    /// A writer for an answer of which this much is known.
    pub fn new(draft: Response) -> Self {
        Self::again(draft, None, None)
    }

    /// The same for one who has seen the events up to this number, of an answer that was complete at this time if it was before.
    pub fn again(draft: Response, told: Option<u64>, completed_at: Option<i64>) -> Self {
        let answer = Answer::again(draft, completed_at);
        Self { answer, sequence_number: 0, was_queued: false, last: None, told }
    }

    /// The response as it is when this end will have been told.
    pub fn ended(&mut self, end: &End) -> &Response {
        self.last = Some(self.answer.end(end.finish_reason, end.usage));
        self.answer.response()
    }

    fn events(&mut self, event: &TaskEvent) -> Vec<ResponseEvent> {
        match event {
            TaskEvent::Queued(_) | TaskEvent::Narration(_) if self.was_queued => Vec::new(),
            TaskEvent::Queued(_) | TaskEvent::Narration(_) => {
                self.was_queued = true;
                self.answer.stands(ResponseStatus::Queued);
                vec![ResponseEvent::Queued(self.lifecycle())]
            }
            TaskEvent::Started(_) => {
                self.answer.stands(ResponseStatus::InProgress);
                vec![ResponseEvent::InProgress(self.lifecycle())]
            }
            TaskEvent::Token(token) => self.answer.say(&token.token, &token.logprobs),
            TaskEvent::Reasoning(reasoning) => self.answer.think(&reasoning.text),
            TaskEvent::ToolCall(delta) => self.answer.call(delta),
            TaskEvent::Prompt(_) | TaskEvent::Result(_) => Vec::new(),
            TaskEvent::End(end) => {
                self.last.take().unwrap_or_else(|| self.answer.end(end.finish_reason, end.usage))
            }
            TaskEvent::Error(envelope) => self.failed(&envelope.error),
        }
    }

    fn failed(&mut self, error: &ApiError) -> Vec<ResponseEvent> {
        self.answer.fail(error);
        let event = ErrorEvent {
            code: error.code.to_string(),
            message: error.message.clone(),
            param: error.param.clone(),
        };
        vec![ResponseEvent::Error(event), ResponseEvent::Failed(self.lifecycle())]
    }

    fn lifecycle(&self) -> Lifecycle {
        Lifecycle { response: Box::new(self.answer.response().clone()) }
    }

    fn frame(&mut self, frames: &mut Vec<u8>, event: ResponseEvent) {
        if self.told.is_some_and(|told| self.sequence_number <= told) {
            self.sequence_number += 1;
            return;
        }
        let head = format!("event: {}\ndata: ", event.name());
        frames.extend_from_slice(head.as_bytes());
        let event = NumberedEvent { event, sequence_number: self.sequence_number };
        self.sequence_number += 1;
        // Neither the values nor the vector can make this fail.
        let _ = serde_json::to_writer(&mut *frames, &event);
        frames.extend_from_slice(b"\n\n");
    }
}

impl FrameWriter for ResponseWriter {
    fn write(&mut self, _run: usize, event: &TaskEvent) -> Bytes {
        let mut frames = Vec::new();
        if self.sequence_number == 0 {
            let created = ResponseEvent::Created(self.lifecycle());
            self.frame(&mut frames, created);
        }
        for event in self.events(event) {
            self.frame(&mut frames, event);
        }
        frames.extend_from_slice(&waiting(event));
        frames.into()
    }
}
