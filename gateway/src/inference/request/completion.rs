//! Text completions.

use std::time::Duration;

use protocol::ApiError;
use protocol::openai::completions::{CompletionPrompt, CompletionRequest};
use protocol::worker::ExecuteRequest;
use tokio::time::Instant;

use super::{
    CHOICES_MAX, CallersNames, InferenceRequest, TOP_LOGPROBS_MAX, checked, logit_bias, refuse_first, seed,
    stop_strings, within,
};

/// Prompts of one request at most.
const PROMPTS_MAX: usize = 128;
/// What OpenAI's interface generates where no number is given.
const MAX_TOKENS: u32 = 16;
/// How a text completion names what a worker may find fault with.
const NAMES: CallersNames = &[("prompt_tokens", "prompt")];

/// What a text completion asks for, checked.
#[derive(Debug)]
pub struct CompletionOrder {
    /// One request for each prompt, at least one.
    pub requests: Vec<InferenceRequest>,
    /// Choices of each prompt that the caller gets.
    pub choices: u32,
    /// Whether the caller sees log probabilities, which choosing the best needs too.
    pub logprobs: bool,
}

/// Checks a text completion.
pub fn completion_order(
    body: CompletionRequest,
    timeout: Option<Duration>,
) -> Result<CompletionOrder, ApiError> {
    let suffix = body.suffix.filter(|suffix| !suffix.is_empty());
    let echo = body.echo.unwrap_or(false);
    refuse_first(&[("echo", echo && suffix.is_some(), "both 'echo' and 'suffix'")])?;
    within("n", body.n, 1..=CHOICES_MAX)?;
    within("logprobs", body.logprobs, 0..=TOP_LOGPROBS_MAX)?;
    let choices = body.n.unwrap_or(1);
    let best_of = body.best_of.filter(|best_of| *best_of > 0);
    within("best_of", best_of, choices..=CHOICES_MAX)?;
    let best_of = best_of.unwrap_or(choices);
    if best_of > choices && body.stream.unwrap_or(false) {
        let message = "'best_of' chooses among whole answers, so it cannot be streamed.";
        return Err(ApiError::invalid("best_of", message));
    }
    let prompts = prompts(body.prompt, suffix.is_some())?;
    let order = checked(ExecuteRequest {
        suffix,
        max_tokens: Some(body.max_tokens.unwrap_or(MAX_TOKENS)),
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
        n: Some(best_of),
        min_tokens: body.min_tokens,
        ignore_eos: body.ignore_eos.unwrap_or(false),
        logprobs: body.logprobs.or((best_of > choices).then_some(0)),
        echo,
        stream: true,
        ..ExecuteRequest::default()
    })?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let requests = prompts.into_iter().map(|prompt| {
        let mut order = order.clone();
        match prompt {
            Prompt::Text(text) => order.prompt = Some(text),
            Prompt::Tokens(tokens) => order.prompt_tokens = Some(tokens),
        }
        InferenceRequest {
            model: body.model.clone(),
            order,
            names: NAMES,
            wants_stream: body.stream.unwrap_or(false),
            deadline,
            ..InferenceRequest::default()
        }
    });
    Ok(CompletionOrder { requests: requests.collect(), choices, logprobs: body.logprobs.is_some() })
}

enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

fn prompts(prompt: CompletionPrompt, has_suffix: bool) -> Result<Vec<Prompt>, ApiError> {
    let prompts: Vec<Prompt> = match prompt {
        CompletionPrompt::Text(text) => vec![Prompt::Text(text)],
        CompletionPrompt::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
        CompletionPrompt::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
        CompletionPrompt::ManyTokens(many) => many.into_iter().map(Prompt::Tokens).collect(),
    };
    let is_empty = |prompt: &Prompt| match prompt {
        // A gap may be where a text begins.
        Prompt::Text(text) => text.is_empty() && !has_suffix,
        Prompt::Tokens(tokens) => tokens.is_empty(),
    };
    if prompts.is_empty() || prompts.iter().any(is_empty) {
        return Err(ApiError::invalid("prompt", "'prompt' is empty, or one of its prompts is."));
    }
    if prompts.len() > PROMPTS_MAX {
        let message = format!("'prompt' may hold {PROMPTS_MAX} prompts; it holds {}.", prompts.len());
        return Err(ApiError::invalid("prompt", message));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn order(extra: &Value) -> Result<CompletionOrder, ApiError> {
        let mut body = json!({"model": "m", "prompt": "once"});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        completion_order(serde_json::from_value(body).unwrap(), None)
    }

    #[test]
    fn prompts_of_every_shape_are_requests_of_their_own() {
        for (prompt, texts, tokens) in [
            (json!("a"), vec![Some("a")], vec![None]),
            (json!(["a", "b"]), vec![Some("a"), Some("b")], vec![None, None]),
            (json!([1, 2]), vec![None], vec![Some(vec![1, 2])]),
            (json!([[1], [2]]), vec![None, None], vec![Some(vec![1]), Some(vec![2])]),
        ] {
            let requests = order(&json!({"prompt": prompt})).unwrap().requests;
            let found: Vec<_> = requests.iter().map(|request| request.order.prompt.as_deref()).collect();
            assert_eq!(found, texts);
            let found: Vec<_> = requests.iter().map(|request| request.order.prompt_tokens.clone()).collect();
            assert_eq!(found, tokens);
        }
    }

    #[test]
    fn what_is_absent_takes_openais_default() {
        let order = order(&json!({})).unwrap();
        let sent = &order.requests[0].order;
        assert_eq!((sent.max_tokens, sent.n, sent.echo, sent.logprobs), (Some(16), Some(1), false, None));
        assert!(!order.logprobs);
    }

    #[test]
    fn a_gap_is_told_by_what_stands_after_it() {
        let suffix = |extra: &Value| order(extra).unwrap().requests[0].order.suffix.clone();
        assert_eq!(suffix(&json!({"suffix": "end"})).as_deref(), Some("end"));
        assert_eq!(suffix(&json!({"suffix": "end", "prompt": ""})).as_deref(), Some("end"));
        assert_eq!(suffix(&json!({"suffix": "", "echo": true})), None);
        assert_eq!(order(&json!({"suffix": "", "prompt": ""})).unwrap_err().param.as_deref(), Some("prompt"));
    }

    #[test]
    fn the_best_are_chosen_by_log_probabilities() {
        let order = order(&json!({"n": 2, "best_of": 5})).unwrap();
        let sent = &order.requests[0].order;
        assert_eq!((order.choices, sent.n, sent.logprobs, order.logprobs), (2, Some(5), Some(0), false));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (extra, param) in [
            (json!({"prompt": ""}), "prompt"),
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": ["a", ""]}), "prompt"),
            (json!({"prompt": vec!["a"; 129]}), "prompt"),
            (json!({"suffix": "end", "echo": true}), "echo"),
            (json!({"n": 2, "best_of": 1}), "best_of"),
            (json!({"best_of": 2, "stream": true}), "best_of"),
            (json!({"logprobs": 21}), "logprobs"),
            (json!({"n": 0}), "n"),
        ] {
            assert_eq!(order(&extra).unwrap_err().param.as_deref(), Some(param), "{extra}");
        }
    }
}
