//! What a caller of POST /v1/messages gets.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// Answer without streaming; at the head of a stream, the same with nothing in it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "msg_4fd1ee9d1a6c4d0a8a6e3c9a5c0c2f6e", "type": "message", "role": "assistant", "model": "smollm2-135m-instruct",
    "content": [{"type": "text", "text": "Hello!"}], "stop_reason": "end_turn", "stop_sequence": null,
    "usage": {
        "input_tokens": 4, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 32, "output_tokens": 3,
        "output_tokens_details": {"thinking_tokens": 0}
    }
}))]
pub struct MessageAnswer {
    /// msg_…
    pub id: String,
    /// Always "message".
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Always "assistant".
    pub role: &'static str,
    /// The model that answered, by the name that it was asked by.
    pub model: String,
    /// Thoughts, text and calls.
    pub content: Vec<AnswerBlock>,
    /// Why it ended; null at the head of a stream.
    pub stop_reason: Option<StopReason>,
    /// The stop sequence that ended it, if one did.
    pub stop_sequence: Option<String>,
    /// What it consumed.
    pub usage: MessageUsage,
}

/// One block of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnswerBlock {
    /// What the model thought first, where it marks that.
    Thinking {
        /// The thoughts; empty if they are not to be shown.
        thinking: String,
        /// Always empty: nothing is signed here, and nobody asks for a signature.
        signature: &'static str,
    },
    /// What it said.
    Text {
        /// The text.
        text: String,
    },
    /// A tool that it calls.
    ToolUse {
        /// Ties the result to the call.
        id: String,
        /// The tool.
        name: String,
        /// Its input. What a model wrote that is no JSON object stands under `INVALID_JSON`.
        #[schema(value_type = Object)]
        input: Value,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended its turn.
    EndTurn,
    /// `max_tokens` was reached.
    MaxTokens,
    /// A stop sequence appeared.
    StopSequence,
    /// The model calls tools.
    ToolUse,
    /// The context was full before `max_tokens` was reached.
    ModelContextWindowExceeded,
}

/// What an answer consumed: its prompt's tokens are the first three together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct MessageUsage {
    /// Tokens of the prompt that had to be computed.
    pub input_tokens: u32,
    /// Always 0: what is kept for other prompts costs nothing more.
    pub cache_creation_input_tokens: u32,
    /// Tokens of the prompt that another request had left computed; known at the end of a stream, and 0 at its head.
    pub cache_read_input_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// More about the generated ones.
    pub output_tokens_details: OutputTokensDetails,
}

/// More about generated tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MessageOutputTokensDetails)]
pub struct OutputTokensDetails {
    /// Those that were thought, not said.
    pub thinking_tokens: u32,
}

/// Answer of POST /v1/messages/count_tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct InputTokens {
    /// Tokens of the prompt as the model would read it: conversation, instructions, tools and the chat template.
    pub input_tokens: u32,
}
