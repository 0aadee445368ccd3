//! Tools and which of them may be called, from OpenAI's shapes.

use std::collections::HashSet;

use protocol::ApiError;
use protocol::openai::chat::{self, AllowedTools, NamedTool};
use protocol::worker::{Tool, ToolChoice};

use super::unsupported;

/// Tools of a request at most, as in OpenAI's interface.
pub(super) const TOOLS_MAX: usize = 128;

/// Whether tools and schemas may have this name.
pub(super) fn is_name(name: &str) -> bool {
    is_name_within(64, name)
}

/// The same where names may be as long as this.
pub(super) fn is_name_within(longest: usize, name: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=longest).contains(&name.len()) && name.bytes().all(is_sign)
}

/// The tools that the model is offered, and whether it must call one.
pub(super) fn offered_tools(
    tools: Vec<chat::Tool>,
    choice: Option<chat::ToolChoice>,
) -> Result<(Vec<Tool>, Option<ToolChoice>), ApiError> {
    if tools.len() > TOOLS_MAX {
        let message = format!("'tools' may hold {TOOLS_MAX} tools; it holds {}.", tools.len());
        return Err(ApiError::invalid("tools", message));
    }
    let tools: Vec<Tool> =
        tools.into_iter().enumerate().map(|(index, tool)| tool_of(index, tool)).collect::<Result<_, _>>()?;
    let mut names = HashSet::new();
    if let Some(index) = tools.iter().position(|tool| !names.insert(tool.name.as_str())) {
        let param = format!("tools[{index}].function.name");
        let message = format!("'{param}': two tools are named '{}'.", tools[index].name);
        return Err(ApiError::invalid(param, message));
    }
    match choice {
        None => Ok((tools, None)),
        Some(choice) => chosen(tools, choice),
    }
}

fn tool_of(index: usize, tool: chat::Tool) -> Result<Tool, ApiError> {
    if tool.kind != "function" {
        return Err(unsupported(&format!("tools[{index}].type"), "tools other than functions"));
    }
    let Some(function) = tool.function else {
        let param = format!("tools[{index}].function");
        return Err(ApiError::invalid(param.clone(), format!("'{param}' is required.")));
    };
    if !is_name(&function.name) {
        let param = format!("tools[{index}].function.name");
        let message = format!("'{param}' must be 1 to 64 letters, digits, '_' and '-'.");
        return Err(ApiError::invalid(param, message));
    }
    if function.parameters.as_ref().is_some_and(|schema| !schema.is_object()) {
        let param = format!("tools[{index}].function.parameters");
        return Err(ApiError::invalid(param.clone(), format!("'{param}' must be a JSON schema, an object.")));
    }
    Ok(Tool {
        name: function.name,
        description: function.description,
        parameters: function.parameters,
        strict: function.strict.unwrap_or(false),
    })
}

fn chosen(tools: Vec<Tool>, choice: chat::ToolChoice) -> Result<(Vec<Tool>, Option<ToolChoice>), ApiError> {
    let invalid = |message: String| ApiError::invalid("tool_choice", message);
    let known = |name: &str| {
        if tools.iter().any(|tool| tool.name == name) {
            return Ok(());
        }
        Err(invalid(format!("'tool_choice' names '{name}', and none of the tools has that name.")))
    };
    let choice = match choice {
        // Without tools, these two ask for nothing; clients send them all the same.
        chat::ToolChoice::Mode(mode) if tools.is_empty() && matches!(mode.as_str(), "none" | "auto") => {
            return Ok((tools, None));
        }
        _ if tools.is_empty() => return Err(invalid("'tool_choice' needs 'tools'.".to_owned())),
        chat::ToolChoice::Mode(mode) => mode_of(&mode).ok_or_else(|| {
            invalid("'tool_choice' must be none, auto, required, or an object that names tools.".to_owned())
        })?,
        chat::ToolChoice::Named(NamedTool { kind, function: Some(function), .. }) if kind == "function" => {
            known(&function.name)?;
            ToolChoice::Named(function.name)
        }
        chat::ToolChoice::Named(NamedTool { kind, allowed_tools: Some(allowed), .. })
            if kind == "allowed_tools" =>
        {
            let AllowedTools { mode, tools: names } = allowed;
            if let Some(other) = names.iter().position(|tool| tool.kind != "function") {
                let param = format!("tool_choice.allowed_tools.tools[{other}].type");
                return Err(unsupported(&param, "tools other than functions"));
            }
            let names: HashSet<String> =
                names.into_iter().filter_map(|tool| Some(tool.function?.name)).collect();
            names.iter().try_for_each(|name| known(name))?;
            let choice = mode_of(&mode).filter(|choice| *choice != ToolChoice::None);
            let choice = choice.ok_or_else(|| {
                invalid("'tool_choice.allowed_tools.mode' must be auto or required.".to_owned())
            })?;
            if names.is_empty() {
                return Err(invalid("'tool_choice.allowed_tools.tools' names no function.".to_owned()));
            }
            let allowed = tools.into_iter().filter(|tool| names.contains(&tool.name));
            return Ok((allowed.collect(), Some(choice)));
        }
        chat::ToolChoice::Named(_) => {
            return Err(invalid("'tool_choice.type' must be function or allowed_tools.".to_owned()));
        }
    };
    Ok((tools, Some(choice)))
}

fn mode_of(mode: &str) -> Option<ToolChoice> {
    match mode {
        "none" => Some(ToolChoice::None),
        "auto" => Some(ToolChoice::Auto),
        "required" => Some(ToolChoice::Required),
        _ => None,
    }
}
