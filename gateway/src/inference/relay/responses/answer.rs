//! A response while it is made: what is added to it, and the events that tell of the addition.

use protocol::events::{FinishReason, TokenLogprob, TokenUsage, ToolCallDelta};
use protocol::openai::chat::Role;
use protocol::openai::responses::{
    ArgumentsDelta, ArgumentsDone, FunctionCallItem, IncompleteDetails, InputTokensDetails, Item, ItemEvent,
    ItemStatus, Lifecycle, MessageItem, OutputTokensDetails, Part, PartEvent, ReasoningDelta, ReasoningDone,
    ReasoningItem, Response, ResponseError, ResponseErrorCode, ResponseEvent, ResponseStatus, ResponseUsage,
    SummaryDelta, SummaryDone, SummaryPartEvent, TextDelta, TextDone,
};
use protocol::{ApiError, ErrorCode};

use crate::clock::unix_seconds;
use crate::inference::relay::words;

/// A response; the last item of its output may still grow.
pub(super) struct Answer {
    response: Response,
    /// What the last item is, if it still grows.
    growing: Option<Growing>,
    /// When it was complete, if it was before.
    completed_at: Option<i64>,
}

/// What an item is that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growing {
    Message,
    Thoughts,
    Call,
}

impl Answer {
    pub(super) fn new(draft: Response) -> Self {
        Self::again(draft, None)
    }

    pub(super) fn again(draft: Response, completed_at: Option<i64>) -> Self {
        Self { response: draft, growing: None, completed_at }
    }

    pub(super) fn response(&self) -> &Response {
        &self.response
    }

    pub(super) fn into_response(self) -> Response {
        self.response
    }

    pub(super) fn stands(&mut self, status: ResponseStatus) {
        self.response.status = status;
    }

    /// Text was said.
    pub(super) fn say(&mut self, text: &str, logprobs: &[TokenLogprob]) -> Vec<ResponseEvent> {
        // Log probabilities of tokens without text are no reason to begin a message.
        if text.is_empty() && self.growing != Some(Growing::Message) {
            return Vec::new();
        }
        let mut events = self.open(Growing::Message);
        let logprobs = words::logprobs(logprobs).content;
        if let Some(Item::Message(message)) = self.response.output.last_mut()
            && let Some(Part::OutputText { text: said, logprobs: told, .. }) = message.content.last_mut()
        {
            said.push_str(text);
            told.extend_from_slice(&logprobs);
        }
        let (item_id, output_index) = self.place();
        let delta = text.to_owned();
        events.push(ResponseEvent::OutputTextDelta(TextDelta {
            item_id,
            output_index,
            content_index: 0,
            delta,
            logprobs,
        }));
        events
    }

    /// A thought was had.
    pub(super) fn think(&mut self, text: &str) -> Vec<ResponseEvent> {
        let mut events = self.open(Growing::Thoughts);
        if let Some(Item::Reasoning(item)) = self.response.output.last_mut()
            && let Some(Part::ReasoningText { text: thought } | Part::SummaryText { text: thought }) =
                item.summary.last_mut().or(item.content.last_mut())
        {
            thought.push_str(text);
        }
        let (item_id, output_index) = self.place();
        let delta = text.to_owned();
        events.push(if self.tells_summary() {
            ResponseEvent::SummaryDelta(SummaryDelta { item_id, output_index, summary_index: 0, delta })
        } else {
            ResponseEvent::ReasoningDelta(ReasoningDelta { item_id, output_index, content_index: 0, delta })
        });
        events
    }

    /// A call began or goes on. A call's first part has its id and name and comes after the calls before it.
    pub(super) fn call(&mut self, delta: &ToolCallDelta) -> Vec<ResponseEvent> {
        let mut events = Vec::new();
        if let (Some(call_id), Some(name)) = (&delta.id, &delta.name) {
            events = self.close(ItemStatus::Completed);
            let call = FunctionCallItem {
                id: self.item_id("fc"),
                status: ItemStatus::InProgress,
                call_id: call_id.clone(),
                name: name.clone(),
                arguments: String::new(),
            };
            events.push(self.add(Item::FunctionCall(call), Growing::Call));
        }
        if let Some(Item::FunctionCall(call)) = self.response.output.last_mut()
            && !delta.arguments.is_empty()
        {
            call.arguments.push_str(&delta.arguments);
            let (item_id, output_index) = self.place();
            let delta = delta.arguments.clone();
            events.push(ResponseEvent::ArgumentsDelta(ArgumentsDelta { item_id, output_index, delta }));
        }
        events
    }

    /// The answer ended. A whole one in which nothing was said, thought or called has an empty message.
    pub(super) fn end(&mut self, reason: FinishReason, usage: TokenUsage) -> Vec<ResponseEvent> {
        let is_whole = !matches!(reason, FinishReason::Length | FinishReason::Cancelled);
        let mut events = if self.response.output.is_empty() && reason != FinishReason::Cancelled {
            self.open(Growing::Message)
        } else {
            Vec::new()
        };
        events.extend(self.close(if is_whole { ItemStatus::Completed } else { ItemStatus::Incomplete }));
        self.response.usage = Some(consumed(usage));
        if is_whole {
            self.response.status = ResponseStatus::Completed;
            self.response.completed_at = Some(self.completed_at.unwrap_or_else(unix_seconds));
            events.push(ResponseEvent::Completed(self.lifecycle()));
        } else if reason == FinishReason::Cancelled {
            // There is no event of that name.
            self.response.status = ResponseStatus::Cancelled;
            events.push(ResponseEvent::Incomplete(self.lifecycle()));
        } else {
            self.response.status = ResponseStatus::Incomplete;
            self.response.incomplete_details =
                Some(IncompleteDetails { reason: "max_output_tokens".to_owned() });
            events.push(ResponseEvent::Incomplete(self.lifecycle()));
        }
        events
    }

    /// Something went wrong; what was made so far stays, unfinished.
    pub(super) fn fail(&mut self, error: &ApiError) {
        self.response.status = ResponseStatus::Failed;
        self.response.completed_at = None;
        self.response.incomplete_details = None;
        self.response.error =
            Some(ResponseError { code: error_code(error.code), message: error.message.clone() });
    }

    /// Begins an item of this kind, unless the last one is of it and still grows.
    fn open(&mut self, kind: Growing) -> Vec<ResponseEvent> {
        if self.growing == Some(kind) {
            return Vec::new();
        }
        let mut events = self.close(ItemStatus::Completed);
        let status = ItemStatus::InProgress;
        if kind == Growing::Message {
            let (id, role) = (self.item_id("msg"), Role::Assistant);
            events.push(self.add(Item::Message(MessageItem { id, status, role, content: Vec::new() }), kind));
            let part = Part::output_text("");
            if let Some(Item::Message(message)) = self.response.output.last_mut() {
                message.content.push(part.clone());
            }
            events.push(ResponseEvent::ContentPartAdded(self.part(part)));
            return events;
        }
        let item = ReasoningItem { id: self.item_id("rs"), status, summary: Vec::new(), content: Vec::new() };
        events.push(self.add(Item::Reasoning(item), kind));
        let tells_summary = self.tells_summary();
        let (part, event) = if tells_summary {
            let part = Part::SummaryText { text: String::new() };
            (part.clone(), ResponseEvent::SummaryPartAdded(self.summary_part(part)))
        } else {
            let part = Part::ReasoningText { text: String::new() };
            (part.clone(), ResponseEvent::ContentPartAdded(self.part(part)))
        };
        if let Some(Item::Reasoning(item)) = self.response.output.last_mut() {
            let parts = if tells_summary { &mut item.summary } else { &mut item.content };
            parts.push(part);
        }
        events.push(event);
        events
    }

    /// Ends the item that grows.
    fn close(&mut self, status: ItemStatus) -> Vec<ResponseEvent> {
        if self.growing.take().is_none() {
            return Vec::new();
        }
        let (item_id, output_index) = self.place();
        let Some(item) = self.response.output.last_mut() else { return Vec::new() };
        match item {
            Item::Message(MessageItem { status: stands, .. })
            | Item::FunctionCall(FunctionCallItem { status: stands, .. })
            | Item::Reasoning(ReasoningItem { status: stands, .. }) => *stands = status,
            Item::FunctionCallOutput(_) => {}
        }
        let item = item.clone();
        let mut events = match &item {
            Item::Message(message) => {
                let part = message.content.last().cloned().unwrap_or_else(|| Part::output_text(""));
                let logprobs = match &part {
                    Part::OutputText { logprobs, .. } => logprobs.clone(),
                    _ => Vec::new(),
                };
                let text = part.text().to_owned();
                let done = TextDone { item_id, output_index, content_index: 0, text, logprobs };
                vec![ResponseEvent::OutputTextDone(done), ResponseEvent::ContentPartDone(self.part(part))]
            }
            Item::FunctionCall(call) => {
                let (name, arguments) = (call.name.clone(), call.arguments.clone());
                vec![ResponseEvent::ArgumentsDone(ArgumentsDone { item_id, output_index, name, arguments })]
            }
            Item::Reasoning(thoughts) => self.thoughts_done(thoughts, item_id, output_index),
            Item::FunctionCallOutput(_) => Vec::new(),
        };
        events.push(ResponseEvent::OutputItemDone(ItemEvent { output_index, item }));
        events
    }

    fn thoughts_done(
        &self,
        thoughts: &ReasoningItem,
        item_id: String,
        output_index: u32,
    ) -> Vec<ResponseEvent> {
        let Some(part) = thoughts.summary.first().or(thoughts.content.first()).cloned() else {
            return Vec::new();
        };
        let text = part.text().to_owned();
        if self.tells_summary() {
            let done = SummaryDone { item_id, output_index, summary_index: 0, text };
            vec![ResponseEvent::SummaryDone(done), ResponseEvent::SummaryPartDone(self.summary_part(part))]
        } else {
            let done = ReasoningDone { item_id, output_index, content_index: 0, text };
            vec![ResponseEvent::ReasoningDone(done), ResponseEvent::ContentPartDone(self.part(part))]
        }
    }

    fn add(&mut self, item: Item, kind: Growing) -> ResponseEvent {
        self.response.output.push(item.clone());
        self.growing = Some(kind);
        let (_, output_index) = self.place();
        ResponseEvent::OutputItemAdded(ItemEvent { output_index, item })
    }

    /// The last item's id and place.
    fn place(&self) -> (String, u32) {
        let id = self.response.output.last().map(|item| item.id().to_owned()).unwrap_or_default();
        (id, (self.response.output.len() as u32).saturating_sub(1))
    }

    /// The id of the item that comes next: the response's own and its place there.
    fn item_id(&self, prefix: &str) -> String {
        let own = self.response.id.strip_prefix("resp_").unwrap_or(&self.response.id);
        format!("{prefix}_{own}{:04x}", self.response.output.len())
    }

    fn part(&self, part: Part) -> PartEvent {
        let (item_id, output_index) = self.place();
        PartEvent { item_id, output_index, content_index: 0, part }
    }

    fn summary_part(&self, part: Part) -> SummaryPartEvent {
        let (item_id, output_index) = self.place();
        SummaryPartEvent { item_id, output_index, summary_index: 0, part }
    }

    fn tells_summary(&self) -> bool {
        self.response.reasoning.summary.is_some()
    }

    fn lifecycle(&self) -> Lifecycle {
        Lifecycle { response: Box::new(self.response.clone()) }
    }
}

fn consumed(usage: TokenUsage) -> ResponseUsage {
    ResponseUsage {
        input_tokens: usage.prompt_tokens,
        input_tokens_details: InputTokensDetails {
            cached_tokens: usage.cached_tokens,
            cache_write_tokens: 0,
        },
        output_tokens: usage.completion_tokens,
        output_tokens_details: OutputTokensDetails { reasoning_tokens: usage.reasoning_tokens },
        total_tokens: usage.prompt_tokens + usage.completion_tokens,
    }
}

/// OpenAI's clients know a few kinds of errors only.
fn error_code(code: ErrorCode) -> ResponseErrorCode {
    match code.status() {
        400 => ResponseErrorCode::InvalidPrompt,
        429 => ResponseErrorCode::RateLimitExceeded,
        _ => ResponseErrorCode::ServerError,
    }
}
