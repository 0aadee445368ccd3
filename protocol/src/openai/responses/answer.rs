//! What a caller gets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Item, Reasoning, TextConfig, Tool, ToolChoice};
use crate::openai::metadata::Metadata;

/// An answer, with what was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Response {
    /// resp_…
    pub id: String,
    /// Always "response".
    pub object: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// How it stands.
    pub status: ResponseStatus,
    /// Seconds since 1970; null until it is completed.
    pub completed_at: Option<i64>,
    /// What went wrong; null if nothing did.
    pub error: Option<ResponseError>,
    /// Why it is not whole; null if it is.
    pub incomplete_details: Option<IncompleteDetails>,
    /// The request's.
    pub instructions: Option<String>,
    /// The request's.
    pub max_output_tokens: Option<u32>,
    /// The request's.
    pub max_tool_calls: Option<u32>,
    /// The model that answers.
    pub model: String,
    /// What the model thought, said and called, in this order.
    pub output: Vec<Item>,
    /// Whether one answer may call several tools.
    pub parallel_tool_calls: bool,
    /// The response that this one goes on from.
    pub previous_response_id: Option<String>,
    /// The request's.
    pub prompt_cache_key: Option<String>,
    /// The request's.
    pub reasoning: Reasoning,
    /// The request's.
    pub safety_identifier: Option<String>,
    /// Always "default".
    pub service_tier: String,
    /// Whether it is kept.
    pub store: bool,
    /// Whether it is made in the background.
    pub background: bool,
    /// What it was sampled with.
    pub temperature: f32,
    /// The request's.
    pub text: TextConfig,
    /// The request's.
    pub tool_choice: ToolChoice,
    /// The request's.
    pub tools: Vec<Tool>,
    /// The request's.
    pub top_logprobs: u32,
    /// What it was sampled with.
    pub top_p: f32,
    /// Always "disabled".
    pub truncation: String,
    /// What it consumed; null until it has ended.
    pub usage: Option<ResponseUsage>,
    /// The request's.
    pub user: Option<String>,
    /// The request's.
    #[schema(value_type = BTreeMap<String, String>)]
    pub metadata: Metadata,
}

/// How a response stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are OpenAI's")]
pub enum ResponseStatus {
    Queued,
    InProgress,
    Completed,
    Incomplete,
    Failed,
    Cancelled,
}

/// What went wrong, in the few words that OpenAI's clients know; the stream's `error` event has the code itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseError {
    /// The kind of error.
    pub code: ResponseErrorCode,
    /// What went wrong, in words and numbers.
    pub message: String,
}

/// The kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are OpenAI's")]
pub enum ResponseErrorCode {
    ServerError,
    RateLimitExceeded,
    InvalidPrompt,
}

/// Why a response is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncompleteDetails {
    /// Always "max_output_tokens": that limit, or the model's, was reached.
    pub reason: String,
}

/// What a response consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseUsage {
    /// Tokens of the prompt, chat template included.
    pub input_tokens: u32,
    /// More about these.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens generated.
    pub output_tokens: u32,
    /// More about these.
    pub output_tokens_details: OutputTokensDetails,
    /// Both together.
    pub total_tokens: u32,
}

/// More about a prompt's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputTokensDetails {
    /// Those that an earlier request had left computed.
    pub cached_tokens: u32,
    /// Always 0: what a prompt leaves to later ones is not counted, and costs nothing.
    pub cache_write_tokens: u32,
}

/// More about generated tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Those that were thought, not said.
    pub reasoning_tokens: u32,
}

/// What a response was made from: the items of all responses that it goes on from, and its own.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ResponseInputItems {
    /// Always "list".
    pub object: &'static str,
    /// The items of this page.
    pub data: Vec<Item>,
    /// The first item's id.
    pub first_id: Option<String>,
    /// The last item's id, to be given as `after`.
    pub last_id: Option<String>,
    /// Whether there are more after it.
    pub has_more: bool,
}

/// Answer of DELETE /v1/responses/{response_id}.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ResponseDeleted {
    /// The response's id.
    pub id: String,
    /// Always "response".
    pub object: &'static str,
    /// Always true.
    pub deleted: bool,
}

/// Answer of POST /v1/responses/input_tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ResponseInputTokens {
    /// Always "response.input_tokens".
    pub object: &'static str,
    /// Tokens that the request's prompt has, chat template included.
    pub input_tokens: u32,
}
