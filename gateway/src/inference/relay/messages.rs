//! Messages, as Anthropic's interface has them: an answer is a list of blocks.

use bytes::Bytes;
use protocol::TaskEvent;
use protocol::anthropic::{
    AnswerBlock, AnthropicError, BlockDelta, MessageAnswer, MessageEnd, MessageUsage, OutputTokensDetails,
    StopReason, StreamEvent,
};
use protocol::events::{End, FinishReason, TokenUsage, ToolCallDelta};
use protocol::worker::ToolCall;
use serde_json::{Map, Value, json};

use super::{FrameWriter, SLOT, TokenFrame, waiting};
use crate::inference::{Completed, Thoughts};

/// What is settled about an answer before its first token.
#[derive(Debug, Clone)]
pub struct MessageHead {
    /// The answer's id.
    pub id: String,
    /// The model that answers.
    pub model: String,
    /// What the caller sees of thoughts.
    pub thoughts: Thoughts,
    /// Tokens that the caller allows.
    pub max_tokens: u32,
}

impl MessageHead {
    fn answer(&self, content: Vec<AnswerBlock>, end: Option<MessageEnd>, usage: TokenUsage) -> MessageAnswer {
        let (stop_reason, stop_sequence) =
            end.map_or((None, None), |end| (Some(end.stop_reason), end.stop_sequence));
        MessageAnswer {
            id: self.id.clone(),
            kind: "message",
            role: "assistant",
            model: self.model.clone(),
            content,
            stop_reason,
            stop_sequence,
            usage: usage_of(usage),
        }
    }

    fn end(&self, reason: FinishReason, stop_sequence: Option<String>, usage: TokenUsage) -> MessageEnd {
        let stop_reason = match reason {
            FinishReason::Stop if stop_sequence.is_some() => StopReason::StopSequence,
            // Who cancels does not read on.
            FinishReason::Stop | FinishReason::Cancelled => StopReason::EndTurn,
            FinishReason::ToolCalls => StopReason::ToolUse,
            FinishReason::Length if usage.completion_tokens < self.max_tokens => {
                StopReason::ModelContextWindowExceeded
            }
            FinishReason::Length => StopReason::MaxTokens,
        };
        let stop_sequence = stop_sequence.filter(|_| stop_reason == StopReason::StopSequence);
        MessageEnd { stop_reason, stop_sequence }
    }
}

/// A whole answer.
pub fn message(head: &MessageHead, completed: Completed) -> MessageAnswer {
    let mut content = Vec::new();
    let Some(choice) = completed.choices.into_iter().next() else {
        return head.answer(content, None, completed.usage);
    };
    if !choice.reasoning.is_empty() {
        let thinking = match head.thoughts {
            Thoughts::Shown => choice.reasoning,
            Thoughts::Omitted => String::new(),
        };
        content.push(AnswerBlock::Thinking { thinking, signature: "" });
    }
    if !choice.text.is_empty() {
        content.push(AnswerBlock::Text { text: choice.text });
    }
    content.extend(choice.tool_calls.into_iter().map(call));
    let end = head.end(choice.finish_reason, choice.stop_sequence, completed.usage);
    head.answer(content, Some(end), completed.usage)
}

fn call(ToolCall { id, name, arguments }: ToolCall) -> AnswerBlock {
    let input = match serde_json::from_str(&arguments) {
        Ok(input @ Value::Object(_)) => input,
        _ if arguments.is_empty() => Value::Object(Map::new()),
        // Anthropic's own way to hold what a model got wrong, or what its token limit cut.
        _ => json!({"INVALID_JSON": arguments}),
    };
    AnswerBlock::ToolUse { id, name, input }
}

fn usage_of(usage: TokenUsage) -> MessageUsage {
    MessageUsage {
        input_tokens: usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens),
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: usage.cached_tokens,
        output_tokens: usage.completion_tokens,
        output_tokens_details: OutputTokensDetails { thinking_tokens: usage.reasoning_tokens },
    }
}

/// Writes the events of one message.
pub struct MessageWriter {
    head: MessageHead,
    /// The block that is being written, if one is.
    open: Option<Open>,
    /// Blocks that are whole.
    blocks: u32,
}

/// A block that is being written.
enum Open {
    Thinking,
    /// With the frame of a piece of text.
    Text(TokenFrame),
    Call,
}

impl MessageWriter {
    /// A writer for an answer.
    pub fn new(head: MessageHead) -> Self {
        Self { head, open: None, blocks: 0 }
    }

    /// Ends the block that is open, if one is.
    fn close(&mut self) -> String {
        let index = self.blocks;
        let signed = match self.open.take() {
            None => return String::new(),
            // SDKs know a thought to be whole by its signature.
            Some(Open::Thinking) => self.delta(BlockDelta::SignatureDelta { signature: "" }),
            Some(Open::Text(_) | Open::Call) => String::new(),
        };
        self.blocks += 1;
        signed + &*frame(&StreamEvent::ContentBlockStop { index })
    }

    /// Ends the block that is open and begins another.
    fn begin(&mut self, open: Open, content_block: AnswerBlock) -> String {
        let closed = self.close();
        self.open = Some(open);
        closed + &*frame(&StreamEvent::ContentBlockStart { index: self.blocks, content_block })
    }

    fn delta(&self, delta: BlockDelta) -> String {
        frame(&StreamEvent::ContentBlockDelta { index: self.blocks, delta })
    }

    fn start(&self, prompt_tokens: u32) -> String {
        let usage = TokenUsage { prompt_tokens, ..TokenUsage::default() };
        let message = self.head.answer(Vec::new(), None, usage);
        frame(&StreamEvent::MessageStart { message }) + &*frame(&StreamEvent::Ping)
    }

    fn text(&mut self, text: &str) -> Bytes {
        if let Some(Open::Text(frame)) = &self.open {
            return frame.with(text);
        }
        if text.is_empty() {
            return Bytes::new();
        }
        let closed = self.close();
        let token_frame = TokenFrame::new(&self.delta(BlockDelta::TextDelta { text: SLOT.to_owned() }));
        let first = token_frame.with(text);
        let begun = self.begin(Open::Text(token_frame), AnswerBlock::Text { text: String::new() });
        [closed.as_bytes(), begun.as_bytes(), &first].concat().into()
    }

    fn thought(&mut self, thinking: &str) -> String {
        let mut frames = String::new();
        if !matches!(self.open, Some(Open::Thinking)) {
            let block = AnswerBlock::Thinking { thinking: String::new(), signature: "" };
            frames += &self.begin(Open::Thinking, block);
        }
        if self.head.thoughts == Thoughts::Shown {
            frames += &self.delta(BlockDelta::ThinkingDelta { thinking: thinking.to_owned() });
        }
        frames
    }

    fn called(&mut self, call: &ToolCallDelta) -> String {
        let mut frames = String::new();
        if let (Some(id), Some(name)) = (&call.id, &call.name) {
            let input = Value::Object(Map::new());
            let block = AnswerBlock::ToolUse { id: id.clone(), name: name.clone(), input };
            frames += &self.begin(Open::Call, block);
        }
        // A worker tells of one call after the other.
        if !call.arguments.is_empty() {
            frames += &self.delta(BlockDelta::InputJsonDelta { partial_json: call.arguments.clone() });
        }
        frames
    }

    fn end(&mut self, end: &End) -> String {
        let stop_sequence = end.stop_sequence_of(0).map(str::to_owned);
        let delta = self.head.end(end.finish_reason_of(0), stop_sequence, end.usage);
        let end = StreamEvent::MessageDelta { delta, usage: usage_of(end.usage) };
        self.close() + &*frame(&end) + &*frame(&StreamEvent::MessageStop)
    }
}

impl FrameWriter for MessageWriter {
    fn write(&mut self, _run: usize, event: &TaskEvent) -> Bytes {
        match event {
            TaskEvent::Queued(_) | TaskEvent::Narration(_) => waiting(event),
            TaskEvent::Started(started) => self.start(started.prompt_tokens).into(),
            TaskEvent::Token(token) => self.text(&token.token),
            TaskEvent::Reasoning(reasoning) => self.thought(&reasoning.text).into(),
            TaskEvent::ToolCall(call) => self.called(call).into(),
            TaskEvent::Prompt(_) | TaskEvent::Result(_) => Bytes::new(),
            TaskEvent::End(end) => self.end(end).into(),
            TaskEvent::Error(envelope) => {
                named("error", &AnthropicError::from(envelope.error.clone())).into()
            }
        }
    }

    fn keep_alive(&self) -> Bytes {
        frame(&StreamEvent::Ping).into()
    }
}

fn frame(event: &StreamEvent) -> String {
    named(event.name(), event)
}

fn named(name: &str, data: &impl serde::Serialize) -> String {
    format!("event: {name}\n{}", super::data(data))
}

#[cfg(test)]
mod tests;
