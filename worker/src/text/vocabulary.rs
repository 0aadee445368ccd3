//! A model's tokens: their texts and kinds, which of them end an answer, and the bytes that each stands for.

mod infill;

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::LoadError;
use crate::file::gguf::Metadata;
use crate::text::tokenizer::has_whole_words;

pub use infill::InfillMarks;
use infill::SEPARATOR_KEYS;

/// What a token is for, as GGUF numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for what no token covers.
    Unknown,
    /// Steers the model and has no text of its own.
    Control,
    /// Text that is one token wherever it appears.
    UserDefined,
    /// Never used.
    Unused,
    /// One byte.
    Byte,
}

/// How token texts spell bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// GPT-2's: each byte is one printable character.
    ByteLevel,
    /// SentencePiece's: plain text with ▁ for a space, and `<0x0A>` for single bytes.
    SentencePiece,
}

/// The tokens of one model.
#[derive(Debug)]
pub struct Vocabulary {
    spelling: Spelling,
    tokens: Vec<Arc<str>>,
    kinds: Vec<TokenKind>,
    scores: Vec<f32>,
    ids: HashMap<Arc<str>, u32>,
    ends: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    infill: Option<InfillMarks>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    unescape: HashMap<char, u8>,
    /// SentencePiece's tokens for single bytes.
    bytes: Vec<Option<u32>>,
}

/// Tokens that end an answer whatever the header says of them. Files name only one of them as theirs, and templates of
/// chat models end turns with another; the list is llama.cpp's.
const END_TEXTS: [&str; 23] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "▁<EOT>",
    "< EOT >",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|fim_pad|>",
    "<fim_pad>",
    "<|repo_name|>",
    "<|fim_repo|>",
    "<reponame>",
    "<|file_sep|>",
    "<fim-pad>",
    "</s>",
];

impl Vocabulary {
    /// Reads the tokens from a header.
    pub fn read(metadata: Metadata<'_>) -> Result<Self, LoadError> {
        let spelling = match metadata.required_text("tokenizer.ggml.model")? {
            "gpt2" => Spelling::ByteLevel,
            "llama" => Spelling::SentencePiece,
            other => {
                return Err(LoadError::Unsupported(format!(
                    "tokenizer model '{other}'; gpt2 and llama are known"
                )));
            }
        };
        let tokens: Vec<Arc<str>> = metadata
            .texts("tokenizer.ggml.tokens")?
            .ok_or_else(|| LoadError::Corrupted("the header lacks tokenizer.ggml.tokens".to_owned()))?
            .into_iter()
            .map(Arc::from)
            .collect();
        let kinds = match metadata.counts("tokenizer.ggml.token_type")? {
            Some(kinds) => kinds.into_iter().map(kind_of).collect::<Result<Vec<_>, _>>()?,
            None => vec![TokenKind::Normal; tokens.len()],
        };
        let scores = metadata.floats("tokenizer.ggml.scores")?.unwrap_or_else(|| vec![0.0; tokens.len()]);
        if tokens.is_empty() || kinds.len() != tokens.len() || scores.len() != tokens.len() {
            return Err(LoadError::Corrupted(format!(
                "the header has {} tokens, {} token types and {} scores",
                tokens.len(),
                kinds.len(),
                scores.len()
            )));
        }
        let count = tokens.len();
        let id = |key: &str| Self::token_id(metadata, key, count);
        let sentence_piece = spelling == Spelling::SentencePiece;
        // Llama 3's files leave the flag out and mean yes.
        let llama3 = metadata.text("tokenizer.ggml.pre")?.is_some_and(has_whole_words);
        let flag = |key: &str, default: bool| Ok::<bool, LoadError>(metadata.flag(key)?.unwrap_or(default));
        let mut vocabulary = Self {
            spelling,
            ids: tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect(),
            ends: [
                "tokenizer.ggml.eos_token_id",
                "tokenizer.ggml.eot_token_id",
                "tokenizer.ggml.eom_token_id",
            ]
            .iter()
            .filter_map(|key| id(key).transpose())
            .collect::<Result<_, _>>()?,
            infill: None,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            unknown: id("tokenizer.ggml.unknown_token_id")?,
            add_bos: flag("tokenizer.ggml.add_bos_token", sentence_piece || llama3)?,
            add_eos: flag("tokenizer.ggml.add_eos_token", false)?,
            add_space_prefix: flag("tokenizer.ggml.add_space_prefix", sentence_piece)?,
            unescape: byte_alphabet()
                .into_iter()
                .enumerate()
                .map(|(byte, sign)| (sign, byte as u8))
                .collect(),
            bytes: Vec::new(),
            tokens,
            kinds,
            scores,
        };
        vocabulary.bytes = (0..=u8::MAX).map(|byte| vocabulary.id(&format!("<0x{byte:02X}>"))).collect();
        vocabulary.infill = InfillMarks::find(id, |text| vocabulary.id(text))?;
        let separators = SEPARATOR_KEYS.iter().filter_map(|key| id(key).transpose());
        vocabulary.mark_ends(&separators.collect::<Result<Vec<_>, _>>()?);
        Ok(vocabulary)
    }

    fn token_id(metadata: Metadata<'_>, key: &str, count: usize) -> Result<Option<u32>, LoadError> {
        match metadata.count(key)? {
            Some(id) if id >= count => {
                Err(LoadError::Corrupted(format!("{key} is {id}, the vocabulary has {count} tokens")))
            }
            id => Ok(id.map(|id| id as u32)),
        }
    }

    fn mark_ends(&mut self, separators: &[u32]) {
        let spelt = END_TEXTS.iter().filter_map(|text| self.id(text));
        // A mark of a gap in an answer is where another text would begin.
        let marks = self.infill.iter().flat_map(|marks| [marks.prefix, marks.suffix, marks.middle]);
        for id in spelt.chain(marks).chain(separators.iter().copied()).collect::<Vec<_>>() {
            self.ends.push(id);
            // Some files call these normal text, which would let a caller's text end turns.
            self.kinds[id as usize] = TokenKind::Control;
        }
        self.ends.sort_unstable();
        self.ends.dedup();
    }

    /// Number of tokens.
    pub fn size(&self) -> usize {
        self.tokens.len()
    }

    /// How token texts spell bytes.
    pub fn spelling(&self) -> Spelling {
        self.spelling
    }

    /// A token's text as the file spells it.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(AsRef::as_ref)
    }

    /// The token of exactly this text.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// What a token is for.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// How much a SentencePiece token is preferred.
    pub fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// The token for what no token covers.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// SentencePiece's token for a single byte.
    pub fn byte(&self, byte: u8) -> Option<u32> {
        self.bytes.get(usize::from(byte)).copied().flatten()
    }

    /// Bytes of the longest stretch of a text that one token can stand for.
    pub fn longest_token_bytes(&self) -> usize {
        let covered = |(_, text, kind): (u32, &str, TokenKind)| match (kind, self.spelling) {
            (TokenKind::Normal, Spelling::ByteLevel) => text.chars().count(),
            (TokenKind::Normal, Spelling::SentencePiece) => text.replace('▁', " ").len(),
            _ => text.len(),
        };
        self.iter().map(covered).max().unwrap_or(1).max(1)
    }

    /// The token that prompts begin with, if they do.
    pub fn leading(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }

    /// The token that prompts end with, if they do.
    pub fn trailing(&self) -> Option<u32> {
        self.eos.filter(|_| self.add_eos)
    }

    /// Whether text after a special token begins with a space of its own.
    pub fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// The texts that templates know as `bos_token` and `eos_token`.
    pub fn template_tokens(&self) -> (&str, &str) {
        let text = |id: Option<u32>| id.and_then(|id| self.text(id)).unwrap_or_default();
        (text(self.bos), text(self.eos))
    }

    /// All tokens with their texts and kinds.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, TokenKind)> {
        self.tokens
            .iter()
            .zip(&self.kinds)
            .enumerate()
            .map(|(id, (text, kind))| (id as u32, text.as_ref(), *kind))
    }

    /// The tokens that a model ends its answer with, in their order.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether the model ends its answer with this token.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// The marks of a text with a gap, if the model knows any.
    pub fn infill(&self) -> Option<InfillMarks> {
        self.infill
    }

    /// The text of tokens; what is no code point shows as U+FFFD.
    pub fn spell(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        for token in tokens {
            self.append_bytes(*token, &mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Appends a token's text as the file spells it: what a control token is known by.
    pub fn append_spelling(&self, id: u32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.text(id).unwrap_or_default().as_bytes());
    }

    /// Appends the bytes that a generated token stands for; control tokens stand for none.
    pub fn append_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        let (Some(text), Some(kind)) = (self.text(id), self.kind(id)) else { return };
        match (kind, self.spelling) {
            (TokenKind::Control | TokenKind::Unknown, _) => {}
            (TokenKind::UserDefined, _) => bytes.extend_from_slice(text.as_bytes()),
            (TokenKind::Byte, Spelling::SentencePiece) => {
                let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                bytes.extend(digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()));
            }
            (_, Spelling::SentencePiece) => bytes.extend_from_slice(text.replace('▁', " ").as_bytes()),
            (_, Spelling::ByteLevel) => {
                for sign in text.chars() {
                    match self.unescape.get(&sign) {
                        Some(byte) => bytes.push(*byte),
                        None => bytes.extend_from_slice(sign.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
impl Vocabulary {
    /// A vocabulary of these texts, spelled as GPT-2 does.
    pub fn of_texts(texts: &[(&str, TokenKind)]) -> Self {
        let tokens: Vec<Arc<str>> = texts.iter().map(|(text, _)| Arc::from(*text)).collect();
        let unescape = byte_alphabet().into_iter().enumerate().map(|(byte, sign)| (sign, byte as u8));
        Self {
            spelling: Spelling::ByteLevel,
            ids: tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect(),
            kinds: texts.iter().map(|(_, kind)| *kind).collect(),
            scores: vec![0.0; tokens.len()],
            tokens,
            ends: Vec::new(),
            bos: None,
            eos: None,
            unknown: None,
            infill: None,
            add_bos: false,
            add_eos: false,
            add_space_prefix: false,
            unescape: unescape.collect(),
            bytes: Vec::new(),
        }
    }

    /// A vocabulary of all bytes, so that the ids of its first tokens are bytes, and of further tokens.
    pub fn of_bytes(further: &[(&str, TokenKind)]) -> Self {
        let alphabet: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
        let bytes = alphabet.iter().map(|sign| (sign.as_str(), TokenKind::Normal));
        Self::of_texts(&bytes.chain(further.iter().copied()).collect::<Vec<_>>())
    }
}

fn kind_of(number: usize) -> Result<TokenKind, LoadError> {
    Ok(match number {
        1 => TokenKind::Normal,
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        other => return Err(LoadError::Corrupted(format!("token type {other} is none of 1 to 6"))),
    })
}

/// GPT-2's printable character for each byte: itself where it is printable, else one from U+0100 on.
pub fn byte_alphabet() -> [char; 256] {
    let mut alphabet = ['\0'; 256];
    let mut next = 256;
    for (byte, sign) in alphabet.iter_mut().enumerate() {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { byte as u32 } else { next };
        next += u32::from(!printable);
        *sign = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    }
    alphabet
}
