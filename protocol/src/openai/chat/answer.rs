//! What a caller gets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::request::{MessageToolCall, Role};
use crate::openai::metadata::Metadata;
use crate::openai::usage::{Usage, nullable_usage};

/// Answer without streaming.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletion {
    /// chatcmpl-…
    pub id: String,
    /// Always "chat.completion".
    pub object: String,
    /// Seconds since 1970.
    pub created: i64,
    /// The model that answered.
    pub model: String,
    /// As many as `n` asked for.
    pub choices: Vec<Choice>,
    /// What it consumed.
    pub usage: Usage,
    /// Which build and backend answered.
    pub system_fingerprint: String,
    /// Of one that is kept: what the caller wrote on it.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

/// One answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Choice {
    /// Its number, from 0.
    pub index: u32,
    /// The answer.
    pub message: AnswerMessage,
    /// Its tokens' log probabilities, if they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Why it ended.
    pub finish_reason: ChatFinishReason,
}

/// The model's turn.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AnswerMessage {
    /// Always assistant.
    pub role: Role,
    /// The text; null if there are only calls.
    pub content: Option<String>,
    /// Always null.
    pub refusal: Option<String>,
    /// rbee: what the model thought first, where it marks that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<MessageToolCall>>,
}

/// The log probabilities of an answer's text.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Logprobs {
    /// Its tokens.
    pub content: Vec<TokenLogprob>,
    /// Always null.
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ChatTokenLogprob)]
pub struct TokenLogprob {
    /// Its text; a part of a code point shows as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability; -9999 if that is next to nothing.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The likeliest tokens in its place, as many as were asked for.
    pub top_logprobs: Vec<TopLogprob>,
}

/// A token that was likely.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopLogprob {
    /// Its text; a part of a code point shows as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are OpenAI's")]
pub enum ChatFinishReason {
    Stop,
    Length,
    ToolCalls,
}

/// One chunk of a stream.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletionChunk {
    /// chatcmpl-…, the same in every chunk.
    pub id: String,
    /// Always "chat.completion.chunk".
    pub object: String,
    /// Seconds since 1970, the same in every chunk.
    pub created: i64,
    /// The model that answers.
    pub model: String,
    /// Which build and backend answers.
    pub system_fingerprint: String,
    /// One choice; none in the usage chunk.
    pub choices: Vec<ChunkChoice>,
    /// Only with include_usage: null until the last chunk.
    #[schema(value_type = Option<Usage>)]
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable_usage")]
    pub usage: Option<Option<Usage>>,
}

/// What a chunk adds to a choice.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChunkChoice {
    /// Its number, from 0.
    pub index: u32,
    /// The addition.
    pub delta: Delta,
    /// The log probabilities of the tokens of `delta.content`, if they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Why it ended, in the last chunk of the choice.
    pub finish_reason: Option<ChatFinishReason>,
}

/// The addition.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Delta {
    /// In the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Text to append.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// rbee: thoughts to append.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Additions to calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<CallChunk>>,
}

/// What a chunk adds to a call.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct CallChunk {
    /// The call's number, from 0.
    pub index: u32,
    /// In the call's first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// In the call's first chunk: "function".
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The addition.
    pub function: FunctionChunk,
}

/// What a chunk adds to a function's call.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct FunctionChunk {
    /// In the call's first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON text to append.
    pub arguments: String,
}
