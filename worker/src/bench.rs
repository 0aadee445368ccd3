//! Measures the engine alone: no HTTP, no tokenizer, one sequence, greedy.

use std::time::Instant;

use serde::Serialize;

use crate::config::{BenchArgs, ModelConfig};
use crate::engine::{Model, Span, StepError};
use crate::error::LoadError;
use crate::text::model::{LoadOrder, load};
use crate::text::sampler::likeliest;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// Length of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub new_tokens: u32,
    /// Threads that computed.
    pub threads: usize,
    /// Seconds that loading took, warm-up included.
    pub load_seconds: f64,
    /// Prompt tokens read in a second.
    pub prefill_tokens_per_second: f64,
    /// Tokens generated in a second.
    pub decode_tokens_per_second: f64,
    /// The longest step in milliseconds: how long a cancel may take.
    pub longest_step_ms: f64,
}

impl std::fmt::Display for Measurement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "load     {:8.2} s", self.load_seconds)?;
        writeln!(
            f,
            "prefill  {:8.1} tokens/s  ({} tokens)",
            self.prefill_tokens_per_second, self.prompt_tokens
        )?;
        writeln!(f, "decode   {:8.1} tokens/s  ({} tokens)", self.decode_tokens_per_second, self.new_tokens)?;
        write!(f, "step     {:8.1} ms at most, on {} threads", self.longest_step_ms, self.threads)
    }
}

/// Loads the model and measures it.
pub fn run(args: &BenchArgs, config: &ModelConfig) -> Result<Measurement, LoadError> {
    let started = Instant::now();
    let order = LoadOrder {
        path: &config.path,
        backend: config.backend,
        gpu: config.gpu,
        context_limit: config.context_limit,
    };
    let model = load(&order, &mut |_| {})?;
    let load_seconds = started.elapsed().as_secs_f64();
    let (prompt_tokens, new_tokens) = (args.prompt_tokens, args.new_tokens);
    let limit = model.language.context_limit;
    if (prompt_tokens + new_tokens) as usize > limit {
        return Err(LoadError::Failed(format!(
            "{prompt_tokens} prompt tokens and {new_tokens} new ones do not fit a context of {limit}"
        )));
    }
    // Any tokens do: their number sets the cost. A stride that is no divisor of the vocabulary spreads them.
    let vocabulary = model.language.vocabulary.size() as u32;
    let prompt: Vec<u32> = (0..prompt_tokens).map(|index| index.wrapping_mul(7_919) % vocabulary).collect();
    let (prefill_seconds, decode_seconds, longest_step_ms) = measure(&model.weights, &prompt, new_tokens)
        .map_err(|error| LoadError::Failed(format!("{error:?}")))?;
    Ok(Measurement {
        prompt_tokens,
        new_tokens,
        threads: config.threads,
        load_seconds,
        prefill_tokens_per_second: f64::from(prompt_tokens) / prefill_seconds,
        decode_tokens_per_second: f64::from(new_tokens) / decode_seconds,
        longest_step_ms,
    })
}

fn measure<M: Model>(model: &M, prompt: &[u32], new_tokens: u32) -> Result<(f64, f64, f64), StepError> {
    let mut cache = model.new_cache()?;
    let mut longest_ms = 0f64;
    let mut step = |tokens: &[u32], wants_logits: bool| {
        let started = Instant::now();
        let logits = model.step(&mut [Span { tokens, cache: &mut cache, wants_logits }])?;
        longest_ms = longest_ms.max(started.elapsed().as_secs_f64() * 1e3);
        Ok(logits.first().map_or(0, |logits| likeliest(logits)))
    };
    let started = Instant::now();
    let mut next = 0;
    let mut fed = 0;
    for chunk in prompt.chunks(model.prefill_rows()) {
        fed += chunk.len();
        next = step(chunk, fed == prompt.len())?;
    }
    let prefill_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    for _ in 0..new_tokens {
        next = step(&[next], true)?;
    }
    Ok((prefill_seconds, started.elapsed().as_secs_f64(), longest_ms))
}
