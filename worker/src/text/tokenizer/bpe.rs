//! Byte-level BPE, computed by the tokenizers crate from what a GGUF header holds.

use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use crate::error::LoadError;
use crate::file::gguf::Metadata;
use crate::text::vocabulary::{TokenKind, Vocabulary};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The regular expressions that cut a text into words, applied one after the other, by llama.cpp's names.
const PRE_TOKENIZERS: [(&str, &[&str]); 9] = [
    ("default", &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
    ("gpt-2", &[GPT2]),
    ("phi-2", &[GPT2]),
    ("smollm", &[r"\p{N}", GPT2]),
    ("llama-bpe", &[LLAMA3]),
    ("llama3", &[LLAMA3]),
    ("llama-v3", &[LLAMA3]),
    ("qwen2", &[QWEN2]),
    ("deepseek-r1-qwen", &[QWEN2]),
];

/// A byte-level BPE tokenizer without special tokens.
#[derive(Debug)]
pub(super) struct BytePairs(Tokenizer);

impl BytePairs {
    pub(super) fn read(
        metadata: Metadata<'_>,
        vocabulary: &Vocabulary,
        model_path: &Path,
    ) -> Result<Self, LoadError> {
        let name = metadata.text("tokenizer.ggml.pre")?.unwrap_or("(none)");
        if let Some((_, patterns)) = PRE_TOKENIZERS.iter().find(|(known, _)| *known == name) {
            // Llama 3's vocabulary holds words that its merges do not lead to.
            let whole_words = name.starts_with("llama");
            return Self::from_header(metadata, vocabulary, patterns, whole_words);
        }
        let beside = model_path.with_file_name("tokenizer.json");
        if beside.is_file() {
            return Self::from_json(&beside, vocabulary);
        }
        let known: Vec<&str> = PRE_TOKENIZERS.iter().map(|(known, _)| *known).collect();
        Err(LoadError::Unsupported(format!(
            "pre-tokenizer '{name}' is unknown; known are {}, and any with a tokenizer.json beside the model file",
            known.join(", ")
        )))
    }

    fn from_header(
        metadata: Metadata<'_>,
        vocabulary: &Vocabulary,
        patterns: &[&str],
        whole_words: bool,
    ) -> Result<Self, LoadError> {
        let merges = metadata
            .texts("tokenizer.ggml.merges")?
            .ok_or_else(|| LoadError::Corrupted("the header lacks tokenizer.ggml.merges".to_owned()))?
            .into_iter()
            .map(|merge| {
                // A part may itself begin with a space only in broken files; GPT-2's spelling has none.
                let parts =
                    merge.split_once(' ').ok_or_else(|| format!("merge '{merge}' has no two parts"))?;
                Ok((parts.0.to_owned(), parts.1.to_owned()))
            })
            .collect::<Result<Vec<_>, String>>()
            .map_err(LoadError::Corrupted)?;
        let model = BPE::builder()
            .vocab_and_merges::<tokenizers::models::bpe::Vocab>(
                vocabulary.iter().map(|(id, text, _)| (text.to_owned(), id)).collect(),
                merges,
            )
            .ignore_merges(whole_words)
            .build()
            .map_err(|error| LoadError::Corrupted(format!("tokenizer.ggml.merges: {error}")))?;
        let mut steps = patterns
            .iter()
            .map(|pattern| {
                let pattern = SplitPattern::Regex((*pattern).to_owned());
                Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map(PreTokenizerWrapper::from)
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| LoadError::Failed(format!("pre-tokenizer: {error}")))?;
        steps.push(ByteLevel::new(false, false, false).into());
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
        Ok(Self(tokenizer))
    }

    /// Takes normalisation, splitting and merging from a tokenizer.json; special tokens stay our own affair.
    fn from_json(path: &Path, vocabulary: &Vocabulary) -> Result<Self, LoadError> {
        let wrong = |what: String| LoadError::Corrupted(format!("{}: {what}", path.display()));
        let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let mut json: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        for (key, empty) in [
            ("added_tokens", serde_json::json!([])),
            ("post_processor", serde_json::Value::Null),
            ("truncation", serde_json::Value::Null),
            ("padding", serde_json::Value::Null),
        ] {
            json[key] = empty;
        }
        let tokenizer: Tokenizer = serde_json::from_value(json).map_err(|error| wrong(error.to_string()))?;
        for (id, text, kind) in vocabulary.iter() {
            if kind == TokenKind::Normal && tokenizer.token_to_id(text) != Some(id) {
                return Err(wrong(format!("token {id} is '{text}' in the model file and not here")));
            }
        }
        Ok(Self(tokenizer))
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let encoding = self.0.encode_fast(text, false).map_err(|error| error.to_string())?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}
