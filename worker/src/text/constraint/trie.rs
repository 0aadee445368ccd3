//! A model's vocabulary as the trie that masks are computed with.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
};

use crate::text::vocabulary::{TokenKind, Vocabulary};

/// States of one answer's lexer at most; each takes one or two kilobytes.
const LEXER_STATES_MAX: usize = 30_000;

/// The tokens of one model, ready for any grammar.
pub struct Tokens {
    /// Makes parsers over these tokens.
    pub factory: ParserFactory,
}

impl Tokens {
    /// Sorts the vocabulary into a trie, and into smaller ones of the tokens that are usual inside JSON strings.
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, String> {
        let words: Vec<Vec<u8>> =
            vocabulary.iter().map(|(id, text, kind)| word(vocabulary, id, text, kind)).collect();
        let ends = vocabulary.ends();
        let first_end = ends.first().copied().unwrap_or(INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first_end), &words);
        if ends.len() > 1 {
            trie = trie.with_eos_tokens(ends);
        }
        // Tokens are not forced: the model spells the text of a grammar as it would without one.
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| format!("the vocabulary makes no trie: {error:#}"))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_lexer_states: LEXER_STATES_MAX,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory })
    }
}

/// The bytes by which grammars know a token. Control tokens have no text: grammars name them, as `<|name|>`, behind a
/// byte that is in no text.
fn word(vocabulary: &Vocabulary, id: u32, text: &str, kind: TokenKind) -> Vec<u8> {
    let mut bytes = Vec::new();
    match kind {
        TokenKind::Unused | TokenKind::Unknown => {}
        TokenKind::Control => {
            bytes.push(TokTrie::SPECIAL_TOKEN_MARKER);
            bytes.extend_from_slice(text.as_bytes());
        }
        TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte => {
            vocabulary.append_bytes(id, &mut bytes);
            // No text holds this byte, and the trie takes it for a control token's mark.
            if bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) {
                bytes.clear();
            }
        }
    }
    bytes
}
