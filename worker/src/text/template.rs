//! The model's own chat template: a conversation to the prompt that the model was trained on.
//!
//! Templates come with model files and are written for Python's Jinja. They run in a sandbox without file access and
//! with a bound on their steps.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use protocol::worker::{Message, Tool};
use protocol::{ApiError, ErrorCode};
use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::{Map, json};

use crate::error::LoadError;

/// Steps that one rendering may take: many times what a long conversation needs. Each 64 bytes that a step makes cost
/// as much as another step, so this bounds the memory too.
const FUEL: u64 = 2_000_000;
/// Bytes of a template at most, three times the longest that is known. The renderer counts lines and columns in 16 bits.
const SOURCE_BYTES_MAX: usize = 60_000;
/// A value may be a list that repeats itself a billion times, which costs fuel only once it is written.
const JSON_BYTES_MAX: usize = 32 << 20;
const NAME: &str = "chat";

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_token: String,
    eos_token: String,
}

/// What a template is given.
#[derive(Debug, Clone, Copy)]
pub struct Conversation<'a> {
    /// The turns so far.
    pub messages: &'a [Message],
    /// Tools that the model is told of.
    pub tools: &'a [Tool],
    /// Further names that the template sees.
    pub options: &'a Map<String, serde_json::Value>,
}

/// What a template said by `raise_exception`.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl ChatTemplate {
    /// Compiles the source, which knows the two tokens as `bos_token` and `eos_token`.
    pub fn compile(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, LoadError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(LoadError::Unsupported(format!(
                "the chat template has {} bytes, the limit is {SOURCE_BYTES_MAX}",
                source.len()
            )));
        }
        let mut environment = Environment::new();
        // Python's renderers of chat templates set both, and templates are written for that.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| LoadError::Failed(error.to_string()))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| strftime(format, now_seconds()));
        environment.add_filter("tojson", tojson);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| {
            LoadError::Unsupported(format!("the chat template does not compile: {error}"))
        })?;
        Ok(Self {
            environment,
            source: source.to_owned(),
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        })
    }

    /// The source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template reads this name.
    pub fn reads(&self, name: &str) -> bool {
        let template = self.environment.get_template(NAME);
        template.is_ok_and(|template| template.undeclared_variables(false).contains(name))
    }

    /// Renders a conversation up to where the model's answer begins.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, ApiError> {
        // A caller's names come first: none of them takes the place of what is ours.
        let mut names: Map<String, serde_json::Value> = conversation.options.clone();
        let messages: Vec<serde_json::Value> = conversation.messages.iter().map(turn).collect();
        let tools: Vec<serde_json::Value> = conversation.tools.iter().map(tool_value).collect();
        names.insert("messages".to_owned(), messages.into());
        names.insert("add_generation_prompt".to_owned(), true.into());
        names.insert("bos_token".to_owned(), self.bos_token.as_str().into());
        names.insert("eos_token".to_owned(), self.eos_token.as_str().into());
        names.insert("tools".to_owned(), if tools.is_empty() { ().into() } else { tools.into() });
        names.insert("documents".to_owned(), ().into());
        let template = self.environment.get_template(NAME);
        template
            .and_then(|template| template.render(minijinja::value::Serde(names)))
            .map_err(|error| refused(&error))
    }
}

/// A turn in the shape that templates are written for: OpenAI's, with arguments as objects.
fn turn(message: &Message) -> serde_json::Value {
    let mut turn = json!({"role": message.role, "content": message.content});
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            // What is no JSON goes as the text that it is.
            let arguments = serde_json::from_str(&call.arguments)
                .unwrap_or_else(|_| serde_json::Value::from(call.arguments.as_str()));
            json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
        });
        turn["tool_calls"] = calls.collect();
    }
    let further = [
        ("tool_call_id", &message.tool_call_id),
        ("name", &message.name),
        ("reasoning_content", &message.reasoning),
    ];
    for (key, value) in further {
        if let Some(value) = value {
            turn[key] = value.as_str().into();
        }
    }
    turn
}

/// A tool in the shape that templates are written for.
fn tool_value(tool: &Tool) -> serde_json::Value {
    let no_arguments = || json!({"type": "object", "properties": {}});
    let mut function = json!({"name": tool.name});
    if let Some(description) = &tool.description {
        function["description"] = description.as_str().into();
    }
    function["parameters"] = tool.parameters.clone().unwrap_or_else(no_arguments);
    json!({"type": "function", "function": function})
}

/// A tool as one line of JSON in Python's manner.
pub fn tool_json(tool: &Tool) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, PythonFormatter);
    // A value that came from JSON can be written as JSON.
    let _ = tool_value(tool).serialize(&mut serializer);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A template fails over what it is given: the caller is told, in the template's own words if it has any.
fn refused(error: &Error) -> ApiError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(Refusal(text)) = inner.downcast_ref() {
            return ApiError::invalid("messages", text);
        }
        cause = inner.source();
    }
    let message = format!("the model's chat template cannot format these messages: {error}");
    ApiError::new(ErrorCode::InvalidRequest, message).with_param("messages")
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(message)))
}

/// JSON as Python's json.dumps writes it: a space after each comma and colon, or indented.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands options over by value")]
fn tojson(value: &Value, options: minijinja::value::Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Templates pass further options of json.dumps; only those that change nothing here are in use.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let mut bytes = BoundedBytes(Vec::new());
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PythonFormatter)),
    };
    let invalid = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    written.map_err(|error| invalid(error.to_string()))?;
    let text = String::from_utf8(bytes.0).map_err(|error| invalid(error.to_string()))?;
    Ok(Value::from_safe_string(text))
}

/// Fails instead of growing beyond what any prompt can hold.
struct BoundedBytes(Vec<u8>);

impl std::io::Write for BoundedBytes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > JSON_BYTES_MAX {
            return Err(std::io::Error::other(format!("JSON of more than {JSON_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// The part of strftime that chat templates use, in UTC. Other directives stay as they are.
fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[(days % 7) as usize];
    let two = |number: u64| format!("{number:02}");
    let mut text = String::new();
    let mut signs = format.chars();
    while let Some(sign) = signs.next() {
        let directive = if sign == '%' { signs.next() } else { None };
        let written = match directive {
            None => sign.to_string(),
            Some('%') => "%".to_owned(),
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => two(seconds / 3_600 % 24),
            Some('M') => two(seconds / 60 % 60),
            Some('S') => two(seconds % 60),
            Some(other) => format!("%{other}"),
        };
        text.push_str(&written);
    }
    text
}

/// Year, month and day of a number of days since 1970, by Howard Hinnant's algorithm for dates after 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned(), ..Message::default() }
    }

    fn render(source: &str, messages: &[Message]) -> Result<String, ApiError> {
        render_with(source, messages, &[], &json!({}))
    }

    fn render_with(
        source: &str,
        messages: &[Message],
        tools: &[Tool],
        options: &serde_json::Value,
    ) -> Result<String, ApiError> {
        let options = options.as_object().unwrap();
        let template = ChatTemplate::compile(source, "<s>", "</s>").unwrap();
        template.render(&Conversation { messages, tools, options })
    }

    #[test]
    fn a_template_may_be_long_and_not_endless() {
        let compile =
            |part: &str, bytes: usize| ChatTemplate::compile(&part.repeat(bytes / part.len()), "", "");
        for part in ["{{ 1 }}", "\n", " "] {
            assert!(compile(part, SOURCE_BYTES_MAX).is_ok());
            let error = compile(part, SOURCE_BYTES_MAX + part.len()).unwrap_err().to_string();
            assert!(error.contains("the limit is 60000"), "{error}");
        }
    }

    #[test]
    fn tools_calls_and_answers_have_openais_shape() {
        let call = protocol::worker::ToolCall {
            id: "call_1".to_owned(),
            name: "f".to_owned(),
            arguments: r#"{"b": 1, "a": "x"}"#.to_owned(),
        };
        let asked =
            Message { tool_calls: vec![call], reasoning: Some("hm".to_owned()), ..message("assistant", "") };
        let answered = Message {
            tool_call_id: Some("call_1".to_owned()),
            name: Some("f".to_owned()),
            ..message("tool", "done")
        };
        let tool = Tool { name: "f".to_owned(), description: None, parameters: None, strict: true };
        let source = "{{ tools | tojson }}|{% for m in messages %}{% if m.tool_calls %}{{ m.reasoning_content }}\
                      {% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}\
                      {% else %}{{ m.tool_call_id }} {{ m.name }} {{ m.content }}{% endif %}|{% endfor %}";
        assert_eq!(
            render_with(source, &[asked, answered], &[tool], &json!({})).unwrap(),
            r#"[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]|"#.to_owned()
                + r#"hmf{"b": 1, "a": "x"}|call_1 f done|"#
        );
    }

    #[test]
    fn a_callers_names_reach_the_template_and_replace_none_of_ours() {
        let source =
            "{{ enable_thinking }} {{ messages | length }} {{ tools is none }} {{ documents is none }}";
        let options = json!({"enable_thinking": false, "messages": [1, 2, 3]});
        assert_eq!(render_with(source, &[message("user", "x")], &[], &options).unwrap(), "False 1 True True");
        let template = ChatTemplate::compile(source, "", "").unwrap();
        assert!(template.reads("tools") && template.reads("enable_thinking") && !template.reads("bos_token"));
    }

    #[test]
    fn pythons_methods_loop_controls_and_whitespace_rules_hold() {
        let source = "{%- for m in messages %}\n    {%- if m['role'] == 'system' %}{% continue %}{% endif %}\n\
                      {{ bos_token + m.content.strip().title() }}\n{% endfor %}\n{% if tools is none %}no tools{% endif %}";
        let messages = [message("system", "x"), message("user", "  hello ")];
        assert_eq!(render(source, &messages).unwrap(), "<s>Hello\nno tools");
    }

    #[test]
    fn json_is_pythons() {
        let source = r#"{{ {"a": [1, 2], "b": "é<"} | tojson }}"#;
        assert_eq!(render(source, &[]).unwrap(), r#"{"a": [1, 2], "b": "é<"}"#);
    }

    #[test]
    fn what_a_template_raises_reaches_the_caller() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.param.as_deref()),
            ("roles must alternate", Some("messages"))
        );
        assert_eq!(error.code.status(), 400);
    }

    #[test]
    fn an_endless_template_is_stopped() {
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert_eq!(render(source, &[]).unwrap_err().code.status(), 400);
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(strftime("%d %b %Y, %A %H:%M:%S %%", 951_827_696), "29 Feb 2000, Tuesday 12:34:56 %");
        assert_eq!(strftime("%Y-%m-%d", 0), "1970-01-01");
    }
}
