//! The events of one task, from queue to end: what a worker sends for an execution and what /v2 tells of a task.
//!
//! On the wire each is a server-sent event; `event:` holds [`TaskEvent::name`], `data:` the JSON of the variant's
//! content. Exactly one `end` or `error` comes, and it comes last.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ErrorEnvelope, WorkerId};

/// One event of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEvent {
    /// The task waits for a slot.
    Queued(Queued),
    /// Something a person may want to read while waiting, such as a model's load.
    Narration(Narration),
    /// A worker took the task; its prompt is tokenised.
    Started(Started),
    /// Text was generated.
    Token(Token),
    /// The task ended as it should.
    End(End),
    /// The task ended otherwise.
    Error(ErrorEnvelope),
}

/// Data of a `queued` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queued {
    /// Place in the queue; 1 is next.
    pub position: u32,
    /// Estimated wait in milliseconds, if there is ground for an estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
}

/// Data of a `narration` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Narration {
    /// One sentence for a person.
    pub message: String,
    /// How far along, from 0 to 1, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f32>,
}

/// Data of a `started` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Started {
    /// The worker that generates.
    pub worker_id: WorkerId,
    /// Tokens of the prompt, chat template included.
    pub prompt_tokens: u32,
    /// The seed in force, chosen by the worker if the request had none.
    pub seed: u64,
}

/// Data of a `token` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// The text that this step added; never a part of a code point.
    pub token: String,
    /// Number of this token event in its task, from 0.
    pub index: u32,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop string appeared.
    Stop,
    /// `max_tokens` or the context limit was reached.
    Length,
    /// The caller cancelled.
    Cancelled,
}

/// What a task consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenUsage {
    /// Tokens of the prompt, chat template included.
    pub prompt_tokens: u32,
    /// Tokens generated, the end-of-turn token not counted.
    pub completion_tokens: u32,
}

/// Where the worker's time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timings {
    /// From acceptance to the first generated token, in milliseconds.
    pub prefill_ms: f64,
    /// From the first generated token to the last, in milliseconds.
    pub decode_ms: f64,
}

/// Data of an `end` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct End {
    /// Always true.
    pub done: bool,
    /// Tokens generated.
    pub total_tokens: u32,
    /// Why generation ended.
    pub finish_reason: FinishReason,
    /// What the task consumed.
    pub usage: TokenUsage,
    /// Where the worker's time went.
    pub timings: Timings,
}

impl TaskEvent {
    /// Whether no event comes after this one.
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::End(_) | Self::Error(_))
    }
}

sse_events!(TaskEvent {
    Queued => "queued",
    Narration => "narration",
    Started => "started",
    Token => "token",
    End => "end",
    Error => "error",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_frame_is_the_guides() {
        let event = TaskEvent::Token(Token { token: "Once".into(), index: 0 });
        assert_eq!(event.data().unwrap(), r#"{"token":"Once","index":0}"#);
        assert_eq!(TaskEvent::parse(event.name(), &event.data().unwrap()).unwrap(), Some(event));
    }

    #[test]
    fn an_unknown_event_is_passed_over_and_a_broken_one_is_not() {
        assert_eq!(TaskEvent::parse("hologram", "{}").unwrap(), None);
        assert!(TaskEvent::parse("token", "{}").is_err());
    }
}
