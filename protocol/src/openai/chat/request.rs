//! What a caller sends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::openai::metadata::Metadata;

/// Request body. Unknown fields are accepted; known ones are honoured or refused by name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(example = json!({
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "Say hello."}],
    "stream": true
}))]
pub struct ChatCompletionRequest {
    /// A model's name, or an alias; the server's default model, if it has one, where this is absent.
    #[serde(default)]
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
    /// rbee: only tokens at least this times as probable as the likeliest one; 0 to 1.
    pub min_p: Option<f32>,
    /// rbee: locally typical sampling, 0 to 1; 1 (off) if absent.
    pub typical_p: Option<f32>,
    /// Any JSON number; the same seed and request give the same tokens.
    #[schema(value_type = Option<i64>)]
    pub seed: Option<serde_json::Number>,
    /// Up to four strings; generation ends before any of them.
    pub stop: Option<Stop>,
    /// Choices to generate, 1 to 128; 1 if absent.
    pub n: Option<u32>,
    /// -2 to 2; 0 if absent.
    pub frequency_penalty: Option<f32>,
    /// -2 to 2; 0 if absent.
    pub presence_penalty: Option<f32>,
    /// rbee: divides the positive and multiplies the negative logits of tokens that have been seen; above 0 to 10.
    pub repetition_penalty: Option<f32>,
    /// Token ids and what is added to their logits, -100 to 100.
    #[schema(value_type = Option<Object>)]
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Tell each token's log probability.
    pub logprobs: Option<bool>,
    /// And those of this many of the likeliest, 0 to 20; with `logprobs` only.
    pub top_logprobs: Option<u32>,
    /// rbee: tokens before which neither an end of turn nor a stop string ends the answer.
    pub min_tokens: Option<u32>,
    /// rbee: go on past an end of turn, to the token limit.
    pub ignore_eos: Option<bool>,
    /// What the answer must be.
    pub response_format: Option<ResponseFormat>,
    /// Tools that the model may call.
    pub tools: Option<Vec<Tool>>,
    /// Which of them it must or must not call.
    pub tool_choice: Option<ToolChoice>,
    /// Whether one answer may call several tools; true if absent.
    pub parallel_tool_calls: Option<bool>,
    /// Must be absent or empty (older name of tools).
    #[schema(value_type = Option<Vec<Object>>)]
    pub functions: Option<Vec<Value>>,
    /// Must be absent, "none" or "auto" (older name of tool_choice).
    #[schema(value_type = Option<Object>)]
    pub function_call: Option<Value>,
    /// Must be absent or `["text"]`.
    pub modalities: Option<Vec<String>>,
    /// Means nothing without a modality that is refused.
    #[schema(value_type = Option<Object>)]
    pub audio: Option<Value>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub web_search_options: Option<Value>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub moderation: Option<Value>,
    /// none, minimal, low, medium, high, xhigh or max: whether and how much the model thinks first, as far as its chat
    /// template lets that be said.
    pub reasoning_effort: Option<String>,
    /// Whether the answer is kept, to be asked for later; false if absent.
    pub store: Option<bool>,
    /// The band of the queue: auto or default (interactive), priority (high) or flex (low).
    #[serde(default)]
    pub service_tier: Option<String>,
    /// Requests with the same one go to the same worker while it has a free slot.
    #[serde(default)]
    pub prompt_cache_key: Option<String>,
    /// Up to 16 pairs that are kept with the answer; keys of up to 64 characters, values of up to 512.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    pub metadata: Option<Metadata>,
    /// rbee: further names that the model's chat template sees, such as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// One turn, with every role and content shape that OpenAI documents.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said; may be null for an assistant.
    pub content: Option<Content>,
    /// The speaker's name: of a tool's turn, the tool's.
    pub name: Option<String>,
    /// Calls that the assistant made in this turn.
    pub tool_calls: Option<Vec<MessageToolCall>>,
    /// Must be absent (older name of tool_calls).
    #[schema(value_type = Option<Object>)]
    pub function_call: Option<Value>,
    /// What an assistant said instead of an answer.
    pub refusal: Option<String>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub audio: Option<Value>,
    /// Which call a tool's message answers.
    pub tool_call_id: Option<String>,
    /// What the assistant thought first, as answers told it.
    pub reasoning_content: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentPart {
    /// text, refusal, image_url, input_audio or file.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a text part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The text of a refusal part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// A call of a tool, as an assistant's message holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageToolCall {
    /// Ties an answer to its call.
    pub id: String,
    /// Always "function".
    #[serde(rename = "type")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// A function and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// The arguments as JSON text, which a model may get wrong unless its tool is strict.
    pub arguments: String,
}

/// A tool.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = ChatTool)]
pub struct Tool {
    /// function; nothing else is supported.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: Option<FunctionTool>,
}

/// A function that a model may call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct FunctionTool {
    /// Letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// What it does, for the model to read.
    pub description: Option<String>,
    /// The JSON schema of its arguments; none if absent.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether generated arguments are made to fit the schema.
    pub strict: Option<bool>,
}

/// Which tools a model must or must not call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = ChatToolChoice)]
#[serde(untagged)]
pub enum ToolChoice {
    /// none, auto or required.
    Mode(String),
    /// One tool, or some of them.
    Named(NamedTool),
}

/// One tool, or some of them.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct NamedTool {
    /// function or allowed_tools.
    #[serde(rename = "type")]
    pub kind: String,
    /// The tool that must be called.
    pub function: Option<FunctionName>,
    /// The tools that may be called.
    pub allowed_tools: Option<AllowedTools>,
}

/// A function by its name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct FunctionName {
    /// The name.
    pub name: String,
}

/// Some of the tools.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct AllowedTools {
    /// auto or required.
    pub mode: String,
    /// The tools by their names.
    pub tools: Vec<AllowedTool>,
}

/// One of the tools that may be called.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct AllowedTool {
    /// Always "function".
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: Option<FunctionName>,
}

/// What an answer must be.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ResponseFormat {
    /// text, json_object, json_schema; rbee: regex or lark.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of json_schema.
    pub json_schema: Option<JsonSchemaFormat>,
    /// rbee, of regex: the expression that matches the whole answer.
    pub pattern: Option<String>,
    /// rbee, of lark: the grammar.
    pub grammar: Option<String>,
}

/// A schema that an answer fits.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct JsonSchemaFormat {
    /// Letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// Accepted; the model does not see it.
    pub description: Option<String>,
    /// The schema.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Answers are made to fit the schema whether or not this is set.
    pub strict: Option<bool>,
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
