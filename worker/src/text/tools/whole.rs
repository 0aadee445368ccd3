//! Calls that are not JSON and are understood only as a whole: Python's, and tags.

use protocol::worker::Tool;
use serde_json::{Map, Value};

use super::{Calls, ToolFormat};

/// A name and arguments as JSON.
type Call = (String, String);

/// The calls that the text between two marks spells, at least one; `None` if it is anything else.
pub fn calls_of(calls: &Calls, text: &str) -> Option<Vec<Call>> {
    let found = match calls.format {
        ToolFormat::Tagged => vec![tagged(calls, text.trim())?],
        _ => python(text.trim())?,
    };
    found.iter().all(|(name, _)| calls.has(name)).then_some(found).filter(|found| !found.is_empty())
}

/// `<function=name><parameter=key>value</parameter>…</function>`.
fn tagged(calls: &Calls, text: &str) -> Option<Call> {
    let (name, mut rest) = text.strip_prefix("<function=")?.split_once('>')?;
    let tool = calls.tools.iter().find(|tool| tool.name == name)?;
    let mut arguments = Map::new();
    while let Some((_, parameter)) = rest.split_once("<parameter=") {
        let (key, value) = parameter.split_once('>')?;
        let (value, after) = value.split_once("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        arguments.insert(key.to_owned(), typed(tool, key, value));
        rest = after;
    }
    (rest.trim() == "</function>").then(|| (name.to_owned(), Value::Object(arguments).to_string()))
}

/// A value that stands without quotes is text where the schema says so, and else JSON if it can be read as such.
fn typed(tool: &Tool, key: &str, value: &str) -> Value {
    let schema = tool.parameters.as_ref().map(|parameters| &parameters["properties"][key]["type"]);
    let is_text = schema.is_some_and(|kind| kind == "string");
    let parsed = if is_text { None } else { serde_json::from_str(value).ok() };
    parsed.unwrap_or_else(|| Value::String(value.to_owned()))
}

/// `f(a=1, b="x")`, several of them on lines of their own, or a list of them.
fn python(text: &str) -> Option<Vec<Call>> {
    let mut reader = Python { rest: text };
    let in_list = reader.eat('[');
    let mut calls = Vec::new();
    loop {
        reader.skip_space();
        if reader.rest.is_empty() || (in_list && reader.eat(']')) {
            break;
        }
        calls.push(reader.call()?);
        reader.skip_space();
        reader.eat(',');
    }
    reader.rest.trim().is_empty().then_some(calls)
}

/// Reads Python's literals. Lists and dictionaries may nest this deep.
const DEPTH_MAX: u32 = 32;

struct Python<'a> {
    rest: &'a str,
}

impl Python<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, sign: char) -> bool {
        self.skip_space();
        let after = self.rest.strip_prefix(sign);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn word(&mut self) -> Option<String> {
        self.skip_space();
        let is_word = |sign: char| sign.is_alphanumeric() || matches!(sign, '_' | '.');
        let end = self.rest.find(|sign| !is_word(sign)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then(|| word.to_owned())
    }

    fn call(&mut self) -> Option<Call> {
        let name = self.word()?;
        if !self.eat('(') {
            return None;
        }
        let mut arguments = Map::new();
        while !self.eat(')') {
            let key = self.word()?;
            if !self.eat('=') {
                return None;
            }
            arguments.insert(key, self.value(0)?);
            if !self.eat(',') && !self.rest.trim_start().starts_with(')') {
                return None;
            }
        }
        Some((name, Value::Object(arguments).to_string()))
    }

    fn value(&mut self, depth: u32) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.skip_space();
        match self.rest.chars().next()? {
            quote @ ('"' | '\'') => self.text(quote),
            '[' | '(' => {
                let close = if self.eat('[') { ']' } else { self.eat('(').then_some(')')? };
                let mut items = Vec::new();
                while !self.eat(close) {
                    items.push(self.value(depth + 1)?);
                    if !self.eat(',') && !self.rest.trim_start().starts_with(close) {
                        return None;
                    }
                }
                Some(Value::Array(items))
            }
            '{' => self.dictionary(depth),
            _ => self.scalar(),
        }
    }

    fn dictionary(&mut self, depth: u32) -> Option<Value> {
        self.eat('{');
        let mut entries = Map::new();
        while !self.eat('}') {
            let Value::String(key) = self.value(depth + 1)? else { return None };
            if !self.eat(':') {
                return None;
            }
            entries.insert(key, self.value(depth + 1)?);
            if !self.eat(',') && !self.rest.trim_start().starts_with('}') {
                return None;
            }
        }
        Some(Value::Object(entries))
    }

    fn scalar(&mut self) -> Option<Value> {
        let ends = |sign: char| sign.is_whitespace() || matches!(sign, ',' | ')' | ']' | '}' | ':');
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            "None" => Some(Value::Null),
            number => serde_json::from_str(number).ok(),
        }
    }

    fn text(&mut self, quote: char) -> Option<Value> {
        let mut text = String::new();
        let mut signs = self.rest.char_indices().skip(1);
        while let Some((at, sign)) = signs.next() {
            match sign {
                '\\' => match signs.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    sign @ ('\\' | '\'' | '"') => text.push(sign),
                    other => text.extend(['\\', other]),
                },
                sign if sign == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(Value::String(text));
                }
                sign => text.push(sign),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn calls(format: ToolFormat) -> Calls {
        let parameters =
            json!({"type": "object", "properties": {"zip": {"type": "string"}, "days": {"type": "integer"}}});
        let tool = Tool {
            name: "weather".to_owned(),
            description: None,
            parameters: Some(parameters),
            strict: false,
        };
        Calls { format, tools: vec![tool], is_single: false }
    }

    fn one(found: Option<Vec<Call>>) -> Value {
        let [(name, arguments)] = found.unwrap().try_into().unwrap();
        assert_eq!(name, "weather");
        serde_json::from_str(&arguments).unwrap()
    }

    #[test]
    fn pythons_calls_are_read() {
        let calls = calls(ToolFormat::ToolCode);
        let text = r#"weather(zip='0\'1', days=-3, tags=["a", (1.5, None)], more={"x": True},)"#;
        let expected = json!({"zip": "0'1", "days": -3, "tags": ["a", [1.5, null]], "more": {"x": true}});
        assert_eq!(one(calls_of(&calls, text)), expected);
        assert_eq!(calls_of(&calls, "[weather(), weather(days=1)]").unwrap().len(), 2);
        assert_eq!(calls_of(&calls, "weather()\nweather()").unwrap().len(), 2);
        for broken in ["", "weather", "weather(1)", "weather(a=)", "weather() + 1", "nobody()", "print('x"] {
            assert_eq!(calls_of(&calls, broken), None, "{broken}");
        }
    }

    #[test]
    fn tagged_arguments_take_their_types_from_the_schema() {
        let calls = calls(ToolFormat::Tagged);
        let text = "<function=weather>\n<parameter=zip>\n01\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>";
        assert_eq!(one(calls_of(&calls, text)), json!({"zip": "01", "days": 3}));
        assert_eq!(calls_of(&calls, "<function=nobody>\n</function>"), None);
        assert_eq!(calls_of(&calls, "<function=weather><parameter=zip>0"), None);
    }
}
