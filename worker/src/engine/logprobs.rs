//! Log probabilities as the wire tells them: with the tokens' texts and bytes.

use protocol::events::{LikelyToken, TokenLogprob};

use crate::text::sampler::{Chosen, log_probabilities};
use crate::text::vocabulary::Vocabulary;

/// A token that the sampler chose and told the log probability of.
pub(super) fn of_chosen(chosen: &Chosen, vocabulary: &Vocabulary) -> TokenLogprob {
    TokenLogprob {
        token: named(chosen.token, chosen.logprob, vocabulary),
        top: chosen.top.iter().map(|(id, logprob)| named(*id, Some(*logprob), vocabulary)).collect(),
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
        None => TokenLogprob { token: named(token, None, vocabulary), top: Vec::new() },
    }
}

fn named(id: u32, logprob: Option<f32>, vocabulary: &Vocabulary) -> LikelyToken {
    let mut bytes = Vec::new();
    vocabulary.append_bytes(id, &mut bytes);
    LikelyToken { id, text: String::from_utf8_lossy(&bytes).into_owned(), bytes, logprob }
}
