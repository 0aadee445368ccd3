//! Text to token ids, equal to llama.cpp's.
//!
//! Special tokens are cut out first; what lies between them goes through the model's own algorithm: byte-level BPE, or
//! SentencePiece's merging by score.

mod bpe;
pub mod json;
mod merge;
mod sentencepiece;
mod words;

use std::path::Path;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use crate::error::LoadError;
use crate::file::gguf::Metadata;
use crate::text::vocabulary::{InfillMarks, Spelling, TokenKind, Vocabulary};
use bpe::BytePairs;

pub use words::has_whole_words;

/// Whether texts that spell control tokens become those tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlTokens {
    /// They do: the text is a rendered template or a prompt made for the model.
    Parse,
    /// They stay text.
    Plain,
}

/// Whether the tokens that a model's prompts begin and end with are put around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Ends {
    Added,
    LeftOut,
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
    algorithm: Algorithm,
    special: SpecialTokens,
    longest_token_bytes: usize,
}

#[derive(Debug)]
enum Algorithm {
    BytePairs(Box<BytePairs>),
    SentencePiece,
}

/// A stretch of the input: a token already, or text yet to be encoded.
enum Piece<'a> {
    Token(u32),
    Text(&'a str),
}

impl Tokenizer {
    /// Builds the tokenizer that a header describes. Where the header names a pre-tokenizer that we do not know, a
    /// tokenizer.json beside the model file takes its place, if it is of the same vocabulary.
    pub fn read(
        metadata: Metadata<'_>,
        vocabulary: Arc<Vocabulary>,
        model_path: &Path,
    ) -> Result<Self, LoadError> {
        let algorithm = match vocabulary.spelling() {
            Spelling::SentencePiece => Algorithm::SentencePiece,
            Spelling::ByteLevel => {
                Algorithm::BytePairs(Box::new(BytePairs::read(metadata, &vocabulary, model_path)?))
            }
        };
        let special = SpecialTokens::new(&vocabulary)?;
        let longest_token_bytes = vocabulary.longest_token_bytes();
        Ok(Self { vocabulary, algorithm, special, longest_token_bytes })
    }

    /// The fewest tokens that a text of so many bytes can make, which is known without encoding it.
    pub fn least_tokens(&self, bytes: usize) -> usize {
        bytes / self.longest_token_bytes
    }

    /// The tokens of a text, without the token that prompts begin with.
    pub fn encode(&self, text: &str, control: ControlTokens) -> Result<Vec<u32>, String> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_pieces(text, control, true, &mut ids)?;
        Ok(ids)
    }

    fn encode_pieces(
        &self,
        text: &str,
        control: ControlTokens,
        mut after_special: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), String> {
        for piece in self.special.partition(text, control) {
            match piece {
                Piece::Token(id) => ids.push(id),
                Piece::Text(text) => self.encode_text(text, after_special, ids)?,
            }
            after_special = matches!(piece, Piece::Token(_));
        }
        Ok(())
    }

    /// The tokens of a whole prompt, in which control tokens are understood. A first token that the text already
    /// spells is not doubled.
    pub fn encode_prompt(&self, text: &str, ends: Ends) -> Result<Vec<u32>, String> {
        let mut ids = self.encode(text, ControlTokens::Parse)?;
        if ends == Ends::LeftOut {
            return Ok(ids);
        }
        if let Some(leading) = self.vocabulary.leading()
            && ids.first() != Some(&leading)
        {
            ids.insert(0, leading);
        }
        ids.extend(self.vocabulary.trailing());
        Ok(ids)
    }

    /// The tokens of a text with a gap: what stands before it as tokens, then what stands after it. Nothing in that is
    /// taken for a mark.
    pub fn encode_gap(
        &self,
        marks: InfillMarks,
        before: &[u32],
        after: &str,
        ends: Ends,
    ) -> Result<Vec<u32>, String> {
        let leading = self.vocabulary.leading().filter(|_| ends == Ends::Added);
        let mut ids: Vec<u32> = leading.into_iter().chain([marks.prefix]).collect();
        ids.extend_from_slice(before);
        ids.push(marks.suffix);
        // It goes on in the middle of a text, so no space is put before it.
        self.encode_pieces(after, ControlTokens::Plain, false, &mut ids)?;
        ids.push(marks.middle);
        Ok(ids)
    }

    /// The text that makes these tokens: control tokens go by their names, and the spaces that were put before texts are
    /// gone. What is no code point shows as U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let has_prefixes =
            matches!(self.algorithm, Algorithm::SentencePiece) && self.vocabulary.adds_space_prefix();
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        let mut after_special = true;
        for token in tokens {
            let start = bytes.len();
            let is_special = match self.vocabulary.kind(*token) {
                Some(TokenKind::Control | TokenKind::Unknown) => {
                    self.vocabulary.append_spelling(*token, &mut bytes);
                    true
                }
                kind => {
                    self.vocabulary.append_bytes(*token, &mut bytes);
                    kind == Some(TokenKind::UserDefined)
                }
            };
            if has_prefixes && after_special && !is_special && bytes.get(start) == Some(&b' ') {
                bytes.remove(start);
            }
            after_special = is_special;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn encode_text(&self, text: &str, after_special: bool, ids: &mut Vec<u32>) -> Result<(), String> {
        match &self.algorithm {
            Algorithm::BytePairs(pairs) => pairs.encode(text, ids),
            Algorithm::SentencePiece => {
                let prefix = if after_special && self.vocabulary.adds_space_prefix() { "▁" } else { "" };
                let escaped = format!("{prefix}{}", text.replace(' ', "▁"));
                sentencepiece::encode(&self.vocabulary, &escaped, ids);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
impl Tokenizer {
    /// A tokenizer that finds special tokens and leaves all else to SentencePiece's way.
    pub fn of_bytes(vocabulary: Arc<Vocabulary>) -> Self {
        let special = SpecialTokens::new(&vocabulary).unwrap();
        let longest_token_bytes = vocabulary.longest_token_bytes();
        Self { vocabulary, algorithm: Algorithm::SentencePiece, special, longest_token_bytes }
    }
}

/// Bytes of a special token at most: marks and runs of spaces are far shorter. Each place in one may be the end of all
/// shorter ones, of which the matcher keeps a list.
const SPECIAL_BYTES_MAX: usize = 256;

/// The tokens that are looked for in a text before it is encoded.
#[derive(Debug)]
struct SpecialTokens {
    matcher: AhoCorasick,
    /// In the matcher's order: longest first.
    tokens: Vec<(u32, Arc<str>, TokenKind)>,
}

impl SpecialTokens {
    fn new(vocabulary: &Vocabulary) -> Result<Self, LoadError> {
        let mut tokens: Vec<(u32, Arc<str>, TokenKind)> = vocabulary
            .iter()
            .filter(|(_, text, kind)| {
                let special =
                    matches!(kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown);
                special && !text.is_empty()
            })
            .map(|(id, text, kind)| (id, Arc::from(text), kind))
            .collect();
        tokens.sort_by_key(|(_, text, _)| std::cmp::Reverse(text.len()));
        if let Some((id, text, _)) = tokens.first().filter(|(_, text, _)| text.len() > SPECIAL_BYTES_MAX) {
            return Err(LoadError::Corrupted(format!(
                "special token {id} has {} bytes, {SPECIAL_BYTES_MAX} are allowed",
                text.len()
            )));
        }
        // The fastest kind takes a kilobyte for each byte of the texts, which a hostile file can make long.
        let matcher = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(tokens.iter().map(|(_, text, _)| text.as_bytes()))
            .map_err(|error| LoadError::Failed(format!("special tokens: {error}")))?;
        Ok(Self { matcher, tokens })
    }

    /// Cuts a text at special tokens: the longest token takes all its places first, then the next.
    fn partition<'a>(&self, text: &'a str, control: ControlTokens) -> Vec<Piece<'a>> {
        let mut pieces = if text.is_empty() { Vec::new() } else { vec![Piece::Text(text)] };
        for (id, special) in self.present(text, control) {
            let mut cut = Vec::with_capacity(pieces.len());
            for piece in pieces {
                match piece {
                    Piece::Token(_) => cut.push(piece),
                    Piece::Text(text) => split_at(text, id, special, &mut cut),
                }
            }
            pieces = cut;
        }
        pieces
    }

    /// The special tokens that the text contains at all, longest first.
    fn present(&self, text: &str, control: ControlTokens) -> Vec<(u32, &str)> {
        let mut is_present = vec![false; self.tokens.len()];
        for hit in self.matcher.find_overlapping_iter(text) {
            is_present[hit.pattern().as_usize()] = true;
        }
        let found = self.tokens.iter().zip(is_present).filter(|(_, is_present)| *is_present);
        found
            .map(|(token, _)| token)
            .filter(|(_, _, kind)| control == ControlTokens::Parse || *kind == TokenKind::UserDefined)
            .map(|(id, text, _)| (*id, text.as_ref()))
            .collect()
    }
}

fn split_at<'a>(text: &'a str, id: u32, special: &str, pieces: &mut Vec<Piece<'a>>) {
    for (index, between) in text.split(special).enumerate() {
        if index > 0 {
            pieces.push(Piece::Token(id));
        }
        if !between.is_empty() {
            pieces.push(Piece::Text(between));
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::gguf_file::Value;

    use super::*;
    use crate::file::gguf::Header;
    use crate::file::gguf::tests::with_pairs;
    use crate::text::vocabulary::byte_alphabet;

    fn texts(texts: &[&str]) -> Value {
        Value::Array(texts.iter().map(|text| Value::String((*text).to_owned())).collect())
    }

    fn read(pairs: &[(&str, Value)]) -> Result<Tokenizer, LoadError> {
        let keys: Vec<String> = pairs.iter().map(|(key, _)| format!("tokenizer.ggml.{key}")).collect();
        let pairs: Vec<(&str, Value)> =
            keys.iter().zip(pairs).map(|(key, (_, value))| (key.as_str(), value.clone())).collect();
        let file = with_pairs(&pairs);
        let header = Header::read(&file)?;
        let metadata = header.metadata(&file);
        Tokenizer::read(metadata, Arc::new(Vocabulary::read(metadata)?), Path::new("/nonexistent/model.gguf"))
    }

    /// All bytes, two merges, a control token (258), one that it begins with (259), and a user's token (260).
    fn byte_level(pre: &str) -> Result<Tokenizer, LoadError> {
        let alphabet: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
        let mut tokens: Vec<&str> = alphabet.iter().map(String::as_str).collect();
        tokens.extend(["12", "Ġa", "<|x|>", "<|", "::"]);
        let mut kinds = vec![Value::I32(1); 258];
        kinds.extend([3, 3, 4].map(Value::I32));
        read(&[
            ("model", Value::String("gpt2".to_owned())),
            ("pre", Value::String(pre.to_owned())),
            ("tokens", texts(&tokens)),
            ("token_type", Value::Array(kinds)),
            ("merges", texts(&["1 2", "Ġ a"])),
        ])
    }

    #[test]
    fn a_special_token_without_measure_is_refused() {
        let long = "x".repeat(SPECIAL_BYTES_MAX + 1);
        let alphabet: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
        let mut tokens: Vec<&str> = alphabet.iter().map(String::as_str).collect();
        tokens.extend(["12", &long]);
        let mut kinds = vec![Value::I32(1); 257];
        kinds.push(Value::I32(3));
        let error = read(&[
            ("model", Value::String("gpt2".to_owned())),
            ("pre", Value::String("smollm".to_owned())),
            ("tokens", texts(&tokens)),
            ("token_type", Value::Array(kinds)),
            ("merges", texts(&["1 2"])),
        ])
        .unwrap_err();
        assert!(error.to_string().contains("257 bytes, 256 are allowed"), "{error}");
    }

    #[test]
    fn control_tokens_are_parsed_only_where_asked_and_the_longest_first() {
        let tokenizer = byte_level("smollm").unwrap();
        assert_eq!(tokenizer.encode("<|x|>b<|", ControlTokens::Parse).unwrap(), [258, 98, 259]);
        let plain = tokenizer.encode("<|x|>::", ControlTokens::Plain).unwrap();
        assert_eq!(plain, [60, 124, 120, 124, 62, 260]);
        assert_eq!(tokenizer.decode(&[258, 98, 259, 260, 257]), "<|x|>b<|:: a");
    }

    #[test]
    fn digits_stand_alone_for_smollm_and_not_for_gpt2() {
        assert_eq!(
            byte_level("smollm").unwrap().encode("12 a", ControlTokens::Plain).unwrap(),
            [49, 50, 257]
        );
        assert_eq!(byte_level("gpt-2").unwrap().encode("12 a", ControlTokens::Plain).unwrap(), [256, 257]);
    }

    #[test]
    fn an_unknown_pre_tokenizer_is_named() {
        let error = byte_level("klingon").unwrap_err();
        assert!(
            matches!(&error, LoadError::Unsupported(message) if message.contains("'klingon'")),
            "{error}"
        );
    }

    #[test]
    fn sentencepiece_merges_by_score_and_spells_the_rest_in_bytes() {
        let tokens = ["<unk>", "<s>", "▁", "a", "b", "ab", "▁ab", "ba", "<0xC3>", "<0xA9>"];
        let kinds = [2, 3, 1, 1, 1, 1, 1, 1, 6, 6].map(Value::I32);
        let scores = [0.0, 0.0, -9.0, -9.0, -9.0, -1.0, -2.0, -0.5, 0.0, 0.0].map(Value::F32);
        let tokenizer = read(&[
            ("model", Value::String("llama".to_owned())),
            ("tokens", texts(&tokens)),
            ("token_type", Value::Array(kinds.to_vec())),
            ("scores", Value::Array(scores.to_vec())),
            ("bos_token_id", Value::U32(1)),
        ])
        .unwrap();
        // A space goes before, "ba" is preferred to "ab", é has no token.
        assert_eq!(tokenizer.encode("abab", ControlTokens::Plain).unwrap(), [2, 3, 7, 4]);
        assert_eq!(tokenizer.encode("abé", ControlTokens::Plain).unwrap(), [6, 8, 9]);
        assert_eq!(tokenizer.encode_prompt("ab", Ends::Added).unwrap(), [1, 6]);
        assert_eq!(tokenizer.encode_prompt("<s>ab", Ends::Added).unwrap(), [1, 6]);
        assert_eq!(tokenizer.encode_prompt("ab", Ends::LeftOut).unwrap(), [6]);
        let marks = InfillMarks { prefix: 3, suffix: 4, middle: 5 };
        let before = tokenizer.encode("ab", ControlTokens::Plain).unwrap();
        let gap = |ends| tokenizer.encode_gap(marks, &before, "ab", ends).unwrap();
        // What stands after the gap gets no space of its own.
        assert_eq!(gap(Ends::LeftOut), [3, 6, 4, 5, 5]);
        assert_eq!(gap(Ends::Added)[..2], [1, 3]);
        // The space that encoding put there is none of the text's.
        for text in ["abab", "abé", "ab ba", " ab", "<s>ab<s> a"] {
            let tokens = tokenizer.encode_prompt(text, Ends::LeftOut).unwrap();
            assert_eq!(tokenizer.decode(&tokens), text, "{tokens:?}");
        }
        assert_eq!(tokenizer.decode(&[6, 8]), "ab\u{fffd}");
    }
}
