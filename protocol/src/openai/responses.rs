//! POST /v1/responses and what hangs on it.

mod answer;
mod event;
mod item;
mod request;

pub use answer::{
    IncompleteDetails, InputTokensDetails, OutputTokensDetails, Response, ResponseDeleted, ResponseError,
    ResponseErrorCode, ResponseInputItems, ResponseInputTokens, ResponseStatus, ResponseUsage,
};
pub use event::{
    ArgumentsDelta, ArgumentsDone, ErrorEvent, ItemEvent, Lifecycle, NumberedEvent, PartEvent,
    ReasoningDelta, ReasoningDone, ResponseEvent, SummaryDelta, SummaryDone, SummaryPartEvent, TextDelta,
    TextDone,
};
pub use item::{
    FunctionCallItem, FunctionCallOutputItem, Item, ItemStatus, MessageItem, Part, ReasoningItem,
};
pub use request::{
    ChosenTool, Input, InputItem, InputPart, Reasoning, ResponseRequest, TextConfig, TextFormat, TextOrParts,
    Tool, ToolChoice,
};
