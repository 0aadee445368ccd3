//! From a request to the prompt that a model reads.

use std::sync::Arc;

use protocol::worker::Message;
use protocol::{ApiError, ErrorCode};

use crate::engine::{GenerationRequest, Input};
use crate::text::language::{Language, Prepared, Terms};
use crate::text::tokenizer::{ControlTokens, Ends};

/// A prompt as the model reads it.
pub(super) struct Prompt {
    pub(super) tokens: Vec<u32>,
    pub(super) prepared: Prepared,
}

/// Refuses a text for its bytes, before the work of finding its tokens; the last argument is the field that it came in.
pub(super) type Measure = fn(&Language, usize, &str) -> Result<(), ApiError>;

/// Formats and encodes an execution's input; on a thread of its own, since a long one takes longer than a reactor should
/// wait.
pub(super) async fn of_execution(
    language: Arc<Language>,
    request: GenerationRequest,
) -> Result<Prompt, ApiError> {
    let reading = move || read(&language, request, Ends::Added, refuse_endless);
    let prompt = tokio::task::spawn_blocking(reading)
        .await
        .map_err(|_| ApiError::new(ErrorCode::Internal, "The tokenizer failed."))??;
    if prompt.tokens.is_empty() {
        return Err(ApiError::invalid("prompt", "The prompt makes no tokens."));
    }
    Ok(prompt)
}

/// Formats and encodes a request's input.
pub(super) fn read(
    language: &Language,
    request: GenerationRequest,
    ends: Ends,
    measure: Measure,
) -> Result<Prompt, ApiError> {
    let (input, suffix, terms) = parts_of(request);
    let field = input.field();
    if let Some(suffix) = suffix {
        return read_gap(language, input, &suffix, terms, ends, measure);
    }
    let prepared = match input {
        Input::Tokens(tokens) => {
            let text = language.vocabulary.spell(&tokens);
            return Ok(Prompt { tokens, prepared: Prepared::plain(text, terms) });
        }
        Input::Prompt(prompt) => Prepared::plain(prompt, terms),
        Input::Instruction(text) if language.template.is_none() => Prepared::plain(text, terms),
        Input::Instruction(content) => {
            let message = Message { role: "user".to_owned(), content, ..Message::default() };
            language.prepare(&[message], terms)?
        }
        Input::Messages(messages) => {
            // A template takes its time over texts too.
            let bytes = messages.iter().map(|message| message.content.len()).sum();
            measure(language, bytes, field)?;
            language.prepare(&messages, terms)?
        }
    };
    measure(language, prepared.prompt.len(), field)?;
    let tokens = language.tokenizer.encode_prompt(&prepared.prompt, ends).map_err(|error| failed(&error))?;
    Ok(Prompt { tokens, prepared })
}

/// Encodes a text with a gap, if the model knows how to fill one. Special tokens are not understood in it: it is the text
/// of a file.
fn read_gap(
    language: &Language,
    before: Input,
    after: &str,
    terms: Terms,
    ends: Ends,
    measure: Measure,
) -> Result<Prompt, ApiError> {
    let marks = language.vocabulary.infill().ok_or_else(no_infill)?;
    let before = match before {
        Input::Tokens(tokens) => tokens,
        Input::Prompt(text) => {
            measure(language, text.len(), "prompt")?;
            language.tokenizer.encode(&text, ControlTokens::Plain).map_err(|error| failed(&error))?
        }
        Input::Instruction(_) | Input::Messages(_) => return Err(no_infill()),
    };
    measure(language, after.len(), "suffix")?;
    let tokens =
        language.tokenizer.encode_gap(marks, &before, after, ends).map_err(|error| failed(&error))?;
    // The text is for an echo, which a gap has none of.
    Ok(Prompt { tokens, prepared: Prepared::plain(String::new(), terms) })
}

pub(super) fn no_infill() -> ApiError {
    let message = "'suffix': this model has no infill tokens, by which gaps are filled.";
    ApiError::new(ErrorCode::UnsupportedParameter, message)
        .with_param("suffix")
        .with_action("Leave 'suffix' out, or use a model that was trained to fill gaps in code.")
}

fn failed(error: &str) -> ApiError {
    tracing::error!(error, "the tokenizer failed");
    ApiError::new(ErrorCode::Internal, "The tokenizer could not encode this text.")
}

/// Refuses a text that cannot fit the context whatever its tokens are.
fn refuse_endless(language: &Language, bytes: usize, field: &str) -> Result<(), ApiError> {
    let (least, limit) = (language.tokenizer.least_tokens(bytes), language.context_limit);
    if least < limit {
        return Ok(());
    }
    let message = format!(
        "This model's context holds {limit} tokens; the prompt's {bytes} bytes make {least} at least."
    );
    Err(ApiError::new(ErrorCode::ContextLengthExceeded, message)
        .with_param(field)
        .with_detail("context_length", limit)
        .with_detail("requested_tokens", least + 1))
}

/// What a request says to, what follows on the gap that is to be filled, and what it says about the answer.
fn parts_of(request: GenerationRequest) -> (Input, Option<String>, Terms) {
    let tools = request.tools.unwrap_or_default();
    let terms = Terms {
        tools: tools.tools,
        tool_choice: tools.choice,
        is_single_call: !tools.parallel,
        template_options: request.template_options,
        constraint: request.constraint,
        min_tokens: request.sampling.min_tokens,
        stop: request.stop,
    };
    (request.input, request.suffix, terms)
}
