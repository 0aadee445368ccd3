//! A request as the wire gave it, checked once; what comes out of here is not checked again, but for what only a loaded
//! model can tell: its vocabulary, its context and its template.

use std::collections::HashSet;

use protocol::worker::{Constraint, ExecuteRequest, Message, Tool, ToolChoice};
use protocol::{ApiError, ErrorCode};
use serde_json::{Map, Value};

use crate::text::sampler::Sampling;

/// Stop strings that a request may have.
const STOP_COUNT_MAX: usize = 16;
/// Bytes of one stop string at most.
const STOP_BYTES_MAX: usize = 1024;
/// Characters of a caller's request id at most.
const REQUEST_ID_MAX: usize = 128;
/// The highest temperature, as in OpenAI's interface.
const TEMPERATURE_MAX: f32 = 2.0;
/// Presence and frequency penalties reach this far to both sides, as in OpenAI's interface.
const PENALTY_MAX: f32 = 2.0;
/// The highest repetition penalty.
const REPETITION_MAX: f32 = 10.0;
/// A bias reaches this far to both sides, as in OpenAI's interface.
const BIAS_MAX: f32 = 100.0;
/// Tokens that may have a bias.
const BIAS_COUNT_MAX: usize = 4096;
/// Answers to one prompt at most, as in OpenAI's interface.
const CHOICES_MAX: u32 = 128;
/// Likeliest tokens that can be told of, as in OpenAI's interface.
const LOGPROBS_MAX: u32 = 20;
/// Tools of a request at most, as in OpenAI's interface.
const TOOLS_MAX: usize = 128;
/// Characters of a tool's name at most, as in Anthropic's interface; OpenAI's has fewer.
const TOOL_NAME_MAX: usize = 128;

/// What to answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A text to continue.
    Prompt(String),
    /// The same as tokens, at least one.
    Tokens(Vec<u32>),
    /// What a user says, to a model that may or may not have learnt to chat.
    Instruction(String),
    /// A conversation, at least one message long.
    Messages(Vec<Message>),
}

impl Input {
    /// The field that it came in.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Prompt(_) => "prompt",
            Self::Tokens(_) => "prompt_tokens",
            Self::Instruction(_) => "instruction",
            Self::Messages(_) => "messages",
        }
    }
}

/// Tools that a model may call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ToolUse {
    /// The tools; no two of one name.
    pub tools: Vec<Tool>,
    /// Which of them it must call: never [`ToolChoice::None`], and a named one is among them.
    pub choice: ToolChoice,
    /// Whether one answer may call several.
    pub parallel: bool,
}

/// A valid request for text.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationRequest {
    /// The name by which it can be cancelled.
    pub request_id: Option<String>,
    /// What to answer.
    pub input: Input,
    /// What stands after the gap that the answer fills; never empty, and with a prompt only, which may then be empty.
    pub suffix: Option<String>,
    /// Tokens to generate at most; without it, as many as the context holds.
    pub max_tokens: Option<u32>,
    /// Whether they may be fewer where the context holds no more.
    pub cut_to_context: bool,
    /// Whether nobody waits for it in person.
    pub is_patient: bool,
    /// How tokens are chosen, with the seed in force.
    pub sampling: Sampling,
    /// Generation ends before any of these; none is empty.
    pub stop: Vec<String>,
    /// Answers to generate, at least one.
    pub choices: u32,
    /// Whether the prompt is told first.
    pub echo: bool,
    /// What the answer must be, if it is not calls.
    pub constraint: Option<Constraint>,
    /// Tools that are shown to the model; none where none may be called.
    pub tools: Option<ToolUse>,
    /// Further names that the chat template sees.
    pub template_options: Map<String, Value>,
}

impl TryFrom<ExecuteRequest> for GenerationRequest {
    type Error = ApiError;

    fn try_from(mut wire: ExecuteRequest) -> Result<Self, ApiError> {
        let sampling = sampling(&mut wire)?;
        let tools = tools(&mut wire)?;
        let template_options = wire.template_options.take().unwrap_or_default();
        let conversation = wire.messages.is_some() || wire.instruction.is_some();
        let has_prompt = wire.prompt.is_some() || wire.prompt_tokens.is_some();
        let suffix = wire.suffix.take().filter(|suffix| !suffix.is_empty());
        let input = input(&mut wire, suffix.is_some())?;
        check_stop(&wire.stop)?;
        check_request_id(wire.request_id.as_deref())?;
        if !template_options.is_empty() && !conversation {
            return Err(ApiError::invalid(
                "template_options",
                "'template_options' go to a chat template, which a prompt does not pass through.",
            ));
        }
        if suffix.is_some() && !has_prompt {
            let message = "'suffix' may be given with 'prompt' or 'prompt_tokens' only.";
            return Err(ApiError::invalid("suffix", message));
        }
        if wire.echo && suffix.is_some() {
            let message = "'echo' tells a prompt that the answer goes on from; with 'suffix' it fills a gap.";
            return Err(ApiError::new(ErrorCode::UnsupportedParameter, message).with_param("echo"));
        }
        if wire.echo && !has_prompt {
            let message = "'echo' tells a 'prompt' or 'prompt_tokens'; a conversation has neither.";
            return Err(ApiError::invalid("echo", message));
        }
        if let Some(max_tokens) = wire.max_tokens
            && sampling.min_tokens > max_tokens as usize
        {
            let message = format!(
                "'min_tokens' must be at most 'max_tokens', which is {max_tokens}; it is {}.",
                sampling.min_tokens
            );
            return Err(ApiError::invalid("min_tokens", message));
        }
        Ok(Self {
            request_id: wire.request_id,
            input,
            suffix,
            max_tokens: wire.max_tokens,
            cut_to_context: wire.cut_to_context,
            is_patient: wire.patient,
            sampling,
            stop: wire.stop,
            choices: within("n", wire.n.unwrap_or(1), 1..=CHOICES_MAX)?,
            echo: wire.echo,
            constraint: wire.constraint,
            tools,
            template_options,
        })
    }
}

impl GenerationRequest {
    /// Checks what needs a vocabulary: that each token named is one of its `size`.
    pub fn check_vocabulary(&self, size: usize) -> Result<(), ApiError> {
        if let Input::Tokens(tokens) = &self.input {
            check_tokens("prompt_tokens", tokens, size)?;
        }
        match self.sampling.logit_bias.iter().find(|(token, _)| *token as usize >= size) {
            Some((token, _)) => Err(no_token("logit_bias".to_owned(), *token, size)),
            None => Ok(()),
        }
    }
}

/// Checks that each of these tokens is one of a vocabulary's `size`; `field` is where they came in.
pub fn check_tokens(field: &str, tokens: &[u32], size: usize) -> Result<(), ApiError> {
    match tokens.iter().position(|token| *token as usize >= size) {
        Some(index) => Err(no_token(format!("{field}[{index}]"), tokens[index], size)),
        None => Ok(()),
    }
}

fn no_token(param: String, token: u32, size: usize) -> ApiError {
    let last = size.saturating_sub(1);
    let message = format!("'{param}' must be tokens of this model, 0 to {last}; {token} is none.");
    ApiError::invalid(param, message)
}

fn input(wire: &mut ExecuteRequest, has_suffix: bool) -> Result<Input, ApiError> {
    let prompt = wire.prompt.take().map(Input::Prompt);
    let tokens = wire.prompt_tokens.take().map(Input::Tokens);
    let instruction = wire.instruction.take().map(Input::Instruction);
    let messages = wire.messages.take().map(Input::Messages);
    let mut given = [prompt, tokens, instruction, messages].into_iter().flatten();
    let (Some(input), None) = (given.next(), given.next()) else {
        return Err(ApiError::invalid(
            "prompt",
            "Exactly one of 'prompt', 'prompt_tokens', 'instruction' and 'messages' must be given.",
        ));
    };
    let (is_empty, param) = match &input {
        Input::Prompt(text) | Input::Instruction(text) => (text.is_empty(), "prompt"),
        Input::Tokens(tokens) => (tokens.is_empty(), "prompt_tokens"),
        Input::Messages(messages) => (messages.is_empty(), "messages"),
    };
    // A gap may be where a text begins.
    if is_empty && !has_suffix {
        return Err(ApiError::invalid(param, format!("'{param}' must not be empty.")));
    }
    Ok(input)
}

fn sampling(wire: &mut ExecuteRequest) -> Result<Sampling, ApiError> {
    let penalty =
        |name: &str, value: Option<f32>| within(name, value.unwrap_or(0.0), -PENALTY_MAX..=PENALTY_MAX);
    let share =
        |name: &str, value: Option<f32>, default: f32| within(name, value.unwrap_or(default), 0.0..=1.0);
    let repetition_penalty = wire.repetition_penalty.unwrap_or(1.0);
    if repetition_penalty <= 0.0 || repetition_penalty > REPETITION_MAX {
        let message = format!(
            "'repetition_penalty' must be above 0 and at most {REPETITION_MAX}; it is {repetition_penalty}."
        );
        return Err(ApiError::invalid("repetition_penalty", message));
    }
    let logit_bias = std::mem::take(&mut wire.logit_bias);
    within("logit_bias", logit_bias.len(), 0..=BIAS_COUNT_MAX)?;
    for (token, bias) in &logit_bias {
        within(&format!("logit_bias.{token}"), *bias, -BIAS_MAX..=BIAS_MAX)?;
    }
    let logprobs = wire.logprobs.map(|count| within("logprobs", count, 0..=LOGPROBS_MAX)).transpose()?;
    Ok(Sampling {
        temperature: within("temperature", wire.temperature.unwrap_or(1.0), 0.0..=TEMPERATURE_MAX)?,
        top_k: wire.top_k.unwrap_or(0) as usize,
        top_p: share("top_p", wire.top_p, 1.0)?,
        min_p: share("min_p", wire.min_p, 0.0)?,
        typical_p: share("typical_p", wire.typical_p, 1.0)?,
        presence_penalty: penalty("presence_penalty", wire.presence_penalty)?,
        frequency_penalty: penalty("frequency_penalty", wire.frequency_penalty)?,
        repetition_penalty,
        logit_bias: logit_bias.into_iter().collect(),
        // A chosen seed has 32 bits, so that it comes through readers that keep numbers as doubles.
        seed: wire.seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
        min_tokens: wire.min_tokens.unwrap_or(0) as usize,
        ignore_eos: wire.ignore_eos,
        logprobs: logprobs.map(|count| count as usize),
    })
}

fn tools(wire: &mut ExecuteRequest) -> Result<Option<ToolUse>, ApiError> {
    let tools = std::mem::take(&mut wire.tools);
    let choice = wire.tool_choice.take().unwrap_or_default();
    if tools.is_empty() {
        if let ToolChoice::Required | ToolChoice::Named(_) = choice {
            return Err(ApiError::invalid(
                "tool_choice",
                "'tool_choice' asks for a call; there are no 'tools'.",
            ));
        }
        return Ok(None);
    }
    if wire.messages.is_none() {
        return Err(ApiError::invalid("tools", "'tools' may be given with 'messages' only."));
    }
    within("tools", tools.len(), 0..=TOOLS_MAX)?;
    let mut names = HashSet::new();
    for (index, tool) in tools.iter().enumerate() {
        check_tool(tool, index)?;
        if !names.insert(tool.name.as_str()) {
            let param = format!("tools[{index}].name");
            return Err(ApiError::invalid(param, format!("Two tools are named '{}'.", tool.name)));
        }
    }
    if let ToolChoice::Named(name) = &choice
        && !names.contains(name.as_str())
    {
        return Err(ApiError::invalid("tool_choice", format!("No tool is named '{name}'.")));
    }
    // Who names one tool asks for one call of it; a small model would go on to its token limit.
    let is_named = matches!(choice, ToolChoice::Named(_));
    let parallel = wire.parallel_tool_calls.unwrap_or(true) && !is_named;
    Ok((choice != ToolChoice::None).then_some(ToolUse { tools, choice, parallel }))
}

fn check_tool(tool: &Tool, index: usize) -> Result<(), ApiError> {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if tool.name.is_empty() || tool.name.len() > TOOL_NAME_MAX || !tool.name.bytes().all(named) {
        let param = format!("tools[{index}].name");
        let message = format!("'{param}' must be 1 to {TOOL_NAME_MAX} letters, digits, '_' and '-'.");
        return Err(ApiError::invalid(param, message));
    }
    if tool.parameters.as_ref().is_some_and(|schema| !schema.is_object()) {
        let param = format!("tools[{index}].parameters");
        return Err(ApiError::invalid(param.clone(), format!("'{param}' must be a JSON schema, an object.")));
    }
    Ok(())
}

/// A value in its range. What is no number is in none.
fn within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, ApiError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (range.start(), range.end());
    let message = match name {
        "tools" | "logit_bias" => format!("'{name}' may hold {most} entries; it holds {value}."),
        _ => format!("'{name}' must be from {least} to {most}; it is {value}."),
    };
    Err(ApiError::invalid(name, message))
}

fn check_request_id(id: Option<&str>) -> Result<(), ApiError> {
    match id.map(|id| id.chars().count()) {
        Some(count) if count == 0 || count > REQUEST_ID_MAX => {
            let message = format!("'request_id' must have 1 to {REQUEST_ID_MAX} characters; it has {count}.");
            Err(ApiError::invalid("request_id", message))
        }
        _ => Ok(()),
    }
}

fn check_stop(stop: &[String]) -> Result<(), ApiError> {
    if stop.len() > STOP_COUNT_MAX {
        let message = format!("'stop' may hold {STOP_COUNT_MAX} strings; it holds {}.", stop.len());
        return Err(ApiError::invalid("stop", message));
    }
    match stop.iter().position(|text| text.is_empty() || text.len() > STOP_BYTES_MAX) {
        Some(index) => {
            let param = format!("stop[{index}]");
            let message =
                format!("'{param}' must have 1 to {STOP_BYTES_MAX} bytes; it has {}.", stop[index].len());
            Err(ApiError::invalid(param, message))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
