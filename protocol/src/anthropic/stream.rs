//! The events of a streamed message, in their order: `message_start`; for each block `content_block_start`, deltas and
//! `content_block_stop`; `message_delta`, `message_stop`. A `ping` may come anywhere, and an `error` comes last.

use serde::Serialize;
use utoipa::ToSchema;

use super::{AnswerBlock, MessageAnswer, MessageUsage, StopReason};

/// One event. On the wire, `event:` holds the same name as its `type`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = MessageStreamEvent)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent {
    /// The answer begins.
    MessageStart {
        /// It, with nothing in it yet.
        message: MessageAnswer,
    },
    /// A block begins.
    ContentBlockStart {
        /// Its number, from 0.
        index: u32,
        /// It, with nothing in it yet.
        content_block: AnswerBlock,
    },
    /// A block goes on.
    ContentBlockDelta {
        /// Its number.
        index: u32,
        /// What comes to it.
        delta: BlockDelta,
    },
    /// A block is whole.
    ContentBlockStop {
        /// Its number.
        index: u32,
    },
    /// The answer is whole.
    MessageDelta {
        /// Why it ended.
        delta: MessageEnd,
        /// What it consumed in all.
        usage: MessageUsage,
    },
    /// The stream is whole.
    MessageStop,
    /// The stream lives.
    Ping,
}

impl StreamEvent {
    /// The name that goes into the `event:` line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
            Self::Ping => "ping",
        }
    }
}

/// What comes to a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    /// To a text.
    TextDelta {
        /// Text to append.
        text: String,
    },
    /// To thoughts.
    ThinkingDelta {
        /// Text to append.
        thinking: String,
    },
    /// Ends thoughts.
    SignatureDelta {
        /// Always empty: nothing is signed here.
        signature: &'static str,
    },
    /// To a call's input.
    InputJsonDelta {
        /// JSON text to append.
        partial_json: String,
    },
}

/// Why a streamed answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MessageEnd {
    /// Why.
    pub stop_reason: StopReason,
    /// The stop sequence that ended it, if one did.
    pub stop_sequence: Option<String>,
}
