//! SentencePiece's encoding as llama.cpp does it: neighbours merge, the best-scored pair first, until none is a token;
//! what is no token in the end is spelt in bytes.

use crate::text::tokenizer::merge::{Join, Merger};
use crate::text::vocabulary::Vocabulary;

/// Appends the tokens of a text whose spaces are already ▁.
pub(super) fn encode(vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) {
    let mut merger = Merger::default();
    let mut sign_bytes = [0; 4];
    for sign in text.chars() {
        merger.push(sign.len_utf8(), vocabulary.id(sign.encode_utf8(&mut sign_bytes)));
    }
    merger.merge(|left, right| {
        let token = vocabulary.id(&text[left.range().start..right.range().end])?;
        Some(Join { rank: rank(vocabulary.score(token)), token })
    });
    for symbol in merger.symbols() {
        match symbol.token() {
            Some(token) => ids.push(token),
            None => spell(vocabulary, &text[symbol.range()], ids),
        }
    }
}

fn spell(vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) {
    ids.extend(text.bytes().filter_map(|byte| vocabulary.byte(byte).or(vocabulary.unknown())));
}

/// A number that is the lower the higher the score.
fn rank(score: f32) -> u32 {
    // Adding zero makes the two zeros one.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn higher_scores_rank_lower() {
        let scores = [f32::INFINITY, 3.5, 1e-30, 0.0, -1e-30, -2.0, -1e9, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
        assert_eq!(rank(0.0), rank(-0.0));
    }
}
