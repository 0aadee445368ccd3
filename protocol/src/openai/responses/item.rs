//! The items that a conversation is made of, as they are answered and kept.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::TextOrParts;
use crate::openai::chat::{Role, TokenLogprob};

/// One item of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseItem)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// Something said, by whomever.
    Message(MessageItem),
    /// A call of a function by the model.
    FunctionCall(FunctionCallItem),
    /// What such a call came to.
    FunctionCallOutput(FunctionCallOutputItem),
    /// What the model thought.
    Reasoning(ReasoningItem),
}

impl Item {
    /// Its id.
    pub fn id(&self) -> &str {
        match self {
            Self::Message(MessageItem { id, .. })
            | Self::FunctionCall(FunctionCallItem { id, .. })
            | Self::FunctionCallOutput(FunctionCallOutputItem { id, .. })
            | Self::Reasoning(ReasoningItem { id, .. }) => id,
        }
    }
}

/// Something said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseMessageItem)]
pub struct MessageItem {
    /// msg_…
    pub id: String,
    /// Whether it is whole.
    pub status: ItemStatus,
    /// user, assistant, system or developer.
    pub role: Role,
    /// What was said.
    pub content: Vec<Part>,
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseFunctionCallItem)]
pub struct FunctionCallItem {
    /// fc_…
    pub id: String,
    /// Whether it is whole.
    pub status: ItemStatus,
    /// Ties an output to its call.
    pub call_id: String,
    /// The function's name.
    pub name: String,
    /// The arguments as JSON text.
    pub arguments: String,
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseFunctionCallOutputItem)]
pub struct FunctionCallOutputItem {
    /// fco_…
    pub id: String,
    /// Whether it is whole.
    pub status: ItemStatus,
    /// The call that it belongs to.
    pub call_id: String,
    /// A text, or parts of the type input_text.
    pub output: TextOrParts<Part>,
}

/// What the model thought: as content, or as a summary if one was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseReasoningItem)]
pub struct ReasoningItem {
    /// rs_…
    pub id: String,
    /// Whether it is whole.
    pub status: ItemStatus,
    /// Parts of the type summary_text.
    pub summary: Vec<Part>,
    /// Parts of the type reasoning_text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content: Vec<Part>,
}

/// Whether an item is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseItemStatus)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are OpenAI's")]
pub enum ItemStatus {
    InProgress,
    Completed,
    Incomplete,
}

/// One part of an item's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponsePart)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Text for the model.
    InputText {
        /// The text.
        text: String,
    },
    /// Text of the model.
    OutputText {
        /// The text.
        text: String,
        /// Always empty.
        #[schema(value_type = Vec<Object>)]
        #[serde(default)]
        annotations: Vec<Value>,
        /// Its tokens' log probabilities, if they were asked for.
        #[serde(default)]
        logprobs: Vec<TokenLogprob>,
    },
    /// The model's words where it would not answer.
    Refusal {
        /// The text.
        refusal: String,
    },
    /// A thought.
    ReasoningText {
        /// The text.
        text: String,
    },
    /// A thought, told as a summary.
    SummaryText {
        /// The text.
        text: String,
    },
}

impl Part {
    /// What the model says, without log probabilities.
    pub fn output_text(text: impl Into<String>) -> Self {
        Self::OutputText { text: text.into(), annotations: Vec::new(), logprobs: Vec::new() }
    }

    /// Its text, of whatever type it is.
    pub fn text(&self) -> &str {
        match self {
            Self::InputText { text }
            | Self::OutputText { text, .. }
            | Self::Refusal { refusal: text }
            | Self::ReasoningText { text }
            | Self::SummaryText { text } => text,
        }
    }
}
