//! Texts as tokens and back: what a worker is asked, and the queen's endpoints in the form that vLLM's clients know.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::openai::chat;
use crate::worker::{ExecuteRequest, Message, Tool, ToolChoice};

/// Body of a worker's POST /v1/tokenize: the prompt of an execution, in any of its forms, of which exactly one is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// Text to continue, special tokens understood, no template applied. An encoder reads it as a text of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The same as tokens of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<Vec<u32>>,
    /// What stands after the gap that is to be filled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// What a user says: one user turn where the model has a chat template, text to continue where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// A conversation to answer, formatted by the model's own chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Tools that the model may call; with `messages` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Which of them it must or must not call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Further names that the chat template sees.
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_options: Option<Map<String, Value>>,
    /// Whether the tokens that the model's prompts begin and end with are there too, as they are in an execution.
    #[serde(default = "yes")]
    pub add_special_tokens: bool,
    /// Tell each token as the vocabulary spells it.
    #[serde(default)]
    pub return_token_strs: bool,
}

const fn yes() -> bool {
    true
}

/// The prompt of an execution.
impl From<&ExecuteRequest> for TokenizeRequest {
    fn from(order: &ExecuteRequest) -> Self {
        Self {
            prompt: order.prompt.clone(),
            prompt_tokens: order.prompt_tokens.clone(),
            suffix: order.suffix.clone(),
            instruction: order.instruction.clone(),
            messages: order.messages.clone(),
            tools: order.tools.clone(),
            tool_choice: order.tool_choice.clone(),
            template_options: order.template_options.clone(),
            add_special_tokens: true,
            return_token_strs: false,
        }
    }
}

/// The execution whose prompt this is.
impl From<TokenizeRequest> for ExecuteRequest {
    fn from(request: TokenizeRequest) -> Self {
        Self {
            prompt: request.prompt,
            prompt_tokens: request.prompt_tokens,
            suffix: request.suffix,
            instruction: request.instruction,
            messages: request.messages,
            tools: request.tools,
            tool_choice: request.tool_choice,
            template_options: request.template_options,
            ..Self::default()
        }
    }
}

/// Answer of a worker's POST /v1/tokenize.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenizeResponse {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// How many there are; more than the context holds are counted too.
    pub count: u32,
    /// Tokens that prompt and answer may hold together.
    pub context_length: u32,
    /// Each token as the vocabulary spells it, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_strs: Option<Vec<String>>,
}

/// Body of a worker's POST /v1/detokenize.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// Tokens of the model.
    pub tokens: Vec<u32>,
}

/// Answer of a worker's POST /v1/detokenize.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeResponse {
    /// The text that makes these tokens, special ones by their names; what is no code point shows as U+FFFD.
    pub text: String,
}

/// Body of the queen's POST /v1/tokenize. Unknown fields are accepted; known ones are honoured or refused by name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(example = json!({"model": "smollm2-135m-instruct", "prompt": "Hello, world!"}))]
pub struct TokenizationRequest {
    /// A model's name, of whatever kind.
    pub model: String,
    /// A text as POST /v1/completions takes it. Either this or `messages` is given.
    pub prompt: Option<String>,
    /// A conversation as POST /v1/chat/completions takes it.
    pub messages: Option<Vec<chat::ChatMessage>>,
    /// Tools that the model may call; with `messages` only.
    pub tools: Option<Vec<chat::Tool>>,
    /// Which of them it must or must not call.
    pub tool_choice: Option<chat::ToolChoice>,
    /// As in a chat completion.
    pub reasoning_effort: Option<String>,
    /// Further names that the model's chat template sees, such as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the tokens that the model's prompts begin and end with are there too, as they are in a request for an
    /// answer; true if absent.
    pub add_special_tokens: Option<bool>,
    /// Tell each token as the vocabulary spells it.
    pub return_token_strs: Option<bool>,
    /// Must be absent or true: a conversation is read up to where the answer begins.
    pub add_generation_prompt: Option<bool>,
    /// Must be absent or false.
    pub continue_final_message: Option<bool>,
    /// Must be absent: the model's own template is used.
    pub chat_template: Option<String>,
}

/// Answer of the queen's POST /v1/tokenize.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Tokenization {
    /// How many tokens there are: what a request for an answer would tell as `usage.prompt_tokens`.
    pub count: u32,
    /// Tokens that prompt and answer may hold together.
    pub max_model_len: u32,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Each token as the vocabulary spells it; null unless that was asked for.
    pub token_strs: Option<Vec<String>>,
}

/// Body of the queen's POST /v1/detokenize.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(example = json!({"model": "smollm2-135m-instruct", "tokens": [19556, 28, 905, 17]}))]
pub struct DetokenizationRequest {
    /// A model's name, of whatever kind.
    pub model: String,
    /// Tokens of the model.
    pub tokens: Vec<u32>,
}

/// Answer of the queen's POST /v1/detokenize.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Detokenization {
    /// The text that makes these tokens, special ones by their names.
    pub prompt: String,
}
