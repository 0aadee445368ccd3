//! What a caller sends.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::openai::chat::StreamOptions;
use crate::openai::metadata::Metadata;

/// Request body. Unknown fields are accepted; known ones are honoured or refused by name.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[schema(example = json!({
    "model": "smollm2-135m-instruct",
    "instructions": "Be brief.",
    "input": "Say hello.",
    "stream": true
}))]
pub struct ResponseRequest {
    /// A model's name, or an alias; the server's default model, if it has one, where this is absent.
    pub model: Option<String>,
    /// What the model is told: a text, or items.
    #[schema(value_type = TextOrParts<InputItem>)]
    pub input: Option<Input>,
    /// A system message, before all others. It is not carried over by `previous_response_id`.
    pub instructions: Option<String>,
    /// The response whose conversation goes on. It must have been stored.
    pub previous_response_id: Option<String>,
    /// Whether the response is kept, to be asked for and gone on from; true if absent.
    pub store: Option<bool>,
    /// The band of the queue: auto or default (interactive), priority (high) or flex (low).
    #[serde(default)]
    pub service_tier: Option<String>,
    /// Up to 16 pairs that are kept with the response; keys of up to 64 characters, values of up to 512.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    pub metadata: Option<Metadata>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// Accepted; events are not padded.
    pub stream_options: Option<StreamOptions>,
    /// Tokens to generate at most, thoughts included.
    pub max_output_tokens: Option<u32>,
    /// Accepted: it limits tools that the server itself calls, and there are none.
    pub max_tool_calls: Option<u32>,
    /// 0 (greedy) to 2; 1 if absent.
    pub temperature: Option<f32>,
    /// Nucleus, 0 to 1; 1 if absent.
    pub top_p: Option<f32>,
    /// Tell each token's log probability, and those of this many of the likeliest; 0 to 20.
    pub top_logprobs: Option<u32>,
    /// What the answer holds besides. `message.output_text.logprobs` tells log probabilities. Thoughts are never encrypted
    /// here, so `reasoning.encrypted_content` adds nothing; nor do the others, which belong to tools that are not there.
    pub include: Option<Vec<String>>,
    /// What the text must be.
    pub text: Option<TextConfig>,
    /// How the model thinks.
    pub reasoning: Option<Reasoning>,
    /// Tools that the model may call.
    pub tools: Option<Vec<Tool>>,
    /// Which of them it must or must not call.
    pub tool_choice: Option<ToolChoice>,
    /// Whether one answer may call several tools; true if absent.
    pub parallel_tool_calls: Option<bool>,
    /// Must be absent or "disabled": nothing is left out of a conversation silently.
    pub truncation: Option<String>,
    /// Must be absent or false.
    pub background: Option<bool>,
    /// Must be absent; `previous_response_id` goes on with a conversation.
    #[schema(value_type = Option<Object>)]
    pub conversation: Option<Value>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub prompt: Option<Value>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    pub moderation: Option<Value>,
    /// Must be absent.
    #[schema(value_type = Option<Vec<Object>>)]
    pub context_management: Option<Value>,
    /// Must be absent.
    pub personality: Option<String>,
    /// Accepted and told again.
    pub user: Option<String>,
    /// Accepted and told again.
    pub safety_identifier: Option<String>,
    /// Accepted and told again; prompts that begin alike are found without it.
    pub prompt_cache_key: Option<String>,
}

/// What the model is told.
pub type Input = TextOrParts<InputItem>;

/// A text, or a list of parts. Unlike an untagged enum, it tells which part is at fault.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TextOrParts<T> {
    Text(String),
    Parts(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOrParts<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrSequence<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrSequence<T> {
            type Value = TextOrParts<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOrParts::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(sequence)).map(TextOrParts::Parts)
            }
        }

        deserializer.deserialize_any(TextOrSequence(PhantomData))
    }
}

/// One item of the input; which fields it has depends on its type.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[schema(as = ResponseInputItem)]
pub struct InputItem {
    /// message (which may be left out), function_call, function_call_output, reasoning or item_reference.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The item's id; of an item_reference, the id of the item that it stands for.
    pub id: Option<String>,
    /// Of a message: user, assistant, system or developer.
    pub role: Option<String>,
    /// Of a message: a text, or parts of the types input_text, output_text and refusal. Of reasoning: reasoning_text.
    pub content: Option<TextOrParts<InputPart>>,
    /// Of a function_call and its output: what ties them together.
    pub call_id: Option<String>,
    /// Of a function_call: the function's name.
    pub name: Option<String>,
    /// Of a function_call: the arguments as JSON text.
    pub arguments: Option<String>,
    /// Of a function_call_output: a text, or parts of the type input_text.
    pub output: Option<TextOrParts<InputPart>>,
    /// Of reasoning: parts of the type summary_text.
    pub summary: Option<Vec<InputPart>>,
    /// Of reasoning: must be absent if that has neither content nor summary.
    pub encrypted_content: Option<String>,
}

/// One part of an item.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = ResponseInputPart)]
pub struct InputPart {
    /// input_text, output_text, refusal, reasoning_text or summary_text; nothing that is not text.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
    /// The text of a refusal.
    pub refusal: Option<String>,
}

/// What the text must be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseTextConfig)]
pub struct TextConfig {
    /// Its format; plain text if absent.
    pub format: Option<TextFormat>,
    /// low, medium or high. Accepted: models do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<String>,
}

/// A format of text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseTextFormat)]
pub struct TextFormat {
    /// text, json_object, json_schema; rbee: regex or lark.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of json_schema: letters, digits, `_` and `-`, at most 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of json_schema. Accepted; the model does not see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Of json_schema: the schema.
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Answers are made to fit the schema whether or not this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
    /// rbee, of regex: the expression that matches the whole answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// rbee, of lark: the grammar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grammar: Option<String>,
}

impl TextFormat {
    /// Plain text.
    pub fn plain() -> Self {
        Self {
            kind: "text".to_owned(),
            name: None,
            description: None,
            schema: None,
            strict: None,
            pattern: None,
            grammar: None,
        }
    }
}

/// How a model thinks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseReasoning)]
pub struct Reasoning {
    /// none, minimal, low, medium, high, xhigh or max: whether and how much the model thinks first, as far as its chat
    /// template lets that be said.
    pub effort: Option<String>,
    /// auto, concise or detailed: thoughts are told as a summary, which is not shortened, instead of as content.
    pub summary: Option<String>,
    /// The older name of `summary`.
    #[serde(default, skip_serializing)]
    pub generate_summary: Option<String>,
    /// auto, current_turn or all_turns: whether the model sees its thoughts of earlier turns, as far as its chat template
    /// shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Must be absent or "standard".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// A tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseTool)]
pub struct Tool {
    /// function; nothing else is supported.
    #[serde(rename = "type")]
    pub kind: String,
    /// Letters, digits, `_` and `-`, at most 64.
    pub name: Option<String>,
    /// What it does, for the model to read.
    pub description: Option<String>,
    /// The JSON schema of its arguments; none if absent.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether generated arguments are made to fit the schema; true if absent.
    pub strict: Option<bool>,
    /// Must be absent or false.
    #[serde(default, skip_serializing)]
    pub defer_loading: Option<bool>,
    /// Must be absent or `["direct"]`.
    #[serde(default, skip_serializing)]
    pub allowed_callers: Option<Vec<String>>,
    /// Must be absent.
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing)]
    pub output_schema: Option<Map<String, Value>>,
}

/// Which tools a model must or must not call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseToolChoice)]
#[serde(untagged)]
pub enum ToolChoice {
    /// none, auto or required.
    Mode(String),
    /// One tool, or some of them.
    Chosen(ChosenTool),
}

/// One tool, or some of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseChosenTool)]
pub struct ChosenTool {
    /// function or allowed_tools.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function that must be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of allowed_tools: auto or required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Of allowed_tools: the tools that may be called.
    #[schema(no_recursion)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<ChosenTool>>,
}
