//! What a request means, once and for all: everything is checked here, and nothing is checked again after it but what
//! only the model's worker can know.

mod chat;
mod completion;
mod embedding;
mod messages;
mod responses;
mod task;
mod tokens;
mod tools;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use protocol::hive::ModelKind;
use protocol::openai::chat::Stop;
use protocol::openai::metadata::Metadata;
use protocol::task::Priority;
use protocol::vectors::EmbedRequest;
use protocol::worker::ExecuteRequest;
use protocol::{ApiError, ErrorCode};
use tokio::time::Instant;

use crate::scheduler::Placement;

pub use chat::chat_request;
pub use completion::completion_order;
pub use embedding::embed_request;
pub use messages::{Thoughts, message_order, message_prompt};
pub use responses::{Context, ResponseOrder, check_includes, references, response_again, response_order};
pub use task::task_request;
pub use tokens::{tokenize_order, tokenize_refusal};

/// A request for text or vectors, checked.
#[derive(Debug, Clone, Default)]
pub struct InferenceRequest {
    /// The model as the caller names it; empty for the default.
    pub model: String,
    /// The order to a worker, all but its id.
    pub order: ExecuteRequest,
    /// The order if vectors are wanted, and no text.
    pub vectors: Option<EmbedRequest>,
    /// How the caller names what a worker may find fault with.
    pub names: CallersNames,
    /// The band it waits in.
    pub priority: Priority,
    /// Where it may or should be served.
    pub placement: Placement,
    /// What it belongs to; requests of one session are best served by one worker.
    pub session: Option<String>,
    /// What the caller wrote on it.
    pub tags: Metadata,
    /// The rules that it is under.
    pub compliance: Option<String>,
    /// Whether somebody reads along.
    pub wants_stream: bool,
    /// When an answer is of no use any more.
    pub deadline: Option<Instant>,
}

/// Pairs of a worker's name of a field and the caller's. A worker's name stands for all fields whose names begin with it;
/// one that begins with `]` stands for that part of a name.
pub type CallersNames = &'static [(&'static str, &'static str)];

impl InferenceRequest {
    /// Answers that it asks for.
    pub fn choices(&self) -> u32 {
        self.order.n.unwrap_or(1)
    }

    /// The kind of model that it needs.
    pub const fn kind(&self) -> ModelKind {
        if self.vectors.is_some() { ModelKind::Embedding } else { ModelKind::TextGen }
    }

    /// The order to a worker.
    pub fn to_execute(&self, request_id: &str) -> ExecuteRequest {
        ExecuteRequest {
            request_id: Some(request_id.to_owned()),
            patient: !self.priority.is_awaited(),
            ..self.order.clone()
        }
    }

    /// A worker's refusal with the field as the caller knows it.
    pub fn in_callers_words(&self, error: ApiError) -> ApiError {
        in_words_of(self.names, error)
    }
}

fn in_words_of(names: CallersNames, error: ApiError) -> ApiError {
    let Some(param) = &error.param else { return error };
    let renamed = names.iter().find_map(|(ours, callers)| {
        if ours.starts_with(']') {
            return param.contains(ours).then(|| param.replacen(ours, callers, 1));
        }
        let rest = param.strip_prefix(ours)?;
        // Whole names only: a digit or a letter would make another name of it.
        let is_whole = !rest.starts_with(|sign: char| sign.is_ascii_alphanumeric() || sign == '_');
        is_whole.then(|| format!("{callers}{rest}"))
    });
    let Some(renamed) = renamed else { return error };
    let message = error.message.replace(&format!("'{param}'"), &format!("'{renamed}'"));
    ApiError { message, ..error }.with_param(renamed)
}

/// Choices of one request at most, as in OpenAI's interface.
const CHOICES_MAX: u32 = 128;
/// Likeliest tokens that can be told of, as in OpenAI's interface.
const TOP_LOGPROBS_MAX: u32 = 20;
/// Tokens that may have a bias.
const BIAS_COUNT_MAX: usize = 4096;

/// Pairs of metadata, and characters of their keys and values, as in OpenAI's interface.
const METADATA_PAIRS_MAX: usize = 16;
const METADATA_KEY_MAX: usize = 64;
const METADATA_VALUE_MAX: usize = 512;

/// Checks what all kinds of requests share.
fn checked(order: ExecuteRequest) -> Result<ExecuteRequest, ApiError> {
    within("temperature", order.temperature, 0.0..=2.0)?;
    within("top_p", order.top_p, 0.0..=1.0)?;
    within("min_p", order.min_p, 0.0..=1.0)?;
    within("typical_p", order.typical_p, 0.0..=1.0)?;
    within("presence_penalty", order.presence_penalty, -2.0..=2.0)?;
    within("frequency_penalty", order.frequency_penalty, -2.0..=2.0)?;
    // The least that is above zero by any use.
    within("repetition_penalty", order.repetition_penalty, 0.001..=10.0)?;
    within("n", order.n, 1..=CHOICES_MAX)?;
    if let (Some(min_tokens), Some(max_tokens)) = (order.min_tokens, order.max_tokens) {
        within("min_tokens", Some(min_tokens), 0..=max_tokens)?;
    }
    for (token, bias) in &order.logit_bias {
        within(&format!("logit_bias.{token}"), Some(*bias), -100.0..=100.0)?;
    }
    if order.logit_bias.len() > BIAS_COUNT_MAX {
        let message =
            format!("'logit_bias' may hold {BIAS_COUNT_MAX} tokens; it holds {}.", order.logit_bias.len());
        return Err(ApiError::invalid("logit_bias", message));
    }
    if order.stop.len() > 16 || order.stop.iter().any(|text| text.is_empty() || text.len() > 1024) {
        let message = "'stop' takes at most 16 strings of 1 to 1024 bytes each.";
        return Err(ApiError::invalid("stop", message));
    }
    Ok(order)
}

fn within<T: PartialOrd + std::fmt::Display>(
    param: &str,
    value: Option<T>,
    range: RangeInclusive<T>,
) -> Result<(), ApiError> {
    match value {
        Some(value) if !range.contains(&value) => {
            let message =
                format!("'{param}' is {value}; it must be from {} to {}.", range.start(), range.end());
            Err(ApiError::invalid(param, message))
        }
        _ => Ok(()),
    }
}

/// What callers write on what is kept, within OpenAI's limits.
pub fn metadata(metadata: Option<&Metadata>) -> Result<(), ApiError> {
    metadata.map_or(Ok(()), |metadata| labels("metadata", metadata))
}

/// The same under another name.
fn labels(param: &str, labels: &Metadata) -> Result<(), ApiError> {
    if labels.len() > METADATA_PAIRS_MAX {
        let message = format!("'{param}' may hold {METADATA_PAIRS_MAX} pairs; it holds {}.", labels.len());
        return Err(ApiError::invalid(param, message));
    }
    for (key, value) in labels {
        if key.is_empty() || key.chars().count() > METADATA_KEY_MAX {
            let message = format!("The keys of '{param}' must have 1 to {METADATA_KEY_MAX} characters.");
            return Err(ApiError::invalid(param, message));
        }
        if value.chars().count() > METADATA_VALUE_MAX {
            let message = format!("'{param}.{key}' has more than {METADATA_VALUE_MAX} characters.");
            return Err(ApiError::invalid(format!("{param}.{key}"), message));
        }
    }
    Ok(())
}

/// Stop strings as OpenAI's interface allows them.
fn stop_strings(stop: Option<Stop>) -> Result<Vec<String>, ApiError> {
    let stop = match stop {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Many(texts)) => texts,
    };
    if stop.len() > 4 {
        let message = format!("'stop' holds {} strings; at most 4 are allowed.", stop.len());
        return Err(ApiError::invalid("stop", message));
    }
    Ok(stop)
}

/// Biases by token, which JSON's objects can only name by text.
fn logit_bias(bias: Option<BTreeMap<String, f32>>) -> Result<BTreeMap<u32, f32>, ApiError> {
    let by_token = |(key, bias): (String, f32)| {
        let token = key.trim().parse().map_err(|_| {
            let message = "'logit_bias' has a key that is no token: keys are whole numbers.";
            ApiError::invalid("logit_bias", message)
        });
        token.map(|token| (token, bias))
    };
    // A bias of nothing asks for nothing, whatever it is of.
    bias.unwrap_or_default().into_iter().filter(|(_, bias)| *bias != 0.0).map(by_token).collect()
}

/// Every number that JSON can hold is a seed; the same number is the same seed.
fn seed(number: &serde_json::Number) -> u64 {
    number
        .as_u64()
        .or_else(|| number.as_i64().map(i64::cast_unsigned))
        .or_else(|| number.as_f64().map(f64::to_bits))
        .unwrap_or_default()
}

fn unsupported(param: &str, what: &str) -> ApiError {
    let message = format!("'{param}': this server does not support {what}.");
    ApiError::new(ErrorCode::UnsupportedParameter, message).with_param(param)
}

/// The band of a tier of service.
fn band(tier: Option<&str>) -> Result<Priority, ApiError> {
    match tier {
        None | Some("auto" | "default" | "scale") => Ok(Priority::Interactive),
        Some("priority") => Ok(Priority::High),
        Some("flex") => Ok(Priority::Low),
        Some(_) => {
            let message = "'service_tier' must be auto, default, flex, scale or priority.";
            Err(ApiError::invalid("service_tier", message))
        }
    }
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
    use super::*;

    #[test]
    fn a_workers_refusal_names_the_callers_field() {
        let request = InferenceRequest { names: chat::NAMES, ..InferenceRequest::default() };
        let renamed = |param: &str| {
            let error = ApiError::invalid(param, format!("'{param}' is wrong."));
            let error = request.in_callers_words(error);
            let param = error.param.unwrap();
            assert_eq!(error.message, format!("'{param}' is wrong."));
            param
        };
        for (ours, callers) in [
            ("constraint.schema/properties/x/not", "response_format.json_schema.schema/properties/x/not"),
            ("constraint.pattern", "response_format.pattern"),
            ("constraint", "response_format"),
            ("tools[3].parameters/type", "tools[3].function.parameters/type"),
            ("messages", "messages"),
            ("template_options", "chat_template_kwargs"),
        ] {
            assert_eq!(renamed(ours), callers);
        }
    }
}
