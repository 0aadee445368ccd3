//! Byte-level BPE from what a GGUF header holds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use foldhash::fast::RandomState;
use tokenizers::Tokenizer;

use crate::error::LoadError;
use crate::file::gguf::Metadata;
use crate::text::tokenizer::json;
use crate::text::tokenizer::merge::{Join, Merger};
use crate::text::tokenizer::words::{Words, has_whole_words};
use crate::text::vocabulary::{TokenKind, Vocabulary, byte_alphabet};

/// A byte-level BPE tokenizer without special tokens.
#[derive(Debug)]
pub(super) enum BytePairs {
    /// Of a family whose way of cutting words is known.
    Known(Merges),
    /// By a tokenizer.json beside the model file.
    Json(Box<Tokenizer>),
}

/// The merges of one model.
#[derive(Debug)]
pub(super) struct Merges {
    words: Words,
    /// The token of each byte, where there is one.
    bytes: Vec<Option<u32>>,
    /// For two tokens side by side: their place in the order of merges, and what they become.
    pairs: HashMap<(u32, u32), (u32, u32), RandomState>,
    /// Words that are tokens whatever the merges say, by their bytes.
    whole: HashMap<Box<[u8]>, u32, RandomState>,
}

thread_local! {
    /// A word is short, so the room for its symbols is kept between words.
    static MERGER: RefCell<Merger> = RefCell::default();
}

impl BytePairs {
    pub(super) fn read(
        metadata: Metadata<'_>,
        vocabulary: &Vocabulary,
        model_path: &Path,
    ) -> Result<Self, LoadError> {
        let name = metadata.text("tokenizer.ggml.pre")?.unwrap_or("(none)");
        if let Some(words) = Words::named(name)? {
            return Merges::read(metadata, vocabulary, words, has_whole_words(name)).map(Self::Known);
        }
        let beside = model_path.with_file_name("tokenizer.json");
        if beside.is_file() {
            return read_json(&beside, vocabulary).map(|tokenizer| Self::Json(Box::new(tokenizer)));
        }
        Err(LoadError::Unsupported(format!(
            "pre-tokenizer '{name}' is unknown; known are {}, and any with a tokenizer.json beside the model file",
            Words::known()
        )))
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        match self {
            Self::Known(merges) => {
                MERGER.with_borrow_mut(|merger| {
                    merges.words.each(text, &mut |word| merges.encode_word(word.as_bytes(), merger, ids));
                });
            }
            Self::Json(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).map_err(|error| error.to_string())?;
                ids.extend_from_slice(encoding.get_ids());
            }
        }
        Ok(())
    }
}

impl Merges {
    fn read(
        metadata: Metadata<'_>,
        vocabulary: &Vocabulary,
        words: Words,
        whole_words: bool,
    ) -> Result<Self, LoadError> {
        let merges = metadata
            .texts("tokenizer.ggml.merges")?
            .ok_or_else(|| LoadError::Corrupted("the header lacks tokenizer.ggml.merges".to_owned()))?;
        let mut pairs = HashMap::with_capacity_and_hasher(merges.len(), RandomState::default());
        for (rank, merge) in merges.into_iter().enumerate() {
            let (pair, token) = read_merge(merge, vocabulary)?;
            pairs.entry(pair).or_insert((rank as u32, token));
        }
        let mut sign_bytes = [0; 4];
        let bytes = byte_alphabet().map(|sign| vocabulary.id(sign.encode_utf8(&mut sign_bytes)));
        let mut whole = HashMap::default();
        for (id, _, _) in vocabulary.iter().filter(|(_, _, kind)| whole_words && *kind == TokenKind::Normal) {
            let mut bytes = Vec::new();
            vocabulary.append_bytes(id, &mut bytes);
            whole.insert(bytes.into_boxed_slice(), id);
        }
        Ok(Self { words, bytes: bytes.to_vec(), pairs, whole })
    }

    fn encode_word(&self, word: &[u8], merger: &mut Merger, ids: &mut Vec<u32>) {
        if let Some(id) = self.whole.get(word) {
            return ids.push(*id);
        }
        merger.clear();
        for byte in word {
            merger.push(1, self.bytes[usize::from(*byte)]);
        }
        merger.merge(|left, right| {
            let (rank, token) = *self.pairs.get(&(left.token()?, right.token()?))?;
            Some(Join { rank, token })
        });
        // Only a vocabulary that lacks single bytes leaves a symbol without a token; llama.cpp skips it too.
        ids.extend(merger.symbols().filter_map(super::merge::Symbol::token));
    }
}

fn read_merge(merge: &str, vocabulary: &Vocabulary) -> Result<((u32, u32), u32), LoadError> {
    let wrong = |what: &str| LoadError::Corrupted(format!("tokenizer.ggml.merges: merge '{merge}' {what}"));
    // GPT-2's spelling of bytes has no space, so the first one stands between the parts.
    let (left, right) = merge.split_once(' ').ok_or_else(|| wrong("has no two parts"))?;
    let id =
        |text: &str| vocabulary.id(text).ok_or_else(|| wrong(&format!("needs '{text}', which is no token")));
    Ok(((id(left)?, id(right)?), id(&[left, right].concat())?))
}

/// Takes normalisation, splitting and merging from a tokenizer.json; special tokens stay our own affair.
fn read_json(path: &Path, vocabulary: &Vocabulary) -> Result<Tokenizer, LoadError> {
    let tokenizer = json::read_bare(path)?;
    for (id, text, kind) in vocabulary.iter() {
        if kind == TokenKind::Normal && tokenizer.token_to_id(text) != Some(id) {
            return Err(LoadError::Corrupted(format!(
                "{}: token {id} is '{text}' in the model file and not here",
                path.display()
            )));
        }
    }
    Ok(tokenizer)
}
