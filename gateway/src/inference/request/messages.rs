//! Messages, as Anthropic's interface has them.

mod tools;
mod turns;

use std::time::Duration;

use protocol::ApiError;
use protocol::anthropic::{ContextEdit, MessagesRequest, OutputConfig, OutputFormat, Thinking};
use protocol::worker::{Constraint, ExecuteRequest};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{CallersNames, InferenceRequest, checked, in_words_of, refuse_first, unsupported, within};

/// How a message names what a worker may find fault with.
const NAMES: CallersNames = &[
    ("constraint.schema", "output_config.format.schema"),
    ("constraint", "output_config.format"),
    ("template_options", "thinking"),
    ("stop", "stop_sequences"),
    ("].parameters", "].input_schema"),
];
/// The least that thoughts may be given, as in Anthropic's interface.
const BUDGET_TOKENS_MIN: u32 = 1024;

/// Whether a caller is shown what the model thought, or only that it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoughts {
    /// As they are.
    Shown,
    /// As an empty block.
    Omitted,
}

/// What a message asks for, checked.
#[derive(Debug)]
pub struct MessageOrder {
    /// The request.
    pub request: InferenceRequest,
    /// What the caller sees of thoughts.
    pub thoughts: Thoughts,
    /// Tokens that the caller allows.
    pub max_tokens: u32,
}

/// Checks a message that is to be answered.
pub fn message_order(body: MessagesRequest, timeout: Option<Duration>) -> Result<MessageOrder, ApiError> {
    let required = || ApiError::invalid("max_tokens", "'max_tokens' is required.");
    let max_tokens = body.max_tokens.ok_or_else(required)?;
    let (request, thoughts) = checked_message(body, timeout)?;
    Ok(MessageOrder { request, thoughts, max_tokens })
}

/// Checks a message whose tokens are to be counted: it may lack `max_tokens`.
pub fn message_prompt(
    body: MessagesRequest,
    timeout: Option<Duration>,
) -> Result<InferenceRequest, ApiError> {
    Ok(checked_message(body, timeout)?.0)
}

fn checked_message(
    body: MessagesRequest,
    timeout: Option<Duration>,
) -> Result<(InferenceRequest, Thoughts), ApiError> {
    refuse_what_is_not_there(&body)?;
    within("temperature", body.temperature, 0.0..=1.0)?;
    let config = body.output_config.unwrap_or_default();
    let (thinks, thoughts) = thinking(body.thinking, body.max_tokens)?;
    let template_options = template_options(thinks, config.effort.as_deref())?;
    let mut messages = turns::turns(body.system, body.messages)?;
    for (index, edit) in
        body.context_management.and_then(|all| all.edits).unwrap_or_default().iter().enumerate()
    {
        turns::forget_thoughts(&mut messages, kept_thoughts(index, edit)?);
    }
    let choice = tools::choice(body.tool_choice)?;
    let order = ExecuteRequest {
        messages: Some(messages),
        max_tokens: body.max_tokens,
        cut_to_context: true,
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        stop: body.stop_sequences.unwrap_or_default(),
        constraint: constraint(config, body.output_format)?,
        tools: tools::offered(body.tools.unwrap_or_default(), choice.tool.as_ref())?,
        tool_choice: choice.tool,
        parallel_tool_calls: choice.is_single.then_some(false),
        template_options: Some(template_options),
        stream: true,
        ..ExecuteRequest::default()
    };
    let request = InferenceRequest {
        model: body.model,
        order: checked(order).map_err(|error| in_words_of(NAMES, error))?,
        names: NAMES,
        wants_stream: body.stream.unwrap_or(false),
        deadline: timeout.map(|timeout| Instant::now() + timeout),
        ..InferenceRequest::default()
    };
    Ok((request, thoughts))
}

/// Every known field that would change the answer is honoured or refused by name; none is silently ignored.
fn refuse_what_is_not_there(body: &MessagesRequest) -> Result<(), ApiError> {
    if body.thread.is_some() {
        // By these details the SDK's tool runner knows that it has to send the whole conversation, and goes on.
        let error = unsupported("thread", "keeping conversations")
            .with_detail("error_code", "thread_unsupported_request")
            .with_detail("unsupported", vec!["thread"]);
        return Err(error);
    }
    let budget = body.output_config.as_ref().and_then(|config| config.task_budget.as_ref());
    refuse_first(&[
        ("container", body.container.is_some(), "containers"),
        ("mcp_servers", body.mcp_servers.as_ref().is_some_and(|all| !all.is_empty()), "calling MCP servers"),
        ("compaction", body.compaction.is_some(), "compaction"),
        ("inference_geo", body.inference_geo.as_ref().is_some_and(|geo| geo != "global"), "regions"),
        ("output_config.task_budget", budget.is_some(), "budgets of tasks"),
    ])
}

/// Whether the model is to think, and what the caller sees of it. Who does not ask for thoughts gets none, as far as the
/// template obeys: clients look for text in an answer's first block.
fn thinking(thinking: Option<Thinking>, max_tokens: Option<u32>) -> Result<(bool, Thoughts), ApiError> {
    let Some(thinking) = thinking else { return Ok((false, Thoughts::Shown)) };
    let thinks = match thinking.kind.as_str() {
        "disabled" => false,
        "adaptive" => true,
        "enabled" => {
            let param = "thinking.budget_tokens";
            let required = || ApiError::invalid(param, format!("'{param}' is required for this type."));
            let budget = thinking.budget_tokens.ok_or_else(required)?;
            within(param, Some(budget), BUDGET_TOKENS_MIN..=u32::MAX)?;
            if let Some(max_tokens) = max_tokens.filter(|max_tokens| budget >= *max_tokens) {
                let message = format!(
                    "'{param}' is {budget}; it must be less than 'max_tokens', which is {max_tokens}."
                );
                return Err(ApiError::invalid(param, message));
            }
            true
        }
        "between_tools" => return Err(unsupported("thinking.type", "thinking between calls only")),
        _ => {
            let message = "'thinking.type' must be enabled, adaptive or disabled.";
            return Err(ApiError::invalid("thinking.type", message));
        }
    };
    let thoughts = match thinking.display.as_deref() {
        None | Some("summarized") => Thoughts::Shown,
        Some("omitted") => Thoughts::Omitted,
        Some(_) => {
            let message = "'thinking.display' must be summarized or omitted.";
            return Err(ApiError::invalid("thinking.display", message));
        }
    };
    Ok((thinks, thoughts))
}

/// The same in the names that chat templates use for it.
fn template_options(thinks: bool, effort: Option<&str>) -> Result<Map<String, Value>, ApiError> {
    let mut options = Map::new();
    options.insert("enable_thinking".to_owned(), thinks.into());
    match effort {
        None => {}
        Some(effort @ ("low" | "medium" | "high" | "xhigh" | "max")) => {
            options.insert("reasoning_effort".to_owned(), effort.into());
        }
        Some(_) => {
            let message = "'output_config.effort' must be low, medium, high, xhigh or max.";
            return Err(ApiError::invalid("output_config.effort", message));
        }
    }
    Ok(options)
}

fn constraint(config: OutputConfig, older: Option<OutputFormat>) -> Result<Option<Constraint>, ApiError> {
    let Some(format) = config.format.or(older) else { return Ok(None) };
    if format.kind != "json_schema" {
        let message = "'output_config.format.type' must be json_schema.";
        return Err(ApiError::invalid("output_config.format.type", message));
    }
    let missing =
        || ApiError::invalid("output_config.format.schema", "'output_config.format.schema' is required.");
    Ok(Some(Constraint::JsonSchema { schema: format.schema.ok_or_else(missing)? }))
}

/// How many of the latest turns with thoughts an edit leaves as they are.
fn kept_thoughts(index: usize, edit: &ContextEdit) -> Result<usize, ApiError> {
    if edit.kind != "clear_thinking_20251015" {
        let param = format!("context_management.edits[{index}].type");
        return Err(unsupported(&param, "edits of a conversation other than clear_thinking_20251015"));
    }
    let Some(keep) = &edit.keep else { return Ok(1) };
    match (keep.as_str().or(keep["type"].as_str()), keep["value"].as_u64()) {
        (Some("all"), _) => Ok(usize::MAX),
        (Some("thinking_turns"), Some(turns)) => Ok(turns as usize),
        _ => {
            let param = format!("context_management.edits[{index}].keep");
            let message = format!("'{param}' must be all, or thinking_turns with a 'value'.");
            Err(ApiError::invalid(param, message))
        }
    }
}

#[cfg(test)]
mod tests;
