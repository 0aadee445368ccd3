//! The events of a stream.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Item, Part, Response};
use crate::openai::chat::TokenLogprob;

/// Declares the events with the names that stand in the `event:` line and in `type`.
macro_rules! response_events {
    ($($(#[$doc:meta])* $variant:ident($content:ty) => $name:tt),* $(,)?) => {
        /// One event of a response's stream.
        #[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
        #[serde(tag = "type")]
        pub enum ResponseEvent {
            $($(#[$doc])* #[serde(rename = $name)] $variant($content)),*
        }

        impl ResponseEvent {
            /// The name that goes into the `event:` line.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name),* }
            }
        }
    };
}

response_events! {
    /// Always the first.
    Created(Lifecycle) => "response.created",
    /// It waits for a worker.
    Queued(Lifecycle) => "response.queued",
    /// A worker has begun.
    InProgress(Lifecycle) => "response.in_progress",
    /// The last, if all went well.
    Completed(Lifecycle) => "response.completed",
    /// The last, if a limit of tokens was reached.
    Incomplete(Lifecycle) => "response.incomplete",
    /// The last, if something went wrong.
    Failed(Lifecycle) => "response.failed",
    /// An item begins.
    OutputItemAdded(ItemEvent) => "response.output_item.added",
    /// An item is whole.
    OutputItemDone(ItemEvent) => "response.output_item.done",
    /// A part of an item begins.
    ContentPartAdded(PartEvent) => "response.content_part.added",
    /// A part of an item is whole.
    ContentPartDone(PartEvent) => "response.content_part.done",
    /// Text to append.
    OutputTextDelta(TextDelta) => "response.output_text.delta",
    /// The text is whole.
    OutputTextDone(TextDone) => "response.output_text.done",
    /// Arguments to append.
    ArgumentsDelta(ArgumentsDelta) => "response.function_call_arguments.delta",
    /// The arguments are whole.
    ArgumentsDone(ArgumentsDone) => "response.function_call_arguments.done",
    /// Thoughts to append.
    ReasoningDelta(ReasoningDelta) => "response.reasoning_text.delta",
    /// The thoughts are whole.
    ReasoningDone(ReasoningDone) => "response.reasoning_text.done",
    /// A summary begins.
    SummaryPartAdded(SummaryPartEvent) => "response.reasoning_summary_part.added",
    /// A summary is whole.
    SummaryPartDone(SummaryPartEvent) => "response.reasoning_summary_part.done",
    /// A summary's text to append.
    SummaryDelta(SummaryDelta) => "response.reasoning_summary_text.delta",
    /// A summary's text is whole.
    SummaryDone(SummaryDone) => "response.reasoning_summary_text.done",
    /// What went wrong; `response.failed` follows.
    Error(ErrorEvent) => "error",
}

/// An event with its number.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NumberedEvent {
    /// The event.
    #[serde(flatten)]
    pub event: ResponseEvent,
    /// Its place in the stream, from 0.
    pub sequence_number: u64,
}

/// How the response stands.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Lifecycle {
    /// The response.
    pub response: Box<Response>,
}

/// An item begins or ends.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ItemEvent {
    /// Its place in the output.
    pub output_index: u32,
    /// The item.
    pub item: Item,
}

/// A part begins or ends.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PartEvent {
    /// The item that it belongs to.
    pub item_id: String,
    /// That item's place in the output.
    pub output_index: u32,
    /// The part's place in the item.
    pub content_index: u32,
    /// The part.
    pub part: Part,
}

/// Text to append.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TextDelta {
    /// The item that it belongs to.
    pub item_id: String,
    /// That item's place in the output.
    pub output_index: u32,
    /// The part's place in the item.
    pub content_index: u32,
    /// The text.
    pub delta: String,
    /// Its tokens' log probabilities, if they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// A text is whole.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TextDone {
    /// The item that it belongs to.
    pub item_id: String,
    /// That item's place in the output.
    pub output_index: u32,
    /// The part's place in the item.
    pub content_index: u32,
    /// The text.
    pub text: String,
    /// Its tokens' log probabilities, if they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// Arguments to append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ArgumentsDelta {
    /// The call that they belong to.
    pub item_id: String,
    /// That item's place in the output.
    pub output_index: u32,
    /// JSON text.
    pub delta: String,
}

/// A call's arguments are whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ArgumentsDone {
    /// The call that they belong to.
    pub item_id: String,
    /// That item's place in the output.
    pub output_index: u32,
    /// The function's name.
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

/// Thoughts to append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReasoningDelta {
    /// The item that they belong to.
    pub item_id: String,
    /// That item's place in the output.
    pub output_index: u32,
    /// The part's place in the item.
    pub content_index: u32,
    /// The text.
    pub delta: String,
}

/// Thoughts are whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReasoningDone {
    /// The item that they belong to.
    pub item_id: String,
    /// That item's place in the output.
    pub output_index: u32,
    /// The part's place in the item.
    pub content_index: u32,
    /// The text.
    pub text: String,
}

/// A summary begins or ends.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SummaryPartEvent {
    /// The item that it belongs to.
    pub item_id: String,
    /// That item's place in the output.
    pub output_index: u32,
    /// The part's place in the summary.
    pub summary_index: u32,
    /// The part.
    pub part: Part,
}

/// A summary's text to append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SummaryDelta {
    /// The item that it belongs to.
    pub item_id: String,
    /// That item's place in the output.
    pub output_index: u32,
    /// The part's place in the summary.
    pub summary_index: u32,
    /// The text.
    pub delta: String,
}

/// A summary's text is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SummaryDone {
    /// The item that it belongs to.
    pub item_id: String,
    /// That item's place in the output.
    pub output_index: u32,
    /// The part's place in the summary.
    pub summary_index: u32,
    /// The text.
    pub text: String,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorEvent {
    /// Machine-readable code.
    pub code: String,
    /// What went wrong, in words and numbers.
    pub message: String,
    /// The request field at fault, if one is.
    pub param: Option<String>,
}
