//! A conversation from Anthropic's shapes: what they put into blocks of one turn are turns of their own here.

use protocol::anthropic::{Block, MessageTurn, TurnContent, TurnRole};
use protocol::worker::{Message, ToolCall};
use protocol::{ApiError, ErrorCode};
use serde_json::Value;

use crate::inference::request::unsupported;

/// What stands between blocks of text that make one turn.
const BETWEEN_BLOCKS: &str = "\n";
/// What a failed call's result begins with: templates have no other way to say it.
const FAILED: &str = "Error: ";

/// The conversation with its instructions, as models know it.
pub(super) fn turns(
    system: Option<TurnContent>,
    messages: Vec<MessageTurn>,
) -> Result<Vec<Message>, ApiError> {
    match messages.last() {
        None => {
            let message = "'messages' is empty; at least one message is needed.";
            return Err(ApiError::invalid("messages", message));
        }
        Some(last) if last.role == TurnRole::Assistant => {
            let param = format!("messages[{}]", messages.len() - 1);
            return Err(unsupported(
                &param,
                "continuing an assistant's turn; the last turn must be another's",
            ));
        }
        Some(_) => {}
    }
    let mut conversation = Conversation::default();
    if let Some(system) = system {
        let content = texts("system", system)?;
        if !content.is_empty() {
            conversation.say("system", content);
        }
    }
    let last_user = messages.iter().rposition(|turn| turn.role == TurnRole::User);
    for (index, turn) in messages.into_iter().enumerate() {
        conversation.add(index, turn, last_user)?;
    }
    Ok(conversation.turns)
}

/// Takes the thoughts away from all turns but the latest `kept` of those that have some.
pub(super) fn forget_thoughts(turns: &mut [Message], kept: usize) {
    let thoughtful = turns.iter_mut().rev().filter(|turn| turn.reasoning.is_some());
    thoughtful.skip(kept).for_each(|turn| turn.reasoning = None);
}

#[derive(Default)]
struct Conversation {
    turns: Vec<Message>,
}

impl Conversation {
    fn add(&mut self, index: usize, turn: MessageTurn, last_user: Option<usize>) -> Result<(), ApiError> {
        let at = format!("messages[{index}]");
        match turn.role {
            TurnRole::System => {
                if turn.output_config.is_some() {
                    return Err(unsupported(&format!("{at}.output_config"), "output settings of a turn"));
                }
                let is_void = match turn.clear_at.as_deref() {
                    None | Some("never") => false,
                    Some("next_user_message") => last_user.is_some_and(|last| last > index),
                    Some(_) => {
                        let param = format!("{at}.clear_at");
                        let message = format!("'{param}' must be never or next_user_message.");
                        return Err(ApiError::invalid(param, message));
                    }
                };
                let content = texts(&format!("{at}.content"), turn.content)?;
                if !is_void {
                    self.say("system", content);
                }
                Ok(())
            }
            TurnRole::User => self.add_blocks(&at, "user", turn.content),
            TurnRole::Assistant => self.add_blocks(&at, "assistant", turn.content),
        }
    }

    fn add_blocks(&mut self, at: &str, role: &'static str, content: TurnContent) -> Result<(), ApiError> {
        let blocks = match content {
            TurnContent::Text(text) => {
                self.say(role, text);
                return Ok(());
            }
            TurnContent::Blocks(blocks) => blocks,
        };
        for (index, block) in blocks.into_iter().enumerate() {
            let param = format!("{at}.content[{index}]");
            match (block.kind.as_str(), role) {
                ("text", _) => self.say(role, required(&param, "text", block.text)?),
                ("tool_result", "user") => self.answer(&param, block)?,
                ("tool_use", "assistant") => {
                    let call = call_of(&param, block)?;
                    self.turn_of(role).tool_calls.push(call);
                }
                ("thinking", "assistant") => {
                    let thought = required(&param, "thinking", block.thinking)?;
                    join(self.turn_of(role).reasoning.get_or_insert_default(), &thought);
                }
                // There is nothing in it that a model could read.
                ("redacted_thinking", "assistant") => {}
                (kind, _) => return Err(refused_block(&param, kind)),
            }
        }
        Ok(())
    }

    /// The turn that is spoken in this role now: the last one, or a new one.
    fn turn_of(&mut self, role: &str) -> &mut Message {
        if self.turns.last().is_none_or(|last| last.role != role) {
            self.turns.push(Message { role: role.to_owned(), ..Message::default() });
        }
        let last = self.turns.len() - 1;
        &mut self.turns[last]
    }

    fn say(&mut self, role: &str, text: String) {
        let content = &mut self.turn_of(role).content;
        if content.is_empty() { *content = text } else { join(content, &text) }
    }

    /// A call's result is a turn of its own.
    fn answer(&mut self, param: &str, block: Block) -> Result<(), ApiError> {
        let id = required(param, "tool_use_id", block.tool_use_id)?;
        let content = block.content.map(|content| texts(&format!("{param}.content"), content)).transpose()?;
        let failed = if block.is_error.unwrap_or(false) { FAILED } else { "" };
        // Some templates want a tool's name where Anthropic's interface has only the call's id.
        let calls = self.turns.iter().rev().flat_map(|turn| &turn.tool_calls);
        let name = calls.into_iter().find(|call| call.id == id).map(|call| call.name.clone());
        self.turns.push(Message {
            role: "tool".to_owned(),
            content: format!("{failed}{}", content.unwrap_or_default()),
            tool_call_id: Some(id),
            name,
            ..Message::default()
        });
        Ok(())
    }
}

fn call_of(param: &str, block: Block) -> Result<ToolCall, ApiError> {
    let input = required(param, "input", block.input)?;
    // What answers told as no JSON goes back to the model as it wrote it.
    let arguments = match &input {
        Value::Object(fields) if fields.len() == 1 => fields.get("INVALID_JSON").and_then(Value::as_str),
        _ => None,
    };
    Ok(ToolCall {
        id: required(param, "id", block.id)?,
        name: required(param, "name", block.name)?,
        arguments: arguments.map_or_else(|| input.to_string(), str::to_owned),
    })
}

/// Content that may be text only.
fn texts(param: &str, content: TurnContent) -> Result<String, ApiError> {
    let blocks = match content {
        TurnContent::Text(text) => return Ok(text),
        TurnContent::Blocks(blocks) => blocks,
    };
    let mut joined = String::new();
    for (index, block) in blocks.into_iter().enumerate() {
        let param = format!("{param}[{index}]");
        if block.kind != "text" {
            return Err(refused_block(&param, &block.kind));
        }
        let text = required(&param, "text", block.text)?;
        if index == 0 { joined = text } else { join(&mut joined, &text) }
    }
    Ok(joined)
}

fn join(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push_str(BETWEEN_BLOCKS);
    }
    text.push_str(more);
}

fn required<T>(param: &str, field: &str, value: Option<T>) -> Result<T, ApiError> {
    value.ok_or_else(|| {
        let param = format!("{param}.{field}");
        ApiError::invalid(param.clone(), format!("'{param}' is required for this type of block."))
    })
}

/// Tells apart what Anthropic's interface has, what belongs elsewhere, and what is nothing at all.
fn refused_block(param: &str, kind: &str) -> ApiError {
    let not_text = ["image", "document", "search_result", "container_upload", "tool_reference"];
    let misplaced = ["text", "tool_use", "tool_result", "thinking", "redacted_thinking"];
    if misplaced.contains(&kind) {
        return ApiError::invalid(
            param,
            format!("'{param}': a block of the type '{kind}' cannot stand here."),
        );
    }
    if not_text.contains(&kind) || kind.ends_with("_tool_use") || kind.ends_with("_tool_result") {
        let message = format!("'{param}': this server does not support blocks of the type '{kind}'.");
        return ApiError::new(ErrorCode::UnsupportedParameter, message).with_param(param);
    }
    ApiError::invalid(param, format!("'{param}' has an unknown type."))
}
