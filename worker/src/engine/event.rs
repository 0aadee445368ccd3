//! What a sequence tells its receiver.

use protocol::ApiError;
use protocol::events::{FinishReason, Timings, TokenUsage};

/// One event of a sequence. A finish or a failure comes last.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Text was generated; never empty, never a part of a code point.
    Token {
        /// The text.
        text: String,
        /// Number of this event among its kind, from 0.
        index: u32,
    },
    /// Generation ended as it should.
    Finished(Finish),
    /// Generation ended otherwise.
    Failed(ApiError),
}

/// How a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Tokens in and out. The token that ends an answer is not counted: it has no text.
    pub usage: TokenUsage,
    /// Where the time went.
    pub timings: Timings,
}
