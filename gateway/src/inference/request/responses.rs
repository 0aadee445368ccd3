//! Responses.

mod items;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use protocol::ApiError;
use protocol::openai::chat;
use protocol::openai::metadata::Metadata;
use protocol::openai::responses::{
    ChosenTool, Input, Item, Reasoning, Response, ResponseRequest, ResponseStatus, TextConfig, TextFormat,
    Tool, ToolChoice,
};
use protocol::task::Priority;
use protocol::worker::{Constraint, ExecuteRequest};
use serde_json::Value;
use tokio::time::Instant;

use super::chat::{constraint, template_options};
use super::tools::offered_tools;
use super::{
    CallersNames, InferenceRequest, TOP_LOGPROBS_MAX, band, checked, metadata, refuse_first, unsupported,
    within,
};
use crate::clock::unix_seconds;

/// How a response names what a worker may find fault with.
const NAMES: CallersNames = &[
    ("constraint.schema", "text.format.schema"),
    ("constraint", "text.format"),
    ("template_options", "reasoning"),
    ("max_tokens", "max_output_tokens"),
    ("messages", "input"),
];

/// What chat completions nest and responses do not: pairs of a field's name there and here.
const FLAT: [(&str, &str); 5] = [
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
    (".allowed_tools", ""),
    (".function", ""),
];

/// Asks for log probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";
/// Further data that may be asked for. All but the first belong to what this server has not, or never hides.
const INCLUDES: [&str; 8] = [
    LOGPROBS,
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
];

/// What a request refers to instead of saying it.
#[derive(Debug, Default)]
pub struct Context {
    /// The conversation that goes on.
    pub past: Vec<Item>,
    /// The items that were asked for by id, as far as there are any.
    pub referenced: HashMap<String, Item>,
}

/// What a response is made from, checked.
#[derive(Debug)]
pub struct ResponseOrder {
    /// The order to a worker.
    pub request: InferenceRequest,
    /// The answer as far as the request tells it; it has no id yet.
    pub draft: Response,
    /// The request's own items.
    pub input: Vec<Item>,
}

impl ResponseOrder {
    /// The same with a name for the answer, which begins now.
    pub fn named(mut self, id: String, model: String) -> Self {
        (self.draft.id, self.draft.created_at, self.draft.model) = (id, unix_seconds(), model);
        self
    }
}

/// The ids of items that an input refers to.
pub fn references(input: Option<&Input>) -> Vec<String> {
    let Some(Input::Parts(items)) = input else { return Vec::new() };
    items.iter().filter(|item| items::is_reference(item)).filter_map(|item| item.id.clone()).collect()
}

/// Checks a response's request.
pub fn response_order(
    mut body: ResponseRequest,
    context: &Context,
    timeout: Option<Duration>,
) -> Result<ResponseOrder, ApiError> {
    refuse_what_is_not_there(&body)?;
    metadata(body.metadata.as_ref())?;
    let tools = with_strictness(body.tools.take().unwrap_or_default())?;
    let (offered, tool_choice) =
        offered_tools(tools.iter().map(nested_tool).collect(), body.tool_choice.as_ref().map(nested_choice))
            .map_err(flat)?;
    let reasoning = reasoning(body.reasoning.take().unwrap_or_default())?;
    let text = text(body.text.take().unwrap_or_default())?;
    let input = match body.input.take() {
        Some(input) => items::checked(input, context)?,
        // What was said before, or is to be kept to, can be answered by itself.
        None if !context.past.is_empty() || body.instructions.is_some() => Vec::new(),
        None => return Err(ApiError::invalid("input", "'input' is required.")),
    };
    let conversation = context.past.iter().chain(&input);
    let messages = items::messages(body.instructions.as_deref(), conversation, reasoning.context.as_deref());
    let order = ExecuteRequest {
        messages: Some(messages),
        max_tokens: body.max_output_tokens,
        temperature: body.temperature,
        top_p: body.top_p,
        logprobs: logprobs(&body)?,
        constraint: text.format.as_ref().map(constraint_of).transpose()?.flatten(),
        tools: offered,
        tool_choice,
        parallel_tool_calls: body.parallel_tool_calls,
        template_options: template_options(reasoning.effort.as_deref(), None).map_err(flat)?,
        stream: true,
        ..ExecuteRequest::default()
    };
    let request = InferenceRequest {
        model: body.model.take().unwrap_or_default(),
        order: checked(order)?,
        names: NAMES,
        priority: band(body.service_tier.as_deref())?,
        session: body.prompt_cache_key.clone(),
        tags: body.metadata.clone().unwrap_or_default(),
        wants_stream: body.stream.unwrap_or(false),
        deadline: timeout.map(|timeout| Instant::now() + timeout),
        ..InferenceRequest::default()
    };
    Ok(ResponseOrder { request, draft: draft(body, tools, reasoning, text), input })
}

/// The request of a response that was checked when it was asked for.
pub fn response_again(
    model: String,
    order: ExecuteRequest,
    priority: Priority,
    session: Option<String>,
    tags: Metadata,
) -> InferenceRequest {
    InferenceRequest { model, order, names: NAMES, priority, session, tags, ..InferenceRequest::default() }
}

/// The answer as far as it repeats what was asked for.
fn draft(body: ResponseRequest, tools: Vec<Tool>, reasoning: Reasoning, text: TextConfig) -> Response {
    Response {
        id: String::new(),
        object: "response".to_owned(),
        created_at: 0,
        status: ResponseStatus::InProgress,
        completed_at: None,
        error: None,
        incomplete_details: None,
        instructions: body.instructions,
        max_output_tokens: body.max_output_tokens,
        max_tool_calls: body.max_tool_calls,
        model: String::new(),
        output: Vec::new(),
        parallel_tool_calls: body.parallel_tool_calls.unwrap_or(true),
        previous_response_id: body.previous_response_id,
        prompt_cache_key: body.prompt_cache_key,
        reasoning,
        safety_identifier: body.safety_identifier,
        service_tier: match body.service_tier {
            Some(tier) if tier != "auto" => tier,
            _ => "default".to_owned(),
        },
        store: body.store.unwrap_or(true),
        background: false,
        temperature: body.temperature.unwrap_or(1.0),
        text,
        tool_choice: body.tool_choice.unwrap_or_else(|| ToolChoice::Mode("auto".to_owned())),
        tools,
        top_logprobs: body.top_logprobs.unwrap_or(0),
        top_p: body.top_p.unwrap_or(1.0),
        truncation: "disabled".to_owned(),
        usage: None,
        user: body.user,
        metadata: body.metadata.unwrap_or_default(),
    }
}

/// Every known field that would change the answer is honoured or refused by name; none is silently ignored.
fn refuse_what_is_not_there(body: &ResponseRequest) -> Result<(), ApiError> {
    if body.background.unwrap_or(false) && !body.store.unwrap_or(true) {
        let message = "'background' needs 'store': what is made in the background is asked for later.";
        return Err(ApiError::invalid("background", message));
    }
    if let Some(truncation) = body.truncation.as_deref().filter(|truncation| *truncation != "disabled") {
        if truncation != "auto" {
            return Err(ApiError::invalid("truncation", "'truncation' must be disabled."));
        }
        return Err(unsupported("truncation", "leaving items out of a conversation; send fewer of them"));
    }
    let is_given = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    refuse_first(&[
        (
            "conversation",
            is_given(&body.conversation),
            "conversations; 'previous_response_id' goes on with one",
        ),
        ("prompt", is_given(&body.prompt), "stored prompts; send 'instructions' and 'input'"),
        ("moderation", is_given(&body.moderation), "moderation"),
        ("context_management", is_given(&body.context_management), "the compaction of conversations"),
        ("personality", body.personality.is_some(), "personalities"),
    ])
}

/// How many of the likeliest tokens are told beside each; none if log probabilities are not asked for.
fn logprobs(body: &ResponseRequest) -> Result<Option<u32>, ApiError> {
    within("top_logprobs", body.top_logprobs, 0..=TOP_LOGPROBS_MAX)?;
    let includes = body.include.as_deref().unwrap_or_default();
    check_includes(includes)?;
    let is_wanted = includes.iter().any(|name| name == LOGPROBS) || body.top_logprobs > Some(0);
    Ok(is_wanted.then(|| body.top_logprobs.unwrap_or(0)))
}

/// Whether all that is to be included can be.
pub fn check_includes(names: &[String]) -> Result<(), ApiError> {
    match names.iter().position(|name| !INCLUDES.contains(&name.as_str())) {
        None => Ok(()),
        Some(index) => {
            let param = format!("include[{index}]");
            let message = format!("'{param}' is none of {}.", INCLUDES.join(", "));
            Err(ApiError::invalid(param, message))
        }
    }
}

/// Tools whose strictness is said: in this interface it is the default.
fn with_strictness(tools: Vec<Tool>) -> Result<Vec<Tool>, ApiError> {
    let with_strictness = |(index, tool): (usize, Tool)| {
        let is_direct = |callers: &Vec<String>| callers.iter().all(|caller| caller == "direct");
        let field = |field: &str| format!("tools[{index}].{field}");
        refuse_first(&[
            (&field("type"), tool.kind != "function", "tools other than functions"),
            (
                &field("defer_loading"),
                tool.defer_loading.unwrap_or(false),
                "tools that are found by a search",
            ),
            (
                &field("allowed_callers"),
                !tool.allowed_callers.as_ref().is_none_or(is_direct),
                "calls by programs",
            ),
            (&field("output_schema"), tool.output_schema.is_some(), "schemas of a tool's output"),
        ])?;
        if tool.name.is_none() {
            return Err(ApiError::invalid(field("name"), format!("'{}' is required.", field("name"))));
        }
        Ok(Tool { strict: Some(tool.strict.unwrap_or(true)), ..tool })
    };
    tools.into_iter().enumerate().map(with_strictness).collect()
}

fn nested_tool(tool: &Tool) -> chat::Tool {
    let function = chat::FunctionTool {
        name: tool.name.clone().unwrap_or_default(),
        description: tool.description.clone(),
        parameters: tool.parameters.clone().filter(|parameters| !parameters.is_null()),
        strict: tool.strict,
    };
    chat::Tool { kind: tool.kind.clone(), function: Some(function) }
}

fn nested_choice(choice: &ToolChoice) -> chat::ToolChoice {
    let ChosenTool { kind, name, mode, tools } = match choice {
        ToolChoice::Mode(mode) => return chat::ToolChoice::Mode(mode.clone()),
        ToolChoice::Chosen(chosen) => chosen.clone(),
    };
    let function = |name: Option<String>| name.map(|name| chat::FunctionName { name });
    let allowed = |tool: ChosenTool| chat::AllowedTool { kind: tool.kind, function: function(tool.name) };
    chat::ToolChoice::Named(chat::NamedTool {
        kind,
        function: function(name),
        allowed_tools: tools.map(|tools| chat::AllowedTools {
            mode: mode.unwrap_or_default(),
            tools: tools.into_iter().map(allowed).collect(),
        }),
    })
}

fn constraint_of(format: &TextFormat) -> Result<Option<Constraint>, ApiError> {
    if format.kind == "json_schema" && format.name.is_none() {
        return Err(ApiError::invalid("text.format.name", "'text.format.name' is required for this type."));
    }
    let json_schema = format.name.clone().map(|name| chat::JsonSchemaFormat {
        name,
        description: None,
        schema: format.schema.clone(),
        strict: format.strict,
    });
    let format = chat::ResponseFormat {
        kind: format.kind.clone(),
        json_schema,
        pattern: format.pattern.clone(),
        grammar: format.grammar.clone(),
    };
    constraint(format).map_err(flat)
}

/// What the text must be; its format is said.
fn text(text: TextConfig) -> Result<TextConfig, ApiError> {
    if !matches!(text.verbosity.as_deref(), None | Some("low" | "medium" | "high")) {
        return Err(ApiError::invalid("text.verbosity", "'text.verbosity' must be low, medium or high."));
    }
    Ok(TextConfig { format: Some(text.format.unwrap_or_else(TextFormat::plain)), ..text })
}

fn reasoning(reasoning: Reasoning) -> Result<Reasoning, ApiError> {
    let one_of = |param: &str, value: Option<&str>, known: &[&str]| match value {
        Some(value) if !known.contains(&value) => {
            let message = format!("'{param}' must be one of {}.", known.join(", "));
            Err(ApiError::invalid(param, message))
        }
        _ => Ok(()),
    };
    let summary = reasoning.summary.or(reasoning.generate_summary);
    one_of("reasoning.summary", summary.as_deref(), &["auto", "concise", "detailed"])?;
    one_of("reasoning.context", reasoning.context.as_deref(), &["auto", "current_turn", "all_turns"])?;
    if reasoning.mode.as_ref().is_some_and(|mode| mode != "standard") {
        return Err(unsupported("reasoning.mode", "modes of thinking"));
    }
    Ok(Reasoning { summary, generate_summary: None, ..reasoning })
}

/// An error of a check that chat completions share, in this interface's words.
fn flat(error: ApiError) -> ApiError {
    let flat =
        |text: &str| FLAT.iter().fold(text.to_owned(), |text, (nested, flat)| text.replace(nested, flat));
    let message = flat(&error.message);
    match error.param.as_deref().map(flat) {
        Some(param) => ApiError { message, ..error }.with_param(param),
        None => error,
    }
}
