//! From logits to the next token.
//!
//! In this order: the log probabilities that a caller wants are taken of the logits as the model gave them; `logit_bias`
//! is added; penalties are taken off (repetition, then frequency and presence); ends of turn are ruled out where the
//! answer may not end yet; the constraint's mask rules out what would lead away from it; temperature divides; then top_k,
//! typical_p, top_p and min_p each keep a part of what the one before it left, at least one token; and chance decides.
//! A temperature of 0 takes the likeliest of what the mask leaves.
//!
//! The same seed and the same logits give the same token, whatever else runs: draws are numbered and each is computed
//! from the seed, the choice and its number. The vocabulary is never sorted as a whole, and once warm nothing is
//! allocated but the lists of likeliest tokens that a caller asked for.

mod candidates;
mod penalties;
mod scan;

use protocol::{ApiError, ErrorCode};

use crate::text::constraint::Guide;
use candidates::Candidates;
use penalties::Penalties;
pub use scan::likeliest;

/// Temperatures below this one are greedy: their weights are all of them nothing or everything.
const GREEDY_BELOW: f32 = 1e-5;

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Only this many of the likeliest tokens; 0 takes all.
    pub top_k: usize,
    /// Only the smallest set of likeliest tokens that holds this probability; 1 takes all.
    pub top_p: f32,
    /// Only tokens at least this times as probable as the likeliest; 0 takes all.
    pub min_p: f32,
    /// Only the tokens nearest to the expected surprise that hold this probability; 1 takes all.
    pub typical_p: f32,
    /// Taken off the logit of every token that the answer holds.
    pub presence_penalty: f32,
    /// Taken off the logit of a token for each time that the answer holds it.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens that prompt or answer holds; 1 is none.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens, each of the vocabulary and named once.
    pub logit_bias: Vec<(u32, f32)>,
    /// What the draws are computed from.
    pub seed: u64,
    /// Tokens before which the answer does not end.
    pub min_tokens: usize,
    /// Whether the model may not end its answer at all.
    pub ignore_eos: bool,
    /// How many of the likeliest tokens to tell of, beside the chosen one's log probability; none tells of neither.
    pub logprobs: Option<usize>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            min_tokens: 0,
            ignore_eos: false,
            logprobs: None,
        }
    }
}

impl Sampling {
    fn is_greedy(&self) -> bool {
        self.temperature < GREEDY_BELOW || self.top_k == 1
    }

    /// Whether every token that is possible stays so.
    fn takes_all(&self) -> bool {
        self.top_k == 0 && self.top_p >= 1.0 && self.min_p <= 0.0 && self.typical_p >= 1.0
    }

    fn changes_logits(&self) -> bool {
        !self.logit_bias.is_empty() || Penalties::are_wanted(self)
    }
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Its number.
    pub token: u32,
    /// The natural logarithm of its probability as the model gave it, if log probabilities are wanted.
    pub logprob: Option<f32>,
    /// The likeliest tokens in its place with theirs, likeliest first, as many as are wanted.
    pub top: Vec<(u32, f32)>,
}

/// What comes next in an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// This token.
    Token(Chosen),
    /// Nothing: the model chose an end of turn, or the constraint allows nothing else.
    End,
}

/// The sampler of one answer.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    choice: u32,
    ends: Vec<u32>,
    guide: Option<Guide>,
    penalties: Option<Penalties>,
    candidates: Candidates,
    /// The logits as the model gave them, where they are changed although they are wanted.
    given: Vec<f32>,
    /// Tokens chosen so far, which also numbers the draws.
    chosen: u64,
}

impl Sampler {
    /// The sampler of answer number `choice` to a prompt, by a model that ends turns with `ends`.
    pub fn new(sampling: Sampling, choice: u32, prompt: &[u32], ends: &[u32], guide: Option<Guide>) -> Self {
        Self {
            penalties: Penalties::new(&sampling, prompt),
            candidates: Candidates::default(),
            ends: ends.to_vec(),
            given: Vec::new(),
            chosen: 0,
            sampling,
            choice,
            guide,
        }
    }

    /// Chooses the next token of a row of logits, which is changed on the way. Logits that are no numbers are never
    /// chosen. An error means that the answer cannot go on: the constraint became too complex, or no logit is a number.
    pub fn next(&mut self, logits: &mut [f32]) -> Result<Next, ApiError> {
        self.keep_given(logits);
        self.change(logits)?;
        let Some(token) = self.choose(logits) else {
            return if self.guide.is_some() { Ok(Next::End) } else { Err(no_number()) };
        };
        if self.ends.contains(&token) {
            return Ok(Next::End);
        }
        self.chosen += 1;
        if let Some(penalties) = &mut self.penalties {
            penalties.count(token);
        }
        if let Some(guide) = &mut self.guide {
            guide.accept(token)?;
        }
        let given = if self.given.is_empty() { &*logits } else { &self.given };
        let (logprob, top) = match self.sampling.logprobs {
            Some(count) => {
                let row = LogProbabilities::of(given);
                (Some(row.of_logit(given[token as usize])), row.top(given, count, &mut self.candidates))
            }
            None => (None, Vec::new()),
        };
        Ok(Next::Token(Chosen { token, logprob, top }))
    }

    /// Whether the constraint is fulfilled and nothing can follow.
    pub fn is_over(&mut self) -> bool {
        self.guide.as_mut().is_some_and(Guide::is_over)
    }

    /// Whether the answer may still not end, be it by an end of turn or by a stop string.
    pub fn must_go_on(&self) -> bool {
        (self.chosen as usize) < self.sampling.min_tokens
    }

    fn keep_given(&mut self, logits: &[f32]) {
        let changes = self.sampling.changes_logits()
            || self.guide.is_some()
            || self.sampling.ignore_eos
            || self.sampling.min_tokens > 0;
        if self.sampling.logprobs.is_some() && changes {
            self.given.clear();
            self.given.extend_from_slice(logits);
        }
    }

    /// Everything that is done to logits before temperature.
    fn change(&mut self, logits: &mut [f32]) -> Result<(), ApiError> {
        for (token, bias) in &self.sampling.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        if let Some(penalties) = &self.penalties {
            penalties.apply(logits);
        }
        if self.sampling.ignore_eos || self.must_go_on() {
            for end in &self.ends {
                if let Some(logit) = logits.get_mut(*end as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        match &mut self.guide {
            Some(guide) => guide.mask(logits),
            None => Ok(()),
        }
    }

    /// The token that the changed logits give; none if all of them are ruled out.
    fn choose(&mut self, logits: &[f32]) -> Option<u32> {
        if self.sampling.is_greedy() {
            let token = likeliest(logits);
            return logits.get(token as usize).filter(|logit| **logit > f32::NEG_INFINITY).map(|_| token);
        }
        let highest = scan::highest(logits);
        if highest.is_infinite() {
            // A logit that is infinitely high leaves no probability to others.
            return (highest > 0.0).then(|| likeliest(logits));
        }
        let scale = 1.0 / self.sampling.temperature;
        let point = point(self.sampling.seed, self.choice, self.chosen);
        if self.sampling.takes_all() {
            return self.candidates.draw_from_all(logits, highest, scale, point);
        }
        self.candidates.filter(&self.sampling, logits, highest, scale);
        self.candidates.draw(point)
    }
}

fn no_number() -> ApiError {
    ApiError::new(ErrorCode::Internal, "The model computed no number for any token.")
}

/// What log probabilities of a row are computed with.
struct LogProbabilities {
    highest: f32,
    log_total: f64,
}

impl LogProbabilities {
    fn of(logits: &[f32]) -> Self {
        let highest = scan::highest(logits);
        Self { highest, log_total: scan::total(logits, highest, 1.0).ln() }
    }

    fn of_logit(&self, logit: f32) -> f32 {
        // A difference first: the logits may be far from 0, their log probabilities are not. Rounding may not lift a
        // certainty above 1.
        (f64::from(logit) - f64::from(self.highest) - self.log_total).min(0.0) as f32
    }

    fn top(&self, logits: &[f32], count: usize, candidates: &mut Candidates) -> Vec<(u32, f32)> {
        candidates.top(logits, count).map(|(id, logit)| (id, self.of_logit(logit))).collect()
    }
}

/// The log probabilities of a row: that of `token`, and those of the `count` likeliest. For prompts, whose tokens are
/// not chosen.
pub fn log_probabilities(logits: &[f32], token: u32, count: usize) -> Chosen {
    let row = LogProbabilities::of(logits);
    let logprob = logits.get(token as usize).map(|logit| row.of_logit(*logit));
    Chosen { token, logprob, top: row.top(logits, count, &mut Candidates::default()) }
}

/// A number from 0 up to 1, by SplitMix64's finaliser on the seed, the choice and the number of the draw. Choice 0 of
/// several is the answer that a request for one gets.
fn point(seed: u64, choice: u32, draw: u64) -> f64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let stream = mix(mix(seed).wrapping_add(mix(u64::from(choice).wrapping_mul(GOLDEN))));
    let bits = mix(stream.wrapping_add((draw + 1).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
