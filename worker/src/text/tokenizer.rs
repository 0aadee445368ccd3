//! Text to token ids, equal to llama.cpp's.
//!
//! Special tokens are cut out first; what lies between them goes through the model's own algorithm: byte-level BPE by the
//! tokenizers crate, or SentencePiece's merging by score.

mod bpe;
mod sentencepiece;

use std::path::Path;
use std::sync::Arc;

use aho_corasick::AhoCorasick;

use crate::error::LoadError;
use crate::text::gguf::Metadata;
use crate::text::vocabulary::{Spelling, TokenKind, Vocabulary};
use bpe::BytePairs;

/// Whether texts that spell control tokens become those tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlTokens {
    /// They do: the text is a rendered template or a prompt made for the model.
    Parse,
    /// They stay text.
    Plain,
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
    algorithm: Algorithm,
    special: SpecialTokens,
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
    pub fn read(metadata: Metadata<'_>, vocabulary: Arc<Vocabulary>, model_path: &Path) -> Result<Self, LoadError> {
        let algorithm = match vocabulary.spelling() {
            Spelling::SentencePiece => Algorithm::SentencePiece,
            Spelling::ByteLevel => Algorithm::BytePairs(Box::new(BytePairs::read(metadata, &vocabulary, model_path)?)),
        };
        let special = SpecialTokens::new(&vocabulary)?;
        Ok(Self { vocabulary, algorithm, special })
    }

    /// The tokens of a text, without the token that prompts begin with.
    pub fn encode(&self, text: &str, control: ControlTokens) -> Result<Vec<u32>, String> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut after_special = true;
        for piece in self.special.partition(text, control) {
            match piece {
                Piece::Token(id) => ids.push(id),
                Piece::Text(text) => self.encode_text(text, after_special, &mut ids)?,
            }
            after_special = matches!(piece, Piece::Token(_));
        }
        Ok(ids)
    }

    /// The tokens of a whole prompt, in which control tokens are understood. A first token that the text already
    /// spells is not doubled.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = self.encode(text, ControlTokens::Parse)?;
        if let Some(leading) = self.vocabulary.leading()
            && ids.first() != Some(&leading)
        {
            ids.insert(0, leading);
        }
        ids.extend(self.vocabulary.trailing());
        Ok(ids)
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
                let special = matches!(kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown);
                special && !text.is_empty()
            })
            .map(|(id, text, kind)| (id, Arc::from(text), kind))
            .collect();
        tokens.sort_by_key(|(_, text, _)| std::cmp::Reverse(text.len()));
        let matcher = AhoCorasick::new(tokens.iter().map(|(_, text, _)| text.as_bytes()))
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
        let mut found: Vec<usize> =
            self.matcher.find_overlapping_iter(text).map(|hit| hit.pattern().as_usize()).collect();
        found.sort_unstable();
        found.dedup();
        found
            .into_iter()
            .map(|index| &self.tokens[index])
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
