//! A conversation's items: as callers send them, as they are kept, and as the turns that a model reads.

use std::collections::HashSet;

use protocol::ApiError;
use protocol::openai::chat::Role;
use protocol::openai::responses::{
    FunctionCallItem, FunctionCallOutputItem, Input, InputItem, InputPart, Item, ItemStatus, MessageItem,
    Part, ReasoningItem, TextOrParts,
};
use protocol::worker::{Message, ToolCall};
use uuid::Uuid;

use super::super::unsupported;
use super::Context;

/// Characters of an id that a caller gives an item.
const LONGEST_ID: usize = 128;

/// Whether an item stands for another; its type may be left out.
pub(super) fn is_reference(item: &InputItem) -> bool {
    match item.kind.as_deref() {
        Some(kind) => kind == "item_reference",
        None => item.role.is_none() && item.content.is_none() && item.id.is_some(),
    }
}

/// The input as items that are whole and have ids.
pub(super) fn checked(input: Input, context: &Context) -> Result<Vec<Item>, ApiError> {
    let items = match input {
        Input::Text(text) => {
            let content = vec![Part::InputText { text }];
            let id = id_of("msg", None);
            return Ok(vec![Item::Message(MessageItem {
                id,
                status: ItemStatus::Completed,
                role: Role::User,
                content,
            })]);
        }
        Input::Parts(items) if items.is_empty() => {
            return Err(ApiError::invalid("input", "'input' is empty; at least one item is needed."));
        }
        Input::Parts(items) => items,
    };
    let mut calls: HashSet<String> = context.past.iter().filter_map(call_id).map(str::to_owned).collect();
    let mut checked = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let item = InPlace { item, path: format!("input[{index}]") }.checked(context)?;
        calls.extend(call_id(&item).map(str::to_owned));
        if let Item::FunctionCallOutput(output) = &item
            && !calls.contains(&output.call_id)
        {
            let param = format!("input[{index}].call_id");
            let message = format!("'{param}': no function call before it has this id.");
            return Err(ApiError::invalid(param, message));
        }
        checked.push(item);
    }
    Ok(checked)
}

fn call_id(item: &Item) -> Option<&str> {
    match item {
        Item::FunctionCall(call) => Some(&call.call_id),
        _ => None,
    }
}

fn id_of(prefix: &str, given: Option<String>) -> String {
    given.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("{prefix}_{}", Uuid::new_v4().simple()))
}

/// An item of the input, and how errors name it.
struct InPlace {
    item: InputItem,
    path: String,
}

impl InPlace {
    fn checked(self, context: &Context) -> Result<Item, ApiError> {
        if self.item.id.as_ref().is_some_and(|id| id.len() > LONGEST_ID) {
            let message = format!("'{}.id' has more than {LONGEST_ID} bytes.", self.path);
            return Err(self.invalid("id", message));
        }
        if is_reference(&self.item) {
            let id = self.required("id", self.item.id.as_ref())?;
            return context.referenced.get(id).cloned().ok_or_else(|| {
                let message = format!("'{}.id': no item with this id is kept.", self.path);
                self.invalid("id", message)
            });
        }
        match self.item.kind.as_deref() {
            None | Some("message") => self.message(),
            Some("function_call") => self.call(),
            Some("function_call_output") => self.call_output(),
            Some("reasoning") => self.reasoning(),
            Some(_) => {
                let what = "items other than message, function_call, function_call_output, reasoning and \
                            item_reference";
                Err(unsupported(&format!("{}.type", self.path), what))
            }
        }
    }

    fn message(self) -> Result<Item, ApiError> {
        let role = match self.required("role", self.item.role.as_ref())?.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            "developer" => Role::Developer,
            _ => {
                let message = format!("'{}.role' must be user, assistant, system or developer.", self.path);
                return Err(self.invalid("role", message));
            }
        };
        let said = |text: String| {
            if role == Role::Assistant { Part::output_text(text) } else { Part::InputText { text } }
        };
        let content = match self.required("content", self.item.content.as_ref())? {
            TextOrParts::Text(text) => vec![said(text.clone())],
            TextOrParts::Parts(parts) => self.parts("content", parts, |part| match part.kind.as_str() {
                "input_text" | "output_text" => Some(part.text.clone().map(said)),
                "refusal" => Some(part.refusal.clone().map(|refusal| Part::Refusal { refusal })),
                _ => None,
            })?,
        };
        let id = id_of("msg", self.item.id);
        Ok(Item::Message(MessageItem { id, status: ItemStatus::Completed, role, content }))
    }

    fn call(self) -> Result<Item, ApiError> {
        Ok(Item::FunctionCall(FunctionCallItem {
            call_id: self.required("call_id", self.item.call_id.as_ref())?.clone(),
            name: self.required("name", self.item.name.as_ref())?.clone(),
            arguments: self.required("arguments", self.item.arguments.as_ref())?.clone(),
            status: ItemStatus::Completed,
            id: id_of("fc", self.item.id),
        }))
    }

    fn call_output(self) -> Result<Item, ApiError> {
        let output = match self.required("output", self.item.output.as_ref())? {
            TextOrParts::Text(text) => TextOrParts::Text(text.clone()),
            TextOrParts::Parts(parts) => {
                TextOrParts::Parts(self.parts("output", parts, |part| match part.kind.as_str() {
                    "input_text" => Some(part.text.clone().map(|text| Part::InputText { text })),
                    _ => None,
                })?)
            }
        };
        Ok(Item::FunctionCallOutput(FunctionCallOutputItem {
            call_id: self.required("call_id", self.item.call_id.as_ref())?.clone(),
            output,
            status: ItemStatus::Completed,
            id: id_of("fco", self.item.id),
        }))
    }

    fn reasoning(self) -> Result<Item, ApiError> {
        let content = match &self.item.content {
            None => Vec::new(),
            Some(TextOrParts::Text(text)) => vec![Part::ReasoningText { text: text.clone() }],
            Some(TextOrParts::Parts(parts)) => {
                self.parts("content", parts, |part| match part.kind.as_str() {
                    "reasoning_text" => Some(part.text.clone().map(|text| Part::ReasoningText { text })),
                    _ => None,
                })?
            }
        };
        let summary = self.item.summary.as_deref().unwrap_or_default();
        let summary = self.parts("summary", summary, |part| match part.kind.as_str() {
            "summary_text" => Some(part.text.clone().map(|text| Part::SummaryText { text })),
            _ => None,
        })?;
        if self.item.encrypted_content.is_some() && content.is_empty() && summary.is_empty() {
            let param = format!("{}.encrypted_content", self.path);
            return Err(unsupported(&param, "thoughts that another server encrypted"));
        }
        let id = id_of("rs", self.item.id);
        Ok(Item::Reasoning(ReasoningItem { id, status: ItemStatus::Completed, summary, content }))
    }

    /// Reads parts; `read` tells `None` of a type that does not belong there, and `Some(None)` of a part without its text.
    fn parts(
        &self,
        field: &str,
        parts: &[InputPart],
        read: impl Fn(&InputPart) -> Option<Option<Part>>,
    ) -> Result<Vec<Part>, ApiError> {
        let read = |(index, part): (usize, &InputPart)| {
            let param = format!("{}.{field}[{index}]", self.path);
            match read(part) {
                Some(Some(part)) => Ok(part),
                Some(None) => {
                    let message = format!("'{param}' lacks the field that its type names.");
                    Err(ApiError::invalid(param, message))
                }
                None if matches!(part.kind.as_str(), "input_image" | "input_file" | "input_audio") => {
                    Err(unsupported(&param, "content that is not text"))
                }
                None => {
                    let message = format!("'{param}' is of a type that does not belong here.");
                    Err(ApiError::invalid(param, message))
                }
            }
        };
        parts.iter().enumerate().map(read).collect()
    }

    fn required<'a, T>(&self, field: &str, value: Option<&'a T>) -> Result<&'a T, ApiError> {
        let missing = || {
            let message = format!("'{}.{field}' is required for an item of this type.", self.path);
            self.invalid(field, message)
        };
        value.ok_or_else(missing)
    }

    fn invalid(&self, field: &str, message: String) -> ApiError {
        ApiError::invalid(format!("{}.{field}", self.path), message)
    }
}

/// A conversation as the turns that a chat template knows: what a model thought, said and called in one go is one turn.
pub(super) fn messages<'a>(
    instructions: Option<&str>,
    items: impl Iterator<Item = &'a Item>,
    reasoning_context: Option<&str>,
) -> Vec<Message> {
    let mut turns = Vec::new();
    if let Some(instructions) = instructions {
        turns.push(turn("system", instructions.to_owned()));
    }
    // Whether the last turn is the model's and may be gone on with.
    let mut is_open = false;
    for item in items {
        match item {
            Item::Message(message) => {
                let text = texts(&message.content);
                let is_models = message.role == Role::Assistant;
                match turns.last_mut() {
                    // Text after calls belongs to their turn: nothing may stand between them and their outputs.
                    Some(open) if is_open && is_models && open.content.is_empty() => open.content = text,
                    _ => turns.push(turn(role_name(message.role), text)),
                }
                is_open = is_models;
            }
            Item::Reasoning(reasoning) => {
                let thoughts =
                    if reasoning.content.is_empty() { &reasoning.summary } else { &reasoning.content };
                let mut thinking = turn("assistant", String::new());
                thinking.reasoning = Some(texts(thoughts)).filter(|text| !text.is_empty());
                turns.push(thinking);
                is_open = true;
            }
            Item::FunctionCall(call) => {
                if !is_open {
                    turns.push(turn("assistant", String::new()));
                    is_open = true;
                }
                let FunctionCallItem { call_id, name, arguments, .. } = call.clone();
                if let Some(open) = turns.last_mut() {
                    open.tool_calls.push(ToolCall { id: call_id, name, arguments });
                }
            }
            Item::FunctionCallOutput(output) => {
                let text = match &output.output {
                    TextOrParts::Text(text) => text.clone(),
                    TextOrParts::Parts(parts) => texts(parts),
                };
                let calls = turns.iter().rev().flat_map(|turn| &turn.tool_calls);
                let name =
                    calls.into_iter().find(|call| call.id == output.call_id).map(|call| call.name.clone());
                turns.push(Message {
                    tool_call_id: Some(output.call_id.clone()),
                    name,
                    ..turn("tool", text)
                });
                is_open = false;
            }
        }
    }
    if reasoning_context == Some("current_turn") {
        forget_earlier_thoughts(&mut turns);
    }
    turns
}

/// The current turn began with what the user said last.
fn forget_earlier_thoughts(turns: &mut [Message]) {
    let current = turns.iter().rposition(|turn| turn.role == "user").unwrap_or(0);
    for turn in &mut turns[..current] {
        turn.reasoning = None;
    }
}

fn turn(role: &str, content: String) -> Message {
    Message { role: role.to_owned(), content, ..Message::default() }
}

/// Models know no developer role; OpenAI's newer name for system means the same.
const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Developer => Role::System.as_str(),
        role => role.as_str(),
    }
}

fn texts(parts: &[Part]) -> String {
    parts.iter().map(Part::text).collect()
}
