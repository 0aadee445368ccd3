//! POST /v1/completions: text to continue, no chat template applied.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::chat::{ChatFinishReason, Stop, StreamOptions};
use super::usage::{Usage, nullable_usage};

/// Request body. Unknown fields are accepted; known ones are honoured or refused by name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(example = json!({"model": "smollm2-135m-instruct", "prompt": "Once upon a time", "max_tokens": 16}))]
pub struct CompletionRequest {
    /// A model's name, or an alias; the server's default model, if it has one, where this is absent.
    #[serde(default)]
    pub model: String,
    /// What to continue; each of several prompts is continued on its own.
    pub prompt: CompletionPrompt,
    /// What stands after the gap that the answer fills, `prompt` being what stands before; not with `echo`. Only models with
    /// infill tokens fill gaps. Empty is the same as absent.
    pub suffix: Option<String>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// What a stream carries besides text.
    pub stream_options: Option<StreamOptions>,
    /// Tokens to generate at most; 16 if absent.
    pub max_tokens: Option<u32>,
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
    /// Choices to generate for each prompt, 1 to 128; 1 if absent.
    pub n: Option<u32>,
    /// Generate so many for each prompt and give the `n` whose tokens are likeliest; not with `stream`.
    pub best_of: Option<u32>,
    /// Begin each choice with the prompt.
    pub echo: Option<bool>,
    /// Tell log probabilities of tokens, and of this many of the likeliest; 0 to 20.
    pub logprobs: Option<u32>,
    /// -2 to 2; 0 if absent.
    pub frequency_penalty: Option<f32>,
    /// -2 to 2; 0 if absent.
    pub presence_penalty: Option<f32>,
    /// rbee: divides the positive and multiplies the negative logits of tokens that have been seen; above 0 to 10.
    pub repetition_penalty: Option<f32>,
    /// Token ids and what is added to their logits, -100 to 100.
    #[schema(value_type = Option<Object>)]
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// rbee: tokens before which neither an end of turn nor a stop string ends the answer.
    pub min_tokens: Option<u32>,
    /// rbee: go on past an end of turn, to the token limit.
    pub ignore_eos: Option<bool>,
}

/// What to continue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum CompletionPrompt {
    /// A text, in which special tokens are understood.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// A text as tokens of the model.
    Tokens(Vec<u32>),
    /// Several of these.
    ManyTokens(Vec<Vec<u32>>),
}

/// Answer, and each chunk of a stream.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Completion {
    /// cmpl-…, the same in every chunk.
    pub id: String,
    /// Always "text_completion".
    pub object: String,
    /// Seconds since 1970, the same in every chunk.
    pub created: i64,
    /// The model that answers.
    pub model: String,
    /// The choices of the first prompt, then those of the second and so on; in a stream, one of them or none.
    pub choices: Vec<CompletionChoice>,
    /// What it consumed; in a stream only with include_usage, and null until the last chunk.
    #[schema(value_type = Option<Usage>)]
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable_usage")]
    pub usage: Option<Option<Usage>>,
    /// Which build and backend answers.
    pub system_fingerprint: String,
}

/// One continuation, or what a chunk adds to it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CompletionChoice {
    /// The text.
    pub text: String,
    /// Its number, from 0.
    pub index: u32,
    /// Its tokens' log probabilities, if they were asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended; in a stream, in the last chunk of the choice.
    pub finish_reason: Option<ChatFinishReason>,
}

/// Log probabilities in the older shape: lists side by side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// How likely each was; null for a prompt's first token.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens in each place; null for a prompt's first token, and everywhere if none were asked for.
    #[schema(value_type = Vec<Object>)]
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token's text begins, in characters from the beginning of the choice's text.
    pub text_offset: Vec<usize>,
}
