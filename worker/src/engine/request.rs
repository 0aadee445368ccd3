//! A request as the wire gave it, checked once; what comes out of here is not checked again.

use protocol::ApiError;
use protocol::worker::{ExecuteRequest, Message};

use crate::text::sampler::Sampling;

/// Stop strings that a request may have.
const STOP_COUNT_MAX: usize = 16;
/// Bytes of one stop string at most.
const STOP_BYTES_MAX: usize = 1024;
/// Characters of a caller's request id at most.
const REQUEST_ID_MAX: usize = 128;
/// The highest temperature, as in OpenAI's interface.
const TEMPERATURE_MAX: f32 = 2.0;

/// What to answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A text to continue.
    Prompt(String),
    /// What a user says, to a model that may or may not have learnt to chat.
    Instruction(String),
    /// A conversation, at least one message long.
    Messages(Vec<Message>),
}

/// A valid request for text.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationRequest {
    /// The name by which it can be cancelled.
    pub request_id: Option<String>,
    /// What to answer.
    pub input: Input,
    /// Tokens to generate at most; without it, as many as the context holds.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen, with the seed in force.
    pub sampling: Sampling,
    /// Generation ends before any of these; none is empty.
    pub stop: Vec<String>,
}

impl TryFrom<ExecuteRequest> for GenerationRequest {
    type Error = ApiError;

    fn try_from(wire: ExecuteRequest) -> Result<Self, ApiError> {
        let input = match (wire.prompt, wire.instruction, wire.messages) {
            (Some(prompt), None, None) if !prompt.is_empty() => Input::Prompt(prompt),
            (None, Some(text), None) if !text.is_empty() => Input::Instruction(text),
            (None, None, Some(messages)) if !messages.is_empty() => Input::Messages(messages),
            (Some(_), None, None) => return Err(ApiError::invalid("prompt", "'prompt' must not be empty.")),
            (None, Some(_), None) => {
                return Err(ApiError::invalid("prompt", "The prompt must not be empty."));
            }
            (None, None, Some(_)) => {
                return Err(ApiError::invalid("messages", "'messages' must not be empty."));
            }
            _ => {
                return Err(ApiError::invalid(
                    "prompt",
                    "Exactly one of 'prompt', 'instruction' and 'messages' must be given.",
                ));
            }
        };
        let sampling = Sampling {
            temperature: within("temperature", wire.temperature.unwrap_or(1.0), 0.0..=TEMPERATURE_MAX)?,
            top_p: within("top_p", wire.top_p.unwrap_or(1.0), 0.0..=1.0)?,
            top_k: wire.top_k.unwrap_or(0) as usize,
            // A chosen seed has 32 bits, so that it comes through readers that keep numbers as doubles.
            seed: wire.seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
        };
        check_stop(&wire.stop)?;
        let request_id = wire.request_id;
        if request_id.as_ref().is_some_and(|id| id.is_empty() || id.chars().count() > REQUEST_ID_MAX) {
            let message = format!("'request_id' must have 1 to {REQUEST_ID_MAX} characters.");
            return Err(ApiError::invalid("request_id", message));
        }
        Ok(Self { request_id, input, max_tokens: wire.max_tokens, sampling, stop: wire.stop })
    }
}

fn within(name: &str, value: f32, range: std::ops::RangeInclusive<f32>) -> Result<f32, ApiError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let message = format!("'{name}' must be from {} to {}; it is {value}.", range.start(), range.end());
    Err(ApiError::invalid(name, message))
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
mod tests {
    use super::*;

    fn parse(json: serde_json::Value) -> Result<GenerationRequest, ApiError> {
        serde_json::from_value::<ExecuteRequest>(json).unwrap().try_into()
    }

    #[test]
    fn the_field_out_of_range_is_named() {
        for (json, param) in [
            (serde_json::json!({}), "prompt"),
            (serde_json::json!({"prompt": ""}), "prompt"),
            (serde_json::json!({"instruction": ""}), "prompt"),
            (serde_json::json!({"prompt": "a", "instruction": "b"}), "prompt"),
            (serde_json::json!({"messages": []}), "messages"),
            (serde_json::json!({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}), "prompt"),
            (serde_json::json!({"prompt": "a", "temperature": 2.1}), "temperature"),
            (serde_json::json!({"prompt": "a", "temperature": -0.1}), "temperature"),
            (serde_json::json!({"prompt": "a", "top_p": -0.1}), "top_p"),
            (serde_json::json!({"prompt": "a", "top_p": 1.5}), "top_p"),
            (serde_json::json!({"prompt": "a", "stop": vec!["x"; 17]}), "stop"),
            (serde_json::json!({"prompt": "a", "stop": ["x", ""]}), "stop[1]"),
            (serde_json::json!({"prompt": "a", "request_id": ""}), "request_id"),
        ] {
            let error = parse(json.clone()).expect_err(&json.to_string());
            assert_eq!(error.param.as_deref(), Some(param), "{json}");
        }
    }

    #[test]
    fn what_is_absent_takes_its_default() {
        let request = parse(serde_json::json!({"prompt": "a", "max_tokens": 0, "seed": 5})).unwrap();
        assert_eq!(request.sampling, Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 5 });
        assert_eq!(request.max_tokens, Some(0));
        let request = parse(serde_json::json!({"instruction": "a"})).unwrap();
        assert_eq!(request.input, Input::Instruction("a".to_owned()));
    }
}
