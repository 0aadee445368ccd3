//! POST /v1/chat/completions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Request body. Unknown fields are accepted; known ones are honoured or refused by name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(example = json!({
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "Say hello."}],
    "stream": true
}))]
pub struct ChatCompletionRequest {
    /// A model's name.
    pub model: String,
    /// The conversation so far.
    pub messages: Vec<ChatMessage>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// What a stream carries besides text.
    pub stream_options: Option<StreamOptions>,
    /// Tokens to generate at most (older name).
    pub max_tokens: Option<u32>,
    /// Tokens to generate at most.
    pub max_completion_tokens: Option<u32>,
    /// 0 (greedy) to 2; 1 if absent.
    pub temperature: Option<f32>,
    /// Nucleus, 0 to 1; 1 if absent.
    pub top_p: Option<f32>,
    /// rbee: only this many of the likeliest tokens.
    pub top_k: Option<u32>,
    /// Any JSON number; the same seed and request give the same tokens.
    #[schema(value_type = Option<i64>)]
    pub seed: Option<serde_json::Number>,
    /// Up to four strings; generation ends before any of them.
    pub stop: Option<Stop>,
    /// Choices to generate: 1.
    pub n: Option<u32>,
    /// Must be absent or 0.
    pub frequency_penalty: Option<f32>,
    /// Must be absent or 0.
    pub presence_penalty: Option<f32>,
    /// Must be absent or without entries that name a token.
    #[schema(value_type = Option<Object>)]
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Must be absent or false.
    pub logprobs: Option<bool>,
    /// Must be absent or 0.
    pub top_logprobs: Option<u32>,
    /// Must be absent or `{"type": "text"}`.
    #[schema(value_type = Option<Object>)]
    pub response_format: Option<Value>,
    /// Must be absent or empty.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// Must be absent, "none" or "auto".
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// Must be absent or empty (older name of tools).
    #[schema(value_type = Option<Vec<Object>>)]
    pub functions: Option<Vec<Value>>,
    /// Must be absent, "none" or "auto" (older name of tool_choice).
    #[schema(value_type = Option<Object>)]
    pub function_call: Option<Value>,
    /// Must be absent or `["text"]`.
    pub modalities: Option<Vec<String>>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub audio: Option<Value>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub web_search_options: Option<Value>,
    /// Must be absent or "none": none of the models reasons in a channel of its own yet.
    pub reasoning_effort: Option<String>,
}

/// One turn, with every role and content shape that OpenAI documents.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said; may be null for an assistant.
    pub content: Option<Content>,
    /// The speaker's name; accepted, no template uses it.
    pub name: Option<String>,
    /// Must be absent or empty.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tool_calls: Option<Vec<Value>>,
    /// Which call a tool's message answers.
    pub tool_call_id: Option<String>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are OpenAI's")]
pub enum Role {
    Developer,
    System,
    User,
    Assistant,
    Tool,
    Function,
}

impl Role {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Developer => "developer",
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Function => "function",
        }
    }
}

/// A message's content: a string, or parts.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

/// One part of a message's content.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ContentPart {
    /// text, refusal, image_url, input_audio or file.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a text part.
    pub text: Option<String>,
    /// The text of a refusal part.
    pub refusal: Option<String>,
}

/// One stop string, or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Stop {
    One(String),
    Many(Vec<String>),
}

/// What a stream carries besides text.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// One more chunk with the usage at the end.
    pub include_usage: Option<bool>,
    /// Accepted; chunks are not padded.
    pub include_obfuscation: Option<bool>,
}

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
    /// One choice.
    pub choices: Vec<Choice>,
    /// What it consumed.
    pub usage: Usage,
    /// Which build and backend answered.
    pub system_fingerprint: String,
}

/// One answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Choice {
    /// Always 0.
    pub index: u32,
    /// The answer.
    pub message: AssistantMessage,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    pub logprobs: Option<Value>,
    /// Why it ended.
    pub finish_reason: ChatFinishReason,
}

/// The model's turn.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AssistantMessage {
    /// Always assistant.
    pub role: Role,
    /// The text.
    pub content: String,
    /// Always null.
    pub refusal: Option<String>,
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

/// What an answer consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names are OpenAI's")]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub total_tokens: u32,
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

/// What a chunk adds to the choice.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChunkChoice {
    /// Always 0.
    pub index: u32,
    /// The addition.
    pub delta: Delta,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    pub logprobs: Option<Value>,
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
}

/// `usage` has three states on the wire: absent, null, and an object.
mod nullable_usage {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Usage;

    #[expect(clippy::ref_option, clippy::option_option, reason = "serde's `with` fixes the signature")]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Option<Usage>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.flatten().serialize(serializer)
    }

    #[expect(clippy::option_option, reason = "absent, null and an object are three things")]
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<Usage>>, D::Error> {
        Option::<Usage>::deserialize(deserializer).map(Some)
    }
}
