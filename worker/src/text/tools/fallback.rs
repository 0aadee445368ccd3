//! Tools for a model whose chat template knows none: the system's turn tells them, and turns of tools become text.
//!
//! The words are our own; the marks are the ones that most models have met in training. What such a model writes is read
//! as [`ToolFormat::Hermes`](super::ToolFormat::Hermes).

use std::borrow::Cow;
use std::fmt::Write as _;

use protocol::worker::{Message, Tool};

/// The conversation with all that concerns tools told in plain turns.
pub fn told_in_text(messages: &[Message], tools: &[Tool]) -> Vec<Message> {
    let mut told: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    for message in messages {
        let message = in_text(message);
        match told.last_mut() {
            // The answers to several calls are one turn: templates want turns to alternate.
            Some(last) if is_response(last) && is_response(&message) => {
                last.content.push('\n');
                last.content.push_str(&message.content);
            }
            _ => told.push(message.into_owned()),
        }
    }
    if !tools.is_empty() {
        tell_tools(&mut told, tools);
    }
    told
}

/// Whether no turn of a conversation has to do with tools.
pub fn is_free_of_tools(messages: &[Message]) -> bool {
    messages.iter().all(|message| message.tool_calls.is_empty() && !is_tools(message))
}

fn is_tools(message: &Message) -> bool {
    matches!(message.role.as_str(), "tool" | "function")
}

const RESPONSE: &str = "<tool_response>\n";

fn is_response(message: &Message) -> bool {
    message.role == "user" && message.content.starts_with(RESPONSE)
}

fn in_text(message: &Message) -> Cow<'_, Message> {
    if is_tools(message) {
        let content = format!("{RESPONSE}{}\n</tool_response>", message.content);
        return Cow::Owned(Message { role: "user".to_owned(), content, ..Message::default() });
    }
    if message.tool_calls.is_empty() {
        return Cow::Borrowed(message);
    }
    let mut content = message.content.clone();
    for call in &message.tool_calls {
        let separator = if content.is_empty() { "" } else { "\n" };
        let name = serde_json::Value::from(call.name.as_str());
        // Writing to a string cannot fail.
        let _ = write!(
            content,
            "{separator}<tool_call>\n{{\"name\": {name}, \"arguments\": {}}}\n</tool_call>",
            call.arguments
        );
    }
    Cow::Owned(Message { content, tool_calls: Vec::new(), ..message.clone() })
}

fn tell_tools(messages: &mut Vec<Message>, tools: &[Tool]) {
    let mut text = String::from("These tools can be called, one JSON object on each line:\n<tools>\n");
    for tool in tools {
        let _ = writeln!(text, "{}", super::super::template::tool_json(tool));
    }
    text.push_str(
        "</tools>\nTo call a tool, write a JSON object with its name and its arguments between these marks:\n\
         <tool_call>\n{\"name\": \"the tool's name\", \"arguments\": {\"an argument\": \"its value\"}}\n</tool_call>\n\
         The result follows between <tool_response> and </tool_response>.",
    );
    match messages.first_mut() {
        Some(first) if matches!(first.role.as_str(), "system" | "developer") => {
            first.content = format!("{}\n\n{text}", first.content);
        }
        _ => messages.insert(0, Message { role: "system".to_owned(), content: text, ..Message::default() }),
    }
}

#[cfg(test)]
mod tests {
    use protocol::worker::ToolCall;

    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned(), ..Message::default() }
    }

    #[test]
    fn calls_and_answers_become_turns_that_alternate() {
        let call = ToolCall { id: "1".into(), name: "f".into(), arguments: r#"{"a": 1}"#.into() };
        let asked = Message { tool_calls: vec![call.clone(), call], ..message("assistant", "") };
        let messages = [message("user", "go"), asked, message("tool", "one"), message("tool", "two")];
        assert!(!is_free_of_tools(&messages));
        let told = told_in_text(&messages, &[]);
        let roles: Vec<&str> = told.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "user"]);
        assert_eq!(told[1].content.matches(r#"{"name": "f", "arguments": {"a": 1}}"#).count(), 2);
        assert_eq!(
            told[2].content,
            "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
        );
    }

    #[test]
    fn tools_stand_in_the_systems_turn() {
        let tool = Tool { name: "f".into(), description: None, parameters: None, strict: false };
        let told = told_in_text(&[message("user", "go")], std::slice::from_ref(&tool));
        assert_eq!(told[0].role, "system");
        assert!(told[0].content.contains(r#""name": "f""#), "{}", told[0].content);
        let told = told_in_text(&[message("system", "Be brief."), message("user", "go")], &[tool]);
        assert_eq!(told.len(), 2);
        assert!(told[0].content.starts_with("Be brief.\n\nThese tools"));
    }
}
