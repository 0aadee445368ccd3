//! Tools and which of them may be called, from Anthropic's shapes.

use std::collections::HashSet;
use std::fmt::Write;

use protocol::ApiError;
use protocol::anthropic::{MessageTool, MessageToolChoice};
use protocol::worker::{Tool, ToolChoice};

use crate::inference::request::tools::{TOOLS_MAX, is_name_within};
use crate::inference::request::unsupported;

/// Characters of a tool's name at most, as in Anthropic's interface.
const NAME_MAX: usize = 128;

/// What a caller says about calls.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Which tools must or must not be called; the model decides if that is not said.
    pub(super) tool: Option<ToolChoice>,
    /// Whether the answer ends with its first call.
    pub(super) is_single: bool,
}

/// Reads a choice.
pub(super) fn choice(choice: Option<MessageToolChoice>) -> Result<Choice, ApiError> {
    let Some(choice) = choice else { return Ok(Choice::default()) };
    let required = || ApiError::invalid("tool_choice.name", "'tool_choice.name' is required for this type.");
    let tool = match choice.kind.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.name.ok_or_else(required)?),
        _ => {
            let message = "'tool_choice.type' must be auto, any, tool or none.";
            return Err(ApiError::invalid("tool_choice.type", message));
        }
    };
    Ok(Choice { tool: Some(tool), is_single: choice.disable_parallel_tool_use.unwrap_or(false) })
}

/// The tools that the model is offered, among which must be what the choice asks for.
pub(super) fn offered(tools: Vec<MessageTool>, choice: Option<&ToolChoice>) -> Result<Vec<Tool>, ApiError> {
    if tools.len() > TOOLS_MAX {
        let message = format!("'tools' may hold {TOOLS_MAX} tools; it holds {}.", tools.len());
        return Err(ApiError::invalid("tools", message));
    }
    let tools: Vec<Tool> =
        tools.into_iter().enumerate().map(|(index, tool)| tool_of(index, tool)).collect::<Result<_, _>>()?;
    let mut names = HashSet::new();
    if let Some(index) = tools.iter().position(|tool| !names.insert(tool.name.as_str())) {
        let param = format!("tools[{index}].name");
        let message = format!("'{param}': two tools are named '{}'.", tools[index].name);
        return Err(ApiError::invalid(param, message));
    }
    match choice {
        Some(ToolChoice::Required) if tools.is_empty() => {
            Err(ApiError::invalid("tool_choice", "'tool_choice' needs 'tools'."))
        }
        Some(ToolChoice::Named(name)) if !names.contains(name.as_str()) => {
            let message = "'tool_choice.name' is the name of none of the tools.";
            Err(ApiError::invalid("tool_choice.name", message))
        }
        _ => Ok(tools),
    }
}

fn tool_of(index: usize, tool: MessageTool) -> Result<Tool, ApiError> {
    let param = |field: &str| format!("tools[{index}].{field}");
    if let Some(kind) = tool.kind.filter(|kind| kind != "custom") {
        let kind = if is_name_within(NAME_MAX, &kind) { &kind } else { "this type" };
        return Err(unsupported(&param("type"), &format!("tools of Anthropic's own ({kind})")));
    }
    if !is_name_within(NAME_MAX, &tool.name) {
        let param = param("name");
        let message = format!("'{param}' must be 1 to {NAME_MAX} letters, digits, '_' and '-'.");
        return Err(ApiError::invalid(param, message));
    }
    if !tool.input_schema.as_ref().is_some_and(serde_json::Value::is_object) {
        let param = param("input_schema");
        return Err(ApiError::invalid(param.clone(), format!("'{param}' must be a JSON schema, an object.")));
    }
    if tool.allowed_callers.is_some_and(|callers| !callers.iter().any(|caller| caller == "direct")) {
        return Err(unsupported(&param("allowed_callers"), "callers of tools other than the model"));
    }
    if tool.defer_loading == Some(true) {
        return Err(unsupported(&param("defer_loading"), "tools that are found by a search"));
    }
    let mut description = tool.description.unwrap_or_default();
    for example in tool.input_examples.unwrap_or_default() {
        // Writing to a string cannot fail.
        let _ = write!(description, "\nExample of an input: {example}");
    }
    Ok(Tool {
        name: tool.name,
        description: Some(description).filter(|description| !description.is_empty()),
        parameters: tool.input_schema,
        strict: tool.strict.unwrap_or(false),
    })
}
