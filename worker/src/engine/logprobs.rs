//! Log probabilities as the wire tells them: with the tokens' texts and bytes.

use protocol::events::TokenLogprob;

use crate::text::answer::likely_token;
use crate::text::sampler::{Chosen, log_probabilities};
use crate::text::vocabulary::Vocabulary;

/// A token that the sampler chose and told the log probability of.
pub(super) fn of_chosen(chosen: &Chosen, vocabulary: &Vocabulary) -> TokenLogprob {
    TokenLogprob {
        token: likely_token(vocabulary, chosen.token, chosen.logprob),
        top: chosen.top.iter().map(|(id, logprob)| likely_token(vocabulary, *id, Some(*logprob))).collect(),
    }
}

/// A token of a prompt, by the logits of the token before it; the first has none before it.
pub(super) fn of_prompt(
    logits: Option<&[f32]>,
    token: u32,
    top: usize,
    vocabulary: &Vocabulary,
) -> TokenLogprob {
    match logits {
        Some(logits) => of_chosen(&log_probabilities(logits, token, top), vocabulary),
        None => TokenLogprob { token: likely_token(vocabulary, token, None), top: Vec::new() },
    }
}
