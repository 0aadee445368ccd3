//! The events of one task, from queue to end: what a worker sends for an execution and what /v2 tells of a task.
//!
//! On the wire each is a server-sent event; `event:` holds [`TaskEvent::name`], `data:` the JSON of the variant's
//! content. Exactly one `end` or `error` comes, and it comes last.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::vectors::EmbedResponse;
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
    /// The prompt as the model read it, if that was asked for.
    Prompt(Prompt),
    /// Text was generated.
    Token(Token),
    /// The model thought.
    Reasoning(Reasoning),
    /// The model calls a tool.
    ToolCall(ToolCallDelta),
    /// What was made in one piece: the vectors of texts.
    Result(EmbedResponse),
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// The text that this step added; never a part of a code point.
    pub token: String,
    /// Number of this token event in its choice, from 0.
    pub index: u32,
    /// Which of several answers it belongs to, from 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub choice: u32,
    /// The model's tokens in this text, if log probabilities were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
}

/// Choice 0 needs no telling.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_first(choice: &u32) -> bool {
    *choice == 0
}

/// Data of a `prompt` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Its tokens, if log probabilities were asked for; the first has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
}

/// Data of a `reasoning` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reasoning {
    /// The text that this step added.
    pub text: String,
    /// Which of several answers it belongs to, from 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub choice: u32,
}

/// Data of a `tool_call` event: the first of a call has its id and name, the others add to its arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToolCallDelta {
    /// Which of several answers it belongs to, from 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub choice: u32,
    /// Number of the call in its answer, from 0.
    pub index: u32,
    /// Ties an answer to the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The tool's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON text to append to the arguments.
    pub arguments: String,
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenLogprob {
    /// The token.
    #[serde(flatten)]
    pub token: LikelyToken,
    /// The likeliest tokens in its place, as many as were asked for.
    pub top: Vec<LikelyToken>,
}

/// A token and its log probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LikelyToken {
    /// Its number in the vocabulary.
    pub id: u32,
    /// Its text; a part of a code point shows as U+FFFD.
    pub text: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability before temperature and the like; none for a prompt's first token.
    pub logprob: Option<f32>,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop string appeared.
    Stop,
    /// `max_tokens` or the context limit was reached.
    Length,
    /// The model called tools.
    ToolCalls,
    /// The caller cancelled.
    Cancelled,
}

/// What a task consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenUsage {
    /// Tokens of the prompt, chat template included.
    pub prompt_tokens: u32,
    /// Tokens generated in all choices, the end-of-turn token not counted.
    pub completion_tokens: u32,
    /// Tokens of the prompt that another request had left computed.
    #[serde(default)]
    pub cached_tokens: u32,
    /// Generated tokens that were thought, not said.
    #[serde(default)]
    pub reasoning_tokens: u32,
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
    /// Why generation ended; of several answers, the first.
    pub finish_reason: FinishReason,
    /// Why each of several answers ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finish_reasons: Vec<FinishReason>,
    /// The stop string that ended each answer, null for one that ended otherwise; absent if none of them ended so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop_sequences: Vec<Option<String>>,
    /// What the task consumed.
    pub usage: TokenUsage,
    /// Where the worker's time went.
    pub timings: Timings,
}

impl End {
    /// Why the answer of this number ended.
    pub fn finish_reason_of(&self, choice: usize) -> FinishReason {
        self.finish_reasons.get(choice).copied().unwrap_or(self.finish_reason)
    }

    /// The stop string that ended the answer of this number, if one did.
    pub fn stop_sequence_of(&self, choice: usize) -> Option<&str> {
        self.stop_sequences.get(choice)?.as_deref()
    }
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
    Prompt => "prompt",
    Token => "token",
    Reasoning => "reasoning",
    ToolCall => "tool_call",
    Result => "result",
    End => "end",
    Error => "error",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_frame_is_the_guides() {
        let event = TaskEvent::Token(Token { token: "Once".into(), index: 0, ..Token::default() });
        assert_eq!(event.data().unwrap(), r#"{"token":"Once","index":0}"#);
        assert_eq!(TaskEvent::parse(event.name(), &event.data().unwrap()).unwrap(), Some(event));
    }

    #[test]
    fn an_unknown_event_is_passed_over_and_a_broken_one_is_not() {
        assert_eq!(TaskEvent::parse("hologram", "{}").unwrap(), None);
        assert!(TaskEvent::parse("token", "{}").is_err());
    }
}
