//! Prompts whose tokens are wanted.

use protocol::ApiError;
use protocol::tokens::{TokenizationRequest, TokenizeRequest};
use protocol::worker::ExecuteRequest;

use super::chat::{NAMES, template_options, turns};
use super::tools::offered_tools;
use super::{in_words_of, refuse_first};

/// Checks a prompt whose tokens are wanted, by the same rules as one that is to be answered.
pub fn tokenize_order(body: TokenizationRequest) -> Result<TokenizeRequest, ApiError> {
    let is_given = |flag: Option<bool>, other_than: bool| flag.is_some_and(|flag| flag != other_than);
    refuse_first(&[
        ("chat_template", body.chat_template.is_some(), "templates other than the model's own"),
        (
            "add_generation_prompt",
            is_given(body.add_generation_prompt, true),
            "conversations without an answer",
        ),
        ("continue_final_message", is_given(body.continue_final_message, false), "messages that go on"),
    ])?;
    let (prompt, messages) = match (body.prompt, body.messages) {
        (Some(prompt), None) if !prompt.is_empty() => (Some(prompt), None),
        (None, Some(messages)) if !messages.is_empty() => (None, Some(turns(messages)?)),
        (Some(_), None) => return Err(ApiError::invalid("prompt", "'prompt' is empty.")),
        (None, Some(_)) => return Err(ApiError::invalid("messages", "'messages' is empty.")),
        (None, None) => {
            return Err(ApiError::invalid("prompt", "One of 'prompt' and 'messages' is required."));
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("prompt", "Only one of 'prompt' and 'messages' can be given."));
        }
    };
    let (tools, tool_choice) = offered_tools(body.tools.unwrap_or_default(), body.tool_choice)?;
    let template_options = template_options(body.reasoning_effort.as_deref(), body.chat_template_kwargs)?;
    let order =
        ExecuteRequest { prompt, messages, tools, tool_choice, template_options, ..Default::default() };
    Ok(TokenizeRequest {
        add_special_tokens: body.add_special_tokens.unwrap_or(true),
        return_token_strs: body.return_token_strs.unwrap_or(false),
        ..TokenizeRequest::from(&order)
    })
}

/// A worker's refusal of such a prompt with the field as the caller knows it.
pub fn tokenize_refusal(error: ApiError) -> ApiError {
    in_words_of(NAMES, error)
}
