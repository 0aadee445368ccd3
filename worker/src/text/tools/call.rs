//! One call written as a JSON object, read a character at a time so that its arguments can be passed on as they come.

/// What a character made of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// More is needed.
    Reading,
    /// The call is known: these are its name and the arguments so far. More of them may follow.
    Announced(String, String),
    /// The call is known, and the character was its last.
    Whole(String, String),
    /// The character belongs to the arguments of the announced call.
    Argument,
    /// The character was the last of an announced call.
    Read,
    /// An announced call ended before this character, without its last brace.
    Ended,
    /// This is no call.
    Broken,
}

/// How deep in a JSON value a reader is.
#[derive(Debug, Clone, Default)]
pub struct Depth {
    levels: u32,
    in_string: bool,
    escaped: bool,
}

impl Depth {
    /// Takes a character of a value that began with a brace, a bracket or a quote; true if it was the value's last.
    pub fn push(&mut self, sign: char) -> bool {
        if self.escaped {
            self.escaped = false;
            return false;
        }
        match sign {
            '\\' if self.in_string => self.escaped = true,
            '"' => self.in_string = !self.in_string,
            '{' | '[' if !self.in_string => self.levels += 1,
            '}' | ']' if !self.in_string => self.levels = self.levels.saturating_sub(1),
            _ => {}
        }
        self.levels == 0 && !self.in_string
    }
}

/// Where in the object the reader is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    BeforeKey,
    Key,
    AfterKey,
    BeforeValue,
    Value(Use),
    /// A number, true, false or null, which only the next character ends.
    Scalar(Use),
    Arguments,
    AfterValue,
}

/// What the object's value at hand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Name,
    Arguments,
    Other,
}

/// Reads one call; its first brace has been read already.
#[derive(Debug, Clone, Default)]
pub struct CallObject {
    place: Place,
    key: String,
    value: String,
    depth: Depth,
    name: Option<String>,
    arguments: Option<String>,
    announced: bool,
}

impl CallObject {
    /// Whether the call is known.
    pub fn is_announced(&self) -> bool {
        self.announced
    }

    /// Takes a character. `is_tool` tells whether a name can be one of a tool.
    pub fn push(&mut self, sign: char, is_tool: impl Fn(&str) -> bool) -> Verdict {
        let is_space = sign.is_ascii_whitespace();
        match self.place {
            Place::BeforeKey | Place::AfterKey | Place::BeforeValue | Place::AfterValue if is_space => {
                Verdict::Reading
            }
            Place::BeforeKey => match sign {
                '"' => {
                    self.key.clear();
                    self.go_on(Place::Key)
                }
                '}' => self.end(),
                _ => self.broken(),
            },
            Place::Key => {
                // A key with an escape is none that is looked for, and its quote still ends it.
                if sign == '"' && !self.key.ends_with('\\') {
                    return self.go_on(Place::AfterKey);
                }
                self.key.push(sign);
                Verdict::Reading
            }
            Place::AfterKey if sign == ':' => self.go_on(Place::BeforeValue),
            Place::BeforeValue => self.begin_value(sign),
            Place::Value(usage) => {
                self.value.push(sign);
                if self.depth.push(sign) { self.take_value(usage, &is_tool) } else { Verdict::Reading }
            }
            Place::Scalar(usage) => {
                if sign.is_ascii_alphanumeric() || matches!(sign, '+' | '-' | '.') {
                    self.value.push(sign);
                    return Verdict::Reading;
                }
                match self.take_value(usage, &is_tool) {
                    Verdict::Reading => self.push(sign, is_tool),
                    other => other,
                }
            }
            Place::Arguments => {
                if self.depth.push(sign) {
                    self.place = Place::AfterValue;
                }
                Verdict::Argument
            }
            Place::AfterValue => match sign {
                ',' => self.go_on(Place::BeforeKey),
                '}' => self.end(),
                _ => self.broken(),
            },
            Place::AfterKey => self.broken(),
        }
    }

    fn go_on(&mut self, place: Place) -> Verdict {
        self.place = place;
        Verdict::Reading
    }

    fn begin_value(&mut self, sign: char) -> Verdict {
        let usage = match self.key.as_str() {
            _ if self.announced => Use::Other,
            "name" => Use::Name,
            "arguments" | "parameters" => Use::Arguments,
            _ => Use::Other,
        };
        self.value = sign.to_string();
        self.depth = Depth::default();
        match (sign, usage) {
            ('{', Use::Arguments) => {
                self.depth.push(sign);
                let Some(name) = self.name.clone() else { return self.go_on(Place::Value(usage)) };
                self.announced = true;
                self.place = Place::Arguments;
                Verdict::Announced(name, std::mem::take(&mut self.value))
            }
            ('"', _) | ('{' | '[', Use::Other) => {
                self.depth.push(sign);
                self.go_on(Place::Value(usage))
            }
            (_, Use::Arguments | Use::Other) if sign.is_ascii_alphanumeric() || sign == '-' => {
                self.go_on(Place::Scalar(usage))
            }
            _ => self.broken(),
        }
    }

    fn take_value(&mut self, usage: Use, is_tool: &impl Fn(&str) -> bool) -> Verdict {
        self.place = Place::AfterValue;
        let value = std::mem::take(&mut self.value);
        match usage {
            Use::Other => Verdict::Reading,
            Use::Name => match serde_json::from_str::<String>(&value) {
                Ok(name) if !name.is_empty() && is_tool(&name) => {
                    self.name = Some(name);
                    Verdict::Reading
                }
                _ => self.broken(),
            },
            Use::Arguments => {
                // Some models write the arguments as a string that holds JSON, as the interface of callers has it.
                let arguments = if value.starts_with('"') {
                    serde_json::from_str::<String>(&value).ok().filter(|text| text.starts_with('{'))
                } else if value == "null" {
                    Some("{}".to_owned())
                } else {
                    Some(value).filter(|text| text.starts_with('{'))
                };
                match arguments {
                    Some(_) => {
                        self.arguments = arguments;
                        Verdict::Reading
                    }
                    None => self.broken(),
                }
            }
        }
    }

    fn end(&mut self) -> Verdict {
        if self.announced {
            return Verdict::Read;
        }
        let Some(name) = self.name.take() else { return Verdict::Broken };
        self.announced = true;
        Verdict::Whole(name, self.arguments.take().unwrap_or_else(|| "{}".to_owned()))
    }

    fn broken(&self) -> Verdict {
        if self.announced { Verdict::Ended } else { Verdict::Broken }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the reader makes of a whole text: name and arguments, and the rest that it did not take.
    fn read(text: &str) -> Option<(String, String, String)> {
        let mut reader = CallObject::default();
        let mut call: Option<(String, String)> = None;
        for (at, sign) in text.char_indices() {
            match reader.push(sign, |name| name != "nobody") {
                Verdict::Reading => {}
                Verdict::Announced(name, arguments) => call = Some((name, arguments)),
                Verdict::Whole(name, arguments) => {
                    return Some((name, arguments, text[at + sign.len_utf8()..].to_owned()));
                }
                Verdict::Argument => call.as_mut().unwrap().1.push(sign),
                Verdict::Read => {
                    let (name, arguments) = call?;
                    return Some((name, arguments, text[at + sign.len_utf8()..].to_owned()));
                }
                Verdict::Ended => {
                    let (name, arguments) = call?;
                    return Some((name, arguments, text[at..].to_owned()));
                }
                Verdict::Broken => return None,
            }
        }
        None
    }

    #[expect(clippy::unnecessary_wraps, reason = "what `read` gives is an option")]
    fn some(name: &str, arguments: &str, rest: &str) -> Option<(String, String, String)> {
        Some((name.to_owned(), arguments.to_owned(), rest.to_owned()))
    }

    #[test]
    fn arguments_are_passed_on_as_they_stand() {
        assert_eq!(
            read(r#""name": "f", "arguments": {"a": "}\"{", "b": [1, {}]}} rest"#),
            some("f", r#"{"a": "}\"{", "b": [1, {}]}"#, " rest")
        );
        assert_eq!(read(r#""type":"function","name":"f","parameters":{}}"#), some("f", "{}", ""));
    }

    #[test]
    fn the_order_of_keys_is_free_and_arguments_may_lack() {
        assert_eq!(read(r#""arguments": {"a": 1}, "name": "f"}"#), some("f", r#"{"a": 1}"#, ""));
        assert_eq!(read(r#""name": "f", "id": 7}"#), some("f", "{}", ""));
        assert_eq!(read(r#""name": "f", "arguments": null}"#), some("f", "{}", ""));
    }

    #[test]
    fn arguments_in_a_string_are_unwrapped() {
        assert_eq!(read(r#""name": "f", "arguments": "{\"a\": 1}"}"#), some("f", r#"{"a": 1}"#, ""));
    }

    #[test]
    fn a_forgotten_last_brace_is_forgiven() {
        assert_eq!(read(r#""name":"f","arguments":{}</tool_call>"#), some("f", "{}", "</tool_call>"));
    }

    #[test]
    fn what_is_no_call_is_broken() {
        for text in [
            "x",
            r#""name": 7}"#,
            r#""name": "nobody", "arguments": {}}"#,
            r#""age": 7}"#,
            r#""name": "f" "x"}"#,
            r#""name": "f", "arguments": [1]}"#,
            r#""name": "f", "arguments": "no json"}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
