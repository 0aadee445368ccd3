//! Anthropic's wire types, written by hand from the official description: what the official SDKs and Claude Code send
//! and expect.

mod answer;
mod error;
mod models;
mod request;
mod stream;

pub use answer::{AnswerBlock, InputTokens, MessageAnswer, MessageUsage, OutputTokensDetails, StopReason};
pub use error::AnthropicError;
pub use models::{ModelInfo, ModelPage};
pub use request::{
    Block, ContextEdit, ContextManagement, MessageTool, MessageToolChoice, MessageTurn, MessagesRequest,
    OutputConfig, OutputFormat, Thinking, TurnContent, TurnRole,
};
pub use stream::{BlockDelta, MessageEnd, StreamEvent};
