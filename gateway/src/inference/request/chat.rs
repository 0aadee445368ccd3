//! Chat completions.

use std::time::Duration;

use protocol::openai::chat::{
    ChatCompletionRequest, ChatMessage, Content, ContentPart, MessageToolCall, ResponseFormat, Role,
};
use protocol::worker::{Constraint, ExecuteRequest, Message, ToolCall};
use protocol::{ApiError, ErrorCode};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::tools::{is_name, offered_tools};
use super::{
    CallersNames, InferenceRequest, TOP_LOGPROBS_MAX, band, checked, logit_bias, metadata, refuse_first,
    seed, stop_strings, unsupported, within,
};

/// How a chat completion names what a worker may find fault with.
pub(super) const NAMES: CallersNames = &[
    ("constraint.schema", "response_format.json_schema.schema"),
    ("constraint", "response_format"),
    ("template_options", "chat_template_kwargs"),
    ("].parameters", "].function.parameters"),
];

/// Checks a chat completion.
pub fn chat_request(
    body: ChatCompletionRequest,
    timeout: Option<Duration>,
) -> Result<InferenceRequest, ApiError> {
    refuse_what_is_not_there(&body)?;
    metadata(body.metadata.as_ref())?;
    if body.messages.is_empty() {
        return Err(ApiError::invalid("messages", "'messages' is empty; at least one message is needed."));
    }
    let (tools, tool_choice) = offered_tools(body.tools.unwrap_or_default(), body.tool_choice)?;
    let template_options = template_options(body.reasoning_effort.as_deref(), body.chat_template_kwargs)?;
    let order = ExecuteRequest {
        messages: Some(turns(body.messages)?),
        max_tokens: body.max_completion_tokens.or(body.max_tokens),
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        min_p: body.min_p,
        typical_p: body.typical_p,
        presence_penalty: body.presence_penalty,
        frequency_penalty: body.frequency_penalty,
        repetition_penalty: body.repetition_penalty,
        logit_bias: logit_bias(body.logit_bias)?,
        seed: body.seed.as_ref().map(seed),
        stop: stop_strings(body.stop)?,
        n: body.n,
        min_tokens: body.min_tokens,
        ignore_eos: body.ignore_eos.unwrap_or(false),
        logprobs: logprobs(body.logprobs, body.top_logprobs)?,
        constraint: body.response_format.map(constraint).transpose()?.flatten(),
        tools,
        tool_choice,
        parallel_tool_calls: body.parallel_tool_calls,
        template_options,
        stream: true,
        ..ExecuteRequest::default()
    };
    Ok(InferenceRequest {
        model: body.model,
        order: checked(order)?,
        names: NAMES,
        priority: band(body.service_tier.as_deref())?,
        session: body.prompt_cache_key,
        tags: body.metadata.unwrap_or_default(),
        wants_stream: body.stream.unwrap_or(false),
        deadline: timeout.map(|timeout| Instant::now() + timeout),
        ..InferenceRequest::default()
    })
}

/// Every known field that would change the answer is honoured or refused by name; none is silently ignored.
fn refuse_what_is_not_there(body: &ChatCompletionRequest) -> Result<(), ApiError> {
    let is_filled = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let is_choice =
        |choice: &Option<Value>| choice.as_ref().is_some_and(|choice| choice != "none" && choice != "auto");
    let calls_none = body.function_call.as_ref().is_some_and(|choice| choice == "none");
    let speaks = |modalities: &Vec<String>| modalities.iter().any(|name| name != "text");
    refuse_first(&[
        ("functions", is_filled(&body.functions) && !calls_none, "the older name of 'tools'"),
        ("function_call", is_choice(&body.function_call), "the older name of 'tool_choice'"),
        ("modalities", body.modalities.as_ref().is_some_and(speaks), "output that is not text"),
        ("web_search_options", body.web_search_options.is_some(), "web search"),
        ("moderation", body.moderation.is_some(), "moderation"),
    ])
}

/// How many of the likeliest tokens are told beside each; none if log probabilities are not asked for.
fn logprobs(wanted: Option<bool>, top: Option<u32>) -> Result<Option<u32>, ApiError> {
    within("top_logprobs", top, 0..=TOP_LOGPROBS_MAX)?;
    match (wanted.unwrap_or(false), top.unwrap_or(0)) {
        (true, top) => Ok(Some(top)),
        (false, 0) => Ok(None),
        (false, _) => {
            let message = "'top_logprobs' needs 'logprobs' to be true.";
            Err(ApiError::invalid("top_logprobs", message))
        }
    }
}

/// What a caller says of thinking, in the names that chat templates use for it. Names given outright win.
pub(super) fn template_options(
    effort: Option<&str>,
    given: Option<Map<String, Value>>,
) -> Result<Option<Map<String, Value>>, ApiError> {
    let mut options = Map::new();
    match effort {
        None => {}
        Some("none") => {
            options.insert("enable_thinking".to_owned(), false.into());
        }
        Some(effort @ ("minimal" | "low" | "medium" | "high" | "xhigh" | "max")) => {
            options.insert("enable_thinking".to_owned(), true.into());
            options.insert("reasoning_effort".to_owned(), effort.into());
        }
        Some(_) => {
            let message = "'reasoning_effort' must be none, minimal, low, medium, high, xhigh or max.";
            return Err(ApiError::invalid("reasoning_effort", message));
        }
    }
    options.extend(given.unwrap_or_default());
    Ok((!options.is_empty()).then_some(options))
}

pub(super) fn constraint(format: ResponseFormat) -> Result<Option<Constraint>, ApiError> {
    let missing = |field: &str| {
        let param = format!("response_format.{field}");
        ApiError::invalid(param.clone(), format!("'{param}' is required for this type."))
    };
    Ok(match format.kind.as_str() {
        "text" => None,
        "json_object" => Some(Constraint::JsonObject),
        "json_schema" => {
            let schema = format.json_schema.ok_or_else(|| missing("json_schema"))?;
            if !is_name(&schema.name) {
                let message =
                    "'response_format.json_schema.name' must be 1 to 64 letters, digits, '_' and '-'.";
                return Err(ApiError::invalid("response_format.json_schema.name", message));
            }
            let schema = schema.schema.ok_or_else(|| missing("json_schema.schema"))?;
            Some(Constraint::JsonSchema { schema })
        }
        "regex" => Some(Constraint::Regex { pattern: format.pattern.ok_or_else(|| missing("pattern"))? }),
        "lark" => Some(Constraint::Lark { grammar: format.grammar.ok_or_else(|| missing("grammar"))? }),
        _ => {
            let message = "'response_format.type' must be text, json_object, json_schema, regex or lark.";
            return Err(ApiError::invalid("response_format.type", message));
        }
    })
}

pub(super) fn turns(messages: Vec<ChatMessage>) -> Result<Vec<Message>, ApiError> {
    let mut turns: Vec<Message> = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let mut turn = turn(index, message)?;
        if turn.role == "tool" && turn.name.is_none() {
            // Some templates want a tool's name where OpenAI's interface has only the call's id.
            let calls = turns.iter().rev().flat_map(|turn| &turn.tool_calls);
            let call = calls.into_iter().find(|call| Some(&call.id) == turn.tool_call_id.as_ref());
            turn.name = call.map(|call| call.name.clone());
        }
        turns.push(turn);
    }
    Ok(turns)
}

fn turn(index: usize, message: ChatMessage) -> Result<Message, ApiError> {
    let required = |field: &str| {
        let param = format!("messages[{index}].{field}");
        ApiError::invalid(param.clone(), format!("'{param}' is required for this role."))
    };
    if message.function_call.is_some() {
        return Err(unsupported(
            &format!("messages[{index}].function_call"),
            "the older name of 'tool_calls'",
        ));
    }
    if message.audio.is_some() {
        return Err(unsupported(&format!("messages[{index}].audio"), "content that is not text"));
    }
    let calls = message.tool_calls.unwrap_or_default();
    if !calls.is_empty() && message.role != Role::Assistant {
        let param = format!("messages[{index}].tool_calls");
        return Err(ApiError::invalid(param.clone(), format!("'{param}': only an assistant calls tools.")));
    }
    if message.role == Role::Tool && message.tool_call_id.is_none() {
        return Err(required("tool_call_id"));
    }
    if message.role == Role::Function && message.name.is_none() {
        return Err(required("name"));
    }
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => join(index, parts)?,
        None if message.role == Role::Assistant => message.refusal.unwrap_or_default(),
        None => return Err(required("content")),
    };
    // Models know no developer role; OpenAI's newer name for system means the same. Nor do they know its older name for
    // a tool.
    let role = match message.role {
        Role::Developer => Role::System,
        Role::Function => Role::Tool,
        role => role,
    };
    Ok(Message {
        role: role.as_str().to_owned(),
        content,
        tool_calls: calls
            .into_iter()
            .enumerate()
            .map(|(call, tool_call)| tool_call_of(index, call, tool_call))
            .collect::<Result<_, _>>()?,
        tool_call_id: message.tool_call_id,
        name: message.name,
        reasoning: message.reasoning_content,
    })
}

fn tool_call_of(message: usize, index: usize, call: MessageToolCall) -> Result<ToolCall, ApiError> {
    if call.kind != "function" {
        let param = format!("messages[{message}].tool_calls[{index}].type");
        return Err(unsupported(&param, "tools other than functions"));
    }
    Ok(ToolCall { id: call.id, name: call.function.name, arguments: call.function.arguments })
}

fn join(index: usize, parts: Vec<ContentPart>) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (part_index, part) in parts.into_iter().enumerate() {
        let param = || format!("messages[{index}].content[{part_index}]");
        let text = match part.kind.as_str() {
            "text" => part.text,
            "refusal" => part.refusal,
            "image_url" | "input_audio" | "file" => {
                let message =
                    format!("'{}': this server does not support content that is not text.", param());
                return Err(ApiError::new(ErrorCode::UnsupportedParameter, message).with_param(param()));
            }
            _ => return Err(ApiError::invalid(param(), format!("'{}' has an unknown type.", param()))),
        };
        let missing =
            || ApiError::invalid(param(), format!("'{}' lacks the field that its type names.", param()));
        texts.push(text.ok_or_else(missing)?);
    }
    Ok(texts.concat())
}

#[cfg(test)]
mod tests;
