//! What a request means, once and for all: everything is checked here, and nothing is checked again after it.

use std::time::Duration;

use protocol::ApiError;
use protocol::ErrorCode;
use protocol::openai::chat::{ChatCompletionRequest, ChatMessage, Content, ContentPart, Role, Stop};
use protocol::task::{Priority, TaskKind, TaskRequest};
use protocol::worker::{ExecuteRequest, Message};
use serde_json::Value;
use tokio::time::Instant;

use crate::hives::NodeName;

/// A request for text, checked.
#[derive(Debug, Clone)]
pub struct InferenceRequest {
    /// The model's name in the catalogs.
    pub model: String,
    /// What to answer.
    pub input: Input,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// The band it waits in.
    pub priority: Priority,
    /// The only machine that may serve it.
    pub node: Option<NodeName>,
    /// When an answer is of no use any more.
    pub deadline: Option<Instant>,
}

/// What to answer.
#[derive(Debug, Clone)]
pub enum Input {
    /// A conversation.
    Messages(Vec<Message>),
    /// What a user says to a model that may or may not be one for conversations.
    Instruction(String),
}

/// How to choose tokens.
#[derive(Debug, Clone, Default)]
pub struct Sampling {
    pub max_tokens: Option<u32>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub seed: Option<u64>,
    pub stop: Vec<String>,
}

impl InferenceRequest {
    /// The order to a worker.
    pub fn to_execute(&self, request_id: &str) -> ExecuteRequest {
        let (messages, instruction) = match &self.input {
            Input::Messages(messages) => (Some(messages.clone()), None),
            Input::Instruction(text) => (None, Some(text.clone())),
        };
        ExecuteRequest {
            request_id: Some(request_id.to_owned()),
            instruction,
            messages,
            max_tokens: self.sampling.max_tokens,
            temperature: self.sampling.temperature,
            top_p: self.sampling.top_p,
            top_k: self.sampling.top_k,
            seed: self.sampling.seed,
            stop: self.sampling.stop.clone(),
            stream: true,
            ..ExecuteRequest::default()
        }
    }
}

/// Checks a chat completion.
pub fn chat_request(
    body: ChatCompletionRequest,
    timeout: Option<Duration>,
) -> Result<InferenceRequest, ApiError> {
    refuse_what_is_not_there(&body)?;
    let stop = match body.stop {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Many(texts)) => texts,
    };
    if stop.len() > 4 {
        return Err(ApiError::invalid(
            "stop",
            format!("'stop' holds {} strings; at most 4 are allowed.", stop.len()),
        ));
    }
    if body.messages.is_empty() {
        return Err(ApiError::invalid("messages", "'messages' is empty; at least one message is needed."));
    }
    let messages = body.messages.into_iter().enumerate().map(|(index, message)| turn(index, message));
    let sampling = Sampling {
        max_tokens: body.max_completion_tokens.or(body.max_tokens),
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        seed: body.seed.as_ref().map(seed),
        stop,
    };
    Ok(InferenceRequest {
        model: body.model,
        input: Input::Messages(messages.collect::<Result<_, _>>()?),
        sampling: checked(sampling)?,
        priority: Priority::Interactive,
        node: None,
        deadline: timeout.map(|timeout| Instant::now() + timeout),
    })
}

/// Checks a task; `default_model` answers where none is named.
pub fn task_request(body: TaskRequest, default_model: &str) -> Result<InferenceRequest, ApiError> {
    if body.kind != TaskKind::TextGen {
        let message = "Only tasks of the kind text-gen are served by this version.";
        return Err(ApiError::new(ErrorCode::UnsupportedParameter, message).with_param("kind"));
    }
    let refused = [
        ("input", body.input.is_some(), "inputs that are neither a prompt nor messages"),
        ("placement", body.placement.is_some(), "placement"),
        ("compliance", body.compliance.is_some(), "compliance modes"),
        ("session_id", body.session_id.is_some(), "sessions"),
    ];
    refuse_first(&refused)?;
    let input = match (body.prompt, body.messages) {
        (Some(prompt), None) if !prompt.is_empty() => Input::Instruction(prompt),
        (Some(_), None) => return Err(ApiError::invalid("prompt", "'prompt' is empty.")),
        (None, Some(messages)) => Input::Messages(known_roles(messages)?),
        (None, None) => {
            return Err(ApiError::invalid("prompt", "One of 'prompt' and 'messages' is required."));
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("prompt", "Only one of 'prompt' and 'messages' can be given."));
        }
    };
    let sampling = Sampling {
        max_tokens: body.max_tokens,
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        seed: body.seed,
        stop: body.stop.unwrap_or_default(),
    };
    Ok(InferenceRequest {
        model: body.model.unwrap_or_else(|| default_model.to_owned()),
        input,
        sampling: checked(sampling)?,
        priority: body.priority,
        node: body.node.as_deref().map(NodeName::from),
        deadline: body.deadline_ms.map(|deadline_ms| Instant::now() + Duration::from_millis(deadline_ms)),
    })
}

fn known_roles(messages: Vec<Message>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "'messages' is empty; at least one message is needed."));
    }
    let is_known = |role: &str| matches!(role, "system" | "user" | "assistant");
    match messages.iter().position(|message| !is_known(&message.role)) {
        Some(index) => {
            let param = format!("messages[{index}].role");
            let message = format!("'{param}' must be system, user or assistant.");
            Err(ApiError::invalid(param, message))
        }
        None => Ok(messages),
    }
}

fn checked(sampling: Sampling) -> Result<Sampling, ApiError> {
    if let Some(temperature) = sampling.temperature
        && !(0.0..=2.0).contains(&temperature)
    {
        return Err(ApiError::invalid(
            "temperature",
            format!("'temperature' is {temperature}; it must be from 0 to 2."),
        ));
    }
    if let Some(top_p) = sampling.top_p
        && !(0.0..=1.0).contains(&top_p)
    {
        return Err(ApiError::invalid("top_p", format!("'top_p' is {top_p}; it must be from 0 to 1.")));
    }
    if sampling.stop.len() > 16 || sampling.stop.iter().any(|text| text.is_empty() || text.len() > 1024) {
        let message = "'stop' takes at most 16 strings of 1 to 1024 bytes each.";
        return Err(ApiError::invalid("stop", message));
    }
    Ok(sampling)
}

/// Every number that JSON can hold is a seed; the same number is the same seed.
fn seed(number: &serde_json::Number) -> u64 {
    number
        .as_u64()
        .or_else(|| number.as_i64().map(i64::cast_unsigned))
        .or_else(|| number.as_f64().map(f64::to_bits))
        .unwrap_or_default()
}

fn turn(index: usize, message: ChatMessage) -> Result<Message, ApiError> {
    if message.tool_calls.is_some_and(|calls| !calls.is_empty())
        || matches!(message.role, Role::Tool | Role::Function)
    {
        return Err(unsupported(&format!("messages[{index}]"), "tool calls"));
    }
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => join(index, parts)?,
        None if message.role == Role::Assistant => String::new(),
        None => {
            let param = format!("messages[{index}].content");
            let message = format!("'{param}' is required for this role.");
            return Err(ApiError::invalid(param, message));
        }
    };
    // Models know no developer role; OpenAI's newer name for system means the same.
    let role = if message.role == Role::Developer { Role::System } else { message.role };
    Ok(Message { role: role.as_str().to_owned(), content, ..Message::default() })
}

fn join(index: usize, parts: Vec<ContentPart>) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (part_index, part) in parts.into_iter().enumerate() {
        let param = || format!("messages[{index}].content[{part_index}]");
        let text = match part.kind.as_str() {
            "text" => part.text,
            "refusal" => part.refusal,
            "image_url" | "input_audio" | "file" => {
                return Err(unsupported(&param(), "content that is not text"));
            }
            _ => return Err(ApiError::invalid(param(), format!("'{}' has an unknown type.", param()))),
        };
        let missing =
            || ApiError::invalid(param(), format!("'{}' lacks the field that its type names.", param()));
        texts.push(text.ok_or_else(missing)?);
    }
    Ok(texts.concat())
}

fn unsupported(param: &str, what: &str) -> ApiError {
    let message = format!("'{param}': this server does not support {what} yet.");
    ApiError::new(ErrorCode::UnsupportedParameter, message).with_param(param)
}

/// Every known field that would change the answer is honoured or refused by name; none is silently ignored.
fn refuse_what_is_not_there(body: &ChatCompletionRequest) -> Result<(), ApiError> {
    let is_filled = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let is_choice =
        |choice: &Option<Value>| choice.as_ref().is_some_and(|choice| choice != "none" && choice != "auto");
    let is_penalty = |penalty: Option<f32>| penalty.is_some_and(|penalty| penalty != 0.0);
    let names_a_token = |key: &String| key.parse::<u32>().is_ok();
    let refused = [
        ("n", body.n.is_some_and(|n| n != 1), "more or fewer choices than one"),
        ("frequency_penalty", is_penalty(body.frequency_penalty), "penalties"),
        ("presence_penalty", is_penalty(body.presence_penalty), "penalties"),
        (
            "logit_bias",
            body.logit_bias.as_ref().is_some_and(|bias| bias.keys().any(names_a_token)),
            "logit biases",
        ),
        ("logprobs", body.logprobs == Some(true), "log probabilities"),
        ("top_logprobs", body.top_logprobs.is_some_and(|count| count > 0), "log probabilities"),
        (
            "response_format",
            body.response_format.as_ref().is_some_and(|format| format["type"] != "text"),
            "structured output",
        ),
        ("tools", is_filled(&body.tools), "tools"),
        ("tool_choice", is_choice(&body.tool_choice), "tools"),
        ("functions", is_filled(&body.functions), "tools"),
        ("function_call", is_choice(&body.function_call), "tools"),
        (
            "modalities",
            body.modalities.as_ref().is_some_and(|modalities| modalities.iter().any(|name| name != "text")),
            "output that is not text",
        ),
        ("audio", body.audio.is_some(), "output that is not text"),
        ("web_search_options", body.web_search_options.is_some(), "web search"),
        (
            "reasoning_effort",
            body.reasoning_effort.as_ref().is_some_and(|effort| effort != "none"),
            "reasoning in a channel of its own",
        ),
    ];
    refuse_first(&refused)
}

/// Refuses the first of these that is asked for.
fn refuse_first(refused: &[(&str, bool, &str)]) -> Result<(), ApiError> {
    match refused.iter().find(|(_, is_asked_for, _)| *is_asked_for) {
        Some((param, _, what)) => Err(unsupported(param, what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chat(extra: &Value) -> Result<InferenceRequest, ApiError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        chat_request(serde_json::from_value(body).unwrap(), None)
    }

    #[test]
    fn what_changes_the_answer_is_refused_by_name() {
        for (param, value) in [
            ("n", json!(2)),
            ("frequency_penalty", json!(0.5)),
            ("presence_penalty", json!(-0.5)),
            ("logit_bias", json!({"50256": -100})),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(3)),
            ("response_format", json!({"type": "json_object"})),
            ("tools", json!([{"type": "function"}])),
            ("tool_choice", json!("required")),
            ("modalities", json!(["text", "audio"])),
            ("audio", json!({"voice": "alloy"})),
            ("web_search_options", json!({})),
            ("reasoning_effort", json!("high")),
            ("temperature", json!(2.1)),
            ("top_p", json!(-0.1)),
            ("stop", json!(["a", "b", "c", "d", "e"])),
            ("messages", json!([])),
        ] {
            let error = chat(&json!({param: value})).expect_err(param);
            assert_eq!((error.param.as_deref(), error.code.status()), (Some(param), 400));
        }
    }

    #[test]
    fn what_sdks_send_for_nothing_is_accepted() {
        let accepted = json!({
            "n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {"foo": 0}, "logprobs": false,
            "response_format": {"type": "text"}, "tools": [], "tool_choice": "auto", "modalities": ["text"], "user": "u",
            "metadata": {}, "store": true, "service_tier": "auto", "verbosity": "low", "stream_options": {"include_usage": true},
            "unknown_field": 1, "max_tokens": 0
        });
        assert_eq!(chat(&accepted).unwrap().sampling.max_tokens, Some(0));
    }

    #[test]
    fn any_json_number_is_a_seed_and_different_numbers_are_different_seeds() {
        let numbers = ["0", "1", "-1", "18446744073709551615", "1e300", "0.5"];
        let seed = |number: &str| {
            let number: Value = serde_json::from_str(number).unwrap();
            chat(&json!({"seed": number})).unwrap().sampling.seed.unwrap()
        };
        assert_eq!(seed("-1"), seed("-1"));
        let distinct: std::collections::HashSet<u64> = ["0", "1", "-1", "1e300", "0.5"].map(seed).into();
        assert_eq!(distinct.len(), 5, "of {numbers:?}, -1 and 2^64-1 alone share one");
    }

    #[test]
    fn content_parts_are_joined_and_pictures_refused() {
        let parts = json!({"messages": [{"role": "developer", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "assistant", "content": null}]});
        let Input::Messages(messages) = chat(&parts).unwrap().input else { panic!("no messages") };
        assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("system", "ab"));
        let picture = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]});
        assert_eq!(chat(&picture).unwrap_err().param.as_deref(), Some("messages[0].content[0]"));
    }
}
