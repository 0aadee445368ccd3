//! Tools: how a model's chat template wants calls to be written, and what to do where it knows none.

mod call;
mod fallback;
mod grammar;
mod whole;

use protocol::worker::Tool;

pub use call::{CallObject, Depth, Verdict};
pub use fallback::{is_free_of_tools, told_in_text};
pub use grammar::{Demand, PrepareSchema};
pub use whole::calls_of;

/// How a model writes a call of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// JSON between `<tool_call>` and `</tool_call>`, or a list of it: Hermes, Qwen, SmolLM; and what a model without a
    /// format of its own is told to write.
    Hermes,
    /// Bare JSON, or JSON after `<|python_tag|>`.
    Llama3,
    /// A list of JSON objects after `[TOOL_CALLS]`.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`.
    MistralNamed,
    /// A list of JSON objects after `<|tool_call|>`: Granite and Phi.
    Granite,
    /// Names and arguments between marks of their own.
    DeepSeek,
    /// Python's calls in a fenced block.
    ToolCode,
    /// A tag for the function and one for each argument.
    Tagged,
}

/// What may be called and how calls are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Calls {
    /// How they are written.
    pub format: ToolFormat,
    /// What may be called.
    pub tools: Vec<Tool>,
    /// Whether the answer ends with the first call.
    pub is_single: bool,
}

impl Calls {
    /// Whether a tool has this name.
    pub fn has(&self, name: &str) -> bool {
        self.tools.iter().any(|tool| tool.name == name)
    }
}

impl ToolFormat {
    /// The format that a chat template speaks of; none if it does not know tools at all. `uses_tools` tells whether
    /// the template reads the list of tools.
    pub fn of_template(source: &str, uses_tools: bool) -> Option<Self> {
        let known = [
            ("<｜tool▁calls▁begin｜>", Self::DeepSeek),
            ("[ARGS]", Self::MistralNamed),
            ("[TOOL_CALLS]", Self::Mistral),
            ("<function=", Self::Tagged),
            ("<|tool_call|>", Self::Granite),
            ("<tool_call>", Self::Hermes),
            ("<|python_tag|>", Self::Llama3),
            ("```tool_code", Self::ToolCode),
        ];
        let marked = known.into_iter().find(|(mark, _)| source.contains(mark)).map(|(_, format)| format);
        // A template that lists tools and names no mark asks for plain JSON.
        marked.or(uses_tools.then_some(Self::Llama3))
    }

    /// What stands before calls.
    pub const fn open(self) -> &'static str {
        match self {
            Self::Hermes | Self::Tagged => "<tool_call>",
            Self::Llama3 => "<|python_tag|>",
            Self::Mistral | Self::MistralNamed => "[TOOL_CALLS]",
            Self::Granite => "<|tool_call|>",
            Self::DeepSeek => "<｜tool▁calls▁begin｜>",
            Self::ToolCode => "```tool_code",
        }
    }

    /// What stands after calls, if anything does.
    pub const fn close(self) -> Option<&'static str> {
        match self {
            Self::Hermes | Self::Tagged => Some("</tool_call>"),
            Self::Llama3 | Self::Mistral | Self::MistralNamed | Self::Granite => None,
            Self::DeepSeek => Some("<｜tool▁calls▁end｜>"),
            Self::ToolCode => Some("```"),
        }
    }

    /// Whether an answer that begins with a brace may be a call without a mark.
    pub const fn is_bare(self) -> bool {
        matches!(self, Self::Llama3)
    }

    /// Whether a name may stand before the arguments, outside of JSON.
    pub const fn has_heads(self) -> bool {
        matches!(self, Self::MistralNamed | Self::Mistral | Self::DeepSeek)
    }

    /// Whether calls may be written otherwise than in JSON, so that they are understood only as a whole.
    pub const fn is_read_whole(self) -> bool {
        matches!(self, Self::ToolCode | Self::Tagged)
    }

    /// All texts that may be tokens of their own and are to be seen by the reader of calls.
    pub const fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Hermes | Self::Tagged => &["<tool_call>", "</tool_call>"],
            Self::Llama3 => &["<|python_tag|>"],
            Self::Mistral => &["[TOOL_CALLS]"],
            Self::MistralNamed => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
            Self::Granite => &["<|tool_call|>"],
            Self::DeepSeek => &[
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁calls▁end｜>",
                "<｜tool▁call▁begin｜>",
                "<｜tool▁call▁end｜>",
                "<｜tool▁sep｜>",
            ],
            Self::ToolCode => &[],
        }
    }

    /// The name in the head of a call: all that stands between the mark, or the call before, and the arguments.
    pub fn name_in_head(self, head: &str) -> Option<String> {
        let name = match self {
            Self::DeepSeek => {
                let (_, head) = head.rsplit_once("<｜tool▁call▁begin｜>")?;
                let (kind, rest) = head.split_once("<｜tool▁sep｜>")?;
                // The older models name a kind before the mark and the function after it.
                rest.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or(kind)
            }
            _ => head.split('[').next().unwrap_or_default(),
        };
        let name = name.trim();
        let is_name = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
        is_name.then(|| name.to_owned())
    }

    /// A new id for a call, of the kind that the model's template takes back.
    pub fn new_call_id(self) -> String {
        let id = uuid::Uuid::new_v4().simple().to_string();
        match self {
            // Mistral's templates refuse ids of any other length.
            Self::Mistral | Self::MistralNamed => id[..9].to_owned(),
            _ => format!("call_{}", &id[..24]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_tell_their_format() {
        for (source, uses_tools, format) in [
            ("{%- if tools %}<tools></tools> within <tool_call></tool_call>", true, Some(ToolFormat::Hermes)),
            ("<|python_tag|>", true, Some(ToolFormat::Llama3)),
            ("[AVAILABLE_TOOLS] [TOOL_CALLS]", true, Some(ToolFormat::Mistral)),
            ("[TOOL_CALLS]name[ARGS]", true, Some(ToolFormat::MistralNamed)),
            ("<tool_call>\n<function=x>", true, Some(ToolFormat::Tagged)),
            ("{{ tools | tojson }}", true, Some(ToolFormat::Llama3)),
            ("{{ messages }}", false, None),
        ] {
            assert_eq!(ToolFormat::of_template(source, uses_tools), format, "{source}");
        }
    }

    #[test]
    fn names_stand_in_heads() {
        let deepseek = ToolFormat::DeepSeek;
        let older = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n";
        assert_eq!(deepseek.name_in_head(older).as_deref(), Some("get_time"));
        let newer = "<｜tool▁call▁end｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>";
        assert_eq!(deepseek.name_in_head(newer).as_deref(), Some("get_time"));
        assert_eq!(ToolFormat::MistralNamed.name_in_head("get_time[ARGS]").as_deref(), Some("get_time"));
        assert_eq!(ToolFormat::MistralNamed.name_in_head("not a name[ARGS]"), None);
    }
}
