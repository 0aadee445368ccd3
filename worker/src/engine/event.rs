//! What a generation tells its receiver.

use protocol::ApiError;
use protocol::events::{FinishReason, Prompt, Reasoning, Timings, Token, TokenUsage, ToolCallDelta};

/// One event of a generation. A finish or a failure comes last.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt as the model read it.
    Prompt(Prompt),
    /// Text was generated; never a part of a code point, and empty only where log probabilities remain to be told.
    Token(Token),
    /// The model thought.
    Reasoning(Reasoning),
    /// The model calls a tool.
    ToolCall(ToolCallDelta),
    /// Generation ended as it should.
    Finished(Finish),
    /// Generation ended otherwise.
    Failed(ApiError),
}

/// How a generation ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why each choice ended; there is at least one.
    pub reasons: Vec<FinishReason>,
    /// The stop string that ended each, if one did.
    pub stop_sequences: Vec<Option<String>>,
    /// Tokens in and out. The token that ends an answer is not counted: it has no text.
    pub usage: TokenUsage,
    /// Where the time went.
    pub timings: Timings,
}
