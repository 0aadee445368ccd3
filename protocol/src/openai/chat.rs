//! /v1/chat/completions.

mod answer;
mod request;
mod stored;

pub use answer::{
    AnswerMessage, CallChunk, ChatCompletion, ChatCompletionChunk, ChatFinishReason, Choice, ChunkChoice,
    Delta, FunctionChunk, Logprobs, TokenLogprob, TopLogprob,
};
pub use request::{
    AllowedTool, AllowedTools, ChatCompletionRequest, ChatMessage, Content, ContentPart, FunctionCall,
    FunctionName, FunctionTool, JsonSchemaFormat, MessageToolCall, NamedTool, ResponseFormat, Role, Stop,
    StreamOptions, Tool, ToolChoice,
};
pub use stored::{
    ChatCompletionDeleted, ChatCompletionList, ChatCompletionUpdate, StoredMessage, StoredMessageList,
};
