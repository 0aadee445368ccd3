//! What a caller of POST /v1/messages sends.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Request body of POST /v1/messages and /v1/messages/count_tokens. Unknown fields are accepted; known ones are honoured
/// or refused by name. `cache_control`, `metadata`, `service_tier`, `speed` and `diagnostics` are accepted and mean
/// nothing here: prompts that begin alike are always computed once.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(example = json!({
    "model": "smollm2-135m-instruct",
    "max_tokens": 256,
    "messages": [{"role": "user", "content": "Say hello."}]
}))]
pub struct MessagesRequest {
    /// A model's name, or an alias; the server's default model, if it has one, where this is absent.
    #[serde(default)]
    pub model: String,
    /// Tokens to generate at most, thoughts included; required by POST /v1/messages. Where the context holds less, the
    /// answer ends there with `model_context_window_exceeded`.
    pub max_tokens: Option<u32>,
    /// The conversation so far; its last turn is not the assistant's. Turns of the same speaker in a row are one turn.
    pub messages: Vec<MessageTurn>,
    /// Instructions that come before the conversation: a string, or text blocks.
    pub system: Option<TurnContent>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// Up to 16 strings; generation ends before any of them.
    pub stop_sequences: Option<Vec<String>>,
    /// 0 (greedy) to 1; 1 if absent.
    pub temperature: Option<f32>,
    /// Nucleus, 0 to 1; 1 if absent.
    pub top_p: Option<f32>,
    /// Only this many of the likeliest tokens.
    pub top_k: Option<u32>,
    /// Tools that the model may call.
    pub tools: Option<Vec<MessageTool>>,
    /// Which of them it must or must not call.
    pub tool_choice: Option<MessageToolChoice>,
    /// Whether the model thinks first, as far as its chat template lets that be said; it does not if absent.
    pub thinking: Option<Thinking>,
    /// What the answer must be, and how much effort goes into it.
    pub output_config: Option<OutputConfig>,
    /// Older place of `output_config.format`.
    pub output_format: Option<OutputFormat>,
    /// What is left out of the conversation before the model sees it.
    pub context_management: Option<ContextManagement>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub container: Option<Value>,
    /// Must be absent or empty.
    #[schema(value_type = Option<Vec<Object>>)]
    pub mcp_servers: Option<Vec<Value>>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub compaction: Option<Value>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub thread: Option<Value>,
    /// Must be absent or "global".
    pub inference_geo: Option<String>,
}

/// One turn.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct MessageTurn {
    /// Who speaks.
    pub role: TurnRole,
    /// What is said: a string, or blocks.
    pub content: TurnContent,
    /// Of a system's turn: never (the default), or next_user_message for one that a later user's turn makes void.
    pub clear_at: Option<String>,
    /// Of a system's turn; must be absent.
    #[schema(value_type = Option<Object>)]
    pub output_config: Option<Value>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are Anthropic's")]
pub enum TurnRole {
    User,
    Assistant,
    System,
}

/// A string, or blocks.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TurnContent {
    Text(String),
    Blocks(Vec<Block>),
}

/// One block of a turn.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct Block {
    /// text, tool_use, tool_result, thinking or redacted_thinking. The last is accepted and passed over: there is nothing
    /// in it that a model could read.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a text.
    pub text: Option<String>,
    /// Of a thinking: what was thought.
    pub thinking: Option<String>,
    /// Of a tool_use: ties a result to it.
    pub id: Option<String>,
    /// Of a tool_use: the tool.
    pub name: Option<String>,
    /// Of a tool_use: the tool's input, an object.
    #[schema(value_type = Option<Object>)]
    pub input: Option<Value>,
    /// Of a tool_result: which call it answers.
    pub tool_use_id: Option<String>,
    /// Of a tool_result: a string, or text blocks; nothing if absent.
    #[schema(no_recursion)]
    pub content: Option<TurnContent>,
    /// Of a tool_result: whether the call failed, of which the model is told in words.
    pub is_error: Option<bool>,
}

/// A tool.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct MessageTool {
    /// Absent or custom; tools that Anthropic's servers or models bring along are refused by name.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Letters, digits, `_` and `-`, at most 128.
    pub name: String,
    /// What it does, for the model to read.
    pub description: Option<String>,
    /// The JSON schema of its input.
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
    /// Whether generated input is made to fit the schema.
    pub strict: Option<bool>,
    /// Inputs that show how it is used, for the model to read.
    #[schema(value_type = Option<Vec<Object>>)]
    pub input_examples: Option<Vec<Value>>,
    /// Must be absent or false.
    pub defer_loading: Option<bool>,
    /// Who may call it; if given, `direct` is among them.
    pub allowed_callers: Option<Vec<String>>,
}

/// Which tools a model must or must not call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct MessageToolChoice {
    /// auto, any, tool or none.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of tool: the tool that must be called.
    pub name: Option<String>,
    /// Whether the answer ends with its first call; false if absent.
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether the model thinks first.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct Thinking {
    /// enabled, adaptive or disabled.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of enabled: at least 1024 and less than `max_tokens`. Thoughts end when the model ends them, or with `max_tokens`.
    pub budget_tokens: Option<u32>,
    /// summarized, which tells thoughts as they are, or omitted, which tells only that there were some.
    pub display: Option<String>,
}

/// What an answer must be, and how much effort goes into it.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct OutputConfig {
    /// low, medium, high, xhigh or max, as far as the model's chat template lets that be said.
    pub effort: Option<String>,
    /// What the answer must be.
    pub format: Option<OutputFormat>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub task_budget: Option<Value>,
}

/// What an answer must be.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct OutputFormat {
    /// Always json_schema.
    #[serde(rename = "type")]
    pub kind: String,
    /// The schema.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

/// What is left out of a conversation.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ContextManagement {
    /// One after the other.
    pub edits: Option<Vec<ContextEdit>>,
}

/// One thing that is left out.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ContextEdit {
    /// clear_thinking_20251015: thoughts of earlier turns.
    #[serde(rename = "type")]
    pub kind: String,
    /// "all", `{"type": "all"}`, or `{"type": "thinking_turns", "value": 2}` for the last two turns with thoughts; one if
    /// absent.
    #[schema(value_type = Option<Object>)]
    pub keep: Option<Value>,
}
