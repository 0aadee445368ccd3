//! What an answer must be where calls are demanded, where their arguments must fit, or where thoughts go before it:
//! a grammar in the notation that constraints are compiled from.
//!
//! Marks that are tokens of their own are named by their ids, all others by their texts.

use std::fmt::Write as _;

use protocol::ApiError;
use protocol::worker::{Constraint, Tool, ToolChoice};
use serde_json::{Value, json};

use super::{Calls, ToolFormat};
use crate::text::reasoning::ReasoningMarks;
use crate::text::vocabulary::{TokenKind, Vocabulary};

/// Makes a schema ready to stand in a grammar; the second argument names it in errors.
pub type PrepareSchema<'a> = &'a dyn Fn(&Value, &str) -> Result<Value, ApiError>;

/// What is demanded of an answer, all in all.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The calls that it may hold.
    pub calls: Option<&'a Calls>,
    /// Whether it must hold one.
    pub choice: &'a ToolChoice,
    /// What its text must be.
    pub constraint: Option<&'a Constraint>,
    /// The marks of thoughts before it, and whether the prompt has opened them.
    pub thoughts: Option<(ReasoningMarks, bool)>,
}

/// Any text.
const ANY: &str = r"/(.|\n)*/";

impl Demand<'_> {
    /// The constraint to generate under, if any. Schemas of tools that are not strict are kept to where that is possible.
    pub fn constraint(
        &self,
        vocabulary: &Vocabulary,
        prepare: PrepareSchema<'_>,
    ) -> Result<Option<Constraint>, ApiError> {
        let mut lark = Lark { vocabulary, text: String::new(), prepare };
        let body = match (self.calls, self.choice) {
            (Some(calls), ToolChoice::Required | ToolChoice::Named(_)) => {
                lark.calls(calls, self.choice)?.to_owned()
            }
            (Some(calls), ToolChoice::Auto) if self.constraint.is_some() => {
                let calls = lark.calls(calls, self.choice)?;
                format!("{} | {calls}", lark.answer(self.constraint)?)
            }
            (Some(calls), ToolChoice::Auto) if calls.tools.iter().any(|tool| tool.strict) => {
                lark.said_or_calls(calls)?
            }
            _ if self.constraint.is_none() => return Ok(None),
            _ if self.thoughts.is_none() => return Ok(self.constraint.cloned()),
            _ => lark.answer(self.constraint)?.to_owned(),
        };
        let thoughts = self.thoughts.map(|(marks, are_open)| lark.thoughts(marks, are_open));
        let start = thoughts.map_or_else(|| body.clone(), |thoughts| format!("{thoughts} ({body})"));
        let grammar = format!("start: {start}\n{}", lark.text);
        Ok(Some(Constraint::Lark { grammar }))
    }
}

struct Lark<'a> {
    vocabulary: &'a Vocabulary,
    /// The rules so far.
    text: String,
    prepare: PrepareSchema<'a>,
}

impl Lark<'_> {
    fn rule(&mut self, name: &str, body: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{name}: {body}");
    }

    /// The token of a mark, if it is one that no text spells.
    fn token(&self, mark: &str) -> Option<String> {
        let id = self.vocabulary.id(mark)?;
        (self.vocabulary.kind(id) == Some(TokenKind::Control)).then(|| format!("<[{id}]>"))
    }

    fn mark(&self, mark: &str) -> String {
        self.token(mark).unwrap_or_else(|| quoted(mark))
    }

    /// All up to a mark, the mark included.
    fn up_to(&mut self, name: &str, mark: &str) {
        match self.token(mark) {
            Some(token) => self.rule(name, &format!("{ANY} {token}")),
            None => self.rule(&format!("{name}[lazy]"), &format!("{ANY} {}", quoted(mark))),
        }
    }

    fn thoughts(&mut self, marks: ReasoningMarks, are_open: bool) -> String {
        self.up_to("thoughts", marks.close);
        self.rule("gap", r"/[ \n]{0,2}/");
        if are_open {
            return "thoughts gap".to_owned();
        }
        format!("({} thoughts gap)?", self.mark(marks.open))
    }

    /// The text that a caller has constrained.
    fn answer(&mut self, constraint: Option<&Constraint>) -> Result<&'static str, ApiError> {
        let body = match constraint {
            None => ANY.to_owned(),
            Some(Constraint::JsonObject) => {
                format!("%json {}", (self.prepare)(&json!({"type": "object"}), "constraint")?)
            }
            Some(Constraint::JsonSchema { schema }) => {
                format!("%json {}", (self.prepare)(schema, "constraint.schema")?)
            }
            Some(Constraint::Regex { pattern }) => format!("/{}/", slashes_escaped(pattern)),
            Some(Constraint::Lark { grammar }) => format!("%lark {{\n{grammar}\n}}"),
        };
        self.rule("answer", &body);
        Ok("answer")
    }

    /// Text, and perhaps calls after it.
    fn said_or_calls(&mut self, calls: &Calls) -> Result<String, ApiError> {
        self.calls(calls, &ToolChoice::Auto)?;
        if calls.format.is_bare() {
            self.rule("said", r"/([^{](.|\n)*)?/");
            return Ok("said | calls".to_owned());
        }
        self.rule("said", ANY);
        self.up_to("lead", calls.format.open());
        let more = if calls.is_single { "" } else { " more*" };
        Ok(format!("said | lead call_rest{more}"))
    }

    /// One call, or several.
    fn calls(&mut self, calls: &Calls, choice: &ToolChoice) -> Result<&'static str, ApiError> {
        let format = calls.format;
        let open = if format.is_bare() { String::new() } else { self.mark(format.open()) };
        let close = format.close().map(|close| self.mark(close)).unwrap_or_default();
        let wanted = |tool: &Tool| !matches!(choice, ToolChoice::Named(name) if *name != tool.name);
        let mut objects = Vec::new();
        for (index, tool) in calls.tools.iter().enumerate().filter(|(_, tool)| wanted(tool)) {
            let schema = self.arguments(index, tool)?;
            self.rule(&format!("arguments_{index}"), &format!("%json {schema}"));
            let body = self.object(format, &tool.name, index);
            self.rule(&format!("object_{index}"), &body);
            objects.push(format!("object_{index}"));
        }
        self.rule("object", &objects.join(" | "));
        let (rest, separator) = match format {
            ToolFormat::Hermes | ToolFormat::Tagged | ToolFormat::ToolCode => {
                (format!("\"\\n\" object \"\\n\" {close}"), "\"\\n\" ")
            }
            ToolFormat::Llama3 => ("object".to_owned(), "\"; \" "),
            ToolFormat::MistralNamed => ("object".to_owned(), ""),
            ToolFormat::Mistral | ToolFormat::Granite if calls.is_single => {
                ("\"[\" object \"]\"".to_owned(), "")
            }
            ToolFormat::Mistral | ToolFormat::Granite => {
                ("\"[\" object (\", \" object)* \"]\"".to_owned(), "")
            }
            ToolFormat::DeepSeek if calls.is_single => (format!("object {close}"), ""),
            ToolFormat::DeepSeek => (format!("object+ {close}"), ""),
        };
        self.rule("call_rest", &rest);
        self.rule("more", &format!("{separator}{open} call_rest"));
        let is_listed = matches!(format, ToolFormat::Mistral | ToolFormat::Granite | ToolFormat::DeepSeek);
        let more = if calls.is_single || is_listed { "" } else { " more*" };
        self.rule("calls", &format!("{open} call_rest{more}"));
        Ok("calls")
    }

    fn arguments(&self, index: usize, tool: &Tool) -> Result<Value, ApiError> {
        let any = json!({"type": "object"});
        let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
        let schema = tool.parameters.as_ref().unwrap_or(&none);
        match (self.prepare)(schema, &format!("tools[{index}].parameters")) {
            Err(error) if tool.strict => Err(error),
            Err(_) => (self.prepare)(&any, "constraint"),
            prepared => prepared,
        }
    }

    fn object(&self, format: ToolFormat, name: &str, index: usize) -> String {
        let json = |key: &str| {
            let head = quoted(&format!("{{\"name\": {}, \"{key}\": ", Value::from(name)));
            format!("{head} arguments_{index} \"}}\"")
        };
        match format {
            ToolFormat::Llama3 => json("parameters"),
            ToolFormat::MistralNamed => format!("{} {} arguments_{index}", quoted(name), self.mark("[ARGS]")),
            ToolFormat::DeepSeek => {
                let [begin, end, separator] =
                    ["<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"]
                        .map(|mark| self.mark(mark));
                format!("{begin} {} {separator} arguments_{index} {end}", quoted(name))
            }
            _ => json("arguments"),
        }
    }
}

/// A text as the notation quotes it, which is JSON's way.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A pattern that may stand between slashes.
fn slashes_escaped(pattern: &str) -> String {
    let mut escaped = String::with_capacity(pattern.len() + 8);
    let mut signs = pattern.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '/' => escaped.push_str("\\/"),
            '\\' => escaped.extend(std::iter::once('\\').chain(signs.next())),
            sign => escaped.push(sign),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::vocabulary::Vocabulary;

    fn calls(format: ToolFormat, strict: bool, is_single: bool) -> Calls {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: None,
            parameters: Some(json!({"type": "object", "properties": {"a": {"type": "integer"}}})),
            strict,
        };
        Calls { format, tools: vec![tool("first"), tool("second")], is_single }
    }

    fn lark(demand: &Demand<'_>) -> Option<String> {
        let vocabulary = Vocabulary::of_texts(&[("x", TokenKind::Normal), ("</think>", TokenKind::Control)]);
        let prepare = |schema: &Value, _: &str| Ok(schema.clone());
        match demand.constraint(&vocabulary, &prepare).unwrap() {
            Some(Constraint::Lark { grammar }) => Some(grammar),
            other => {
                assert_eq!(other.as_ref(), demand.constraint);
                None
            }
        }
    }

    #[test]
    fn a_forced_call_is_the_whole_answer() {
        let calls = calls(ToolFormat::Hermes, false, true);
        let choice = ToolChoice::Named("second".to_owned());
        let demand = Demand { calls: Some(&calls), choice: &choice, constraint: None, thoughts: None };
        let lark = lark(&demand).unwrap();
        assert!(lark.starts_with("start: calls\n"), "{lark}");
        assert!(lark.contains("\ncalls: \"<tool_call>\" call_rest\n"), "{lark}");
        assert!(lark.contains("\nobject: object_1\n"), "{lark}");
        assert!(
            lark.contains(r#"object_1: "{\"name\": \"second\", \"arguments\": " arguments_1 "}""#),
            "{lark}"
        );
    }

    #[test]
    fn nothing_demanded_is_no_constraint() {
        let choice = ToolChoice::Auto;
        let calls = calls(ToolFormat::Hermes, false, false);
        let demand = Demand { calls: Some(&calls), choice: &choice, constraint: None, thoughts: None };
        assert_eq!(lark(&demand), None);
        let object = Constraint::JsonObject;
        assert_eq!(lark(&Demand { calls: None, constraint: Some(&object), ..demand }), None);
    }

    #[test]
    fn thoughts_go_before_what_is_demanded() {
        let marks = ReasoningMarks { open: "<think>", close: "</think>" };
        let object = Constraint::Regex { pattern: r"a/b\/c".to_owned() };
        let demand = Demand {
            calls: None,
            choice: &ToolChoice::Auto,
            constraint: Some(&object),
            thoughts: Some((marks, true)),
        };
        let lark = lark(&demand).unwrap();
        assert!(lark.starts_with("start: thoughts gap (answer)\n"), "{lark}");
        assert!(lark.contains("thoughts: /(.|\\n)*/ <[1]>\n"), "{lark}");
        assert!(lark.contains(r"answer: /a\/b\/c/"), "{lark}");
    }

    #[test]
    fn strict_tools_leave_text_free() {
        let calls = calls(ToolFormat::Hermes, true, false);
        let demand =
            Demand { calls: Some(&calls), choice: &ToolChoice::Auto, constraint: None, thoughts: None };
        let lark = lark(&demand).unwrap();
        assert!(lark.starts_with("start: said | lead call_rest more*\n"), "{lark}");
        assert!(lark.contains("lead[lazy]: /(.|\\n)*/ \"<tool_call>\"\n"), "{lark}");
    }
}
