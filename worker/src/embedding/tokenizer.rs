//! Texts to tokens, by the model's own tokenizer.json.

use std::path::Path;

use protocol::{ApiError, ErrorCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::{Encoding, PostProcessor, TruncationDirection};

use super::encoder::Tokens;
use super::model::{read_json, read_optional_json};
use crate::error::LoadError;
use crate::text::tokenizer::{Ends, json};

/// What becomes of a text that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// It is refused.
    Refuse,
    /// Its end is left out.
    Cut,
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    lowercases: bool,
    /// What the model wants before every text.
    prompt: String,
    vocabulary: usize,
    limit: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Prompts {
    prompts: Map<String, Value>,
    default_prompt_name: Option<String>,
}

impl Tokenizer {
    /// Reads the folder's tokenizer for an encoder of so many words and tokens of context.
    pub fn read(folder: &Path, vocabulary: usize, context: usize) -> Result<Self, LoadError> {
        let path = folder.join("tokenizer.json");
        let mut inner = json::read_file(&path)?;
        // Batches here are ragged, and what is too long is cut here.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| LoadError::Corrupted(format!("{}: {error}", path.display())))?;
        let words = inner.get_vocab_size(true);
        if words > vocabulary {
            return Err(LoadError::Corrupted(format!(
                "tokenizer.json has {words} tokens, the model has vectors for {vocabulary}"
            )));
        }
        let sentence: SentenceConfig = read_optional_json(&folder.join("sentence_bert_config.json"))?;
        let general: Map<String, Value> = read_optional_json(&folder.join("tokenizer_config.json"))?;
        // Where nothing limits the length, files have a number beyond all integers.
        let general = general.get("model_max_length").and_then(Value::as_u64).map(|length| length as usize);
        let limit = sentence.max_seq_length.or(general).unwrap_or(context).min(context);
        let this =
            Self { inner, lowercases: sentence.do_lower_case, prompt: prompt(folder)?, vocabulary, limit };
        if limit <= this.added(true) {
            return Err(LoadError::Corrupted(format!(
                "the model takes {limit} tokens at most, none of them of a text"
            )));
        }
        Ok(this)
    }

    /// Tokens that a text may have, special ones included.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The same texts under a lower limit, if this is lower and leaves room for any.
    pub fn limited(self, limit: Option<usize>) -> Self {
        let least = self.added(true) + 2;
        let limit = limit.map_or(self.limit, |limit| limit.clamp(least.min(self.limit), self.limit));
        Self { limit, ..self }
    }

    /// How many tokens the model has.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The tokens of a text, however many they are.
    pub fn encode_whole(&self, text: &str, ends: Ends) -> Result<Vec<u32>, ApiError> {
        let encoding = self.raw(&format!("{}{text}", self.prompt))?;
        let encoding = self.inner.post_process(encoding, None, ends == Ends::Added);
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| failed(&error))
    }

    /// The text of tokens, special ones by their names. What encoding has changed, such as the case of letters, stays so.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ApiError> {
        self.inner.decode(tokens, false).map_err(|error| {
            tracing::error!(%error, "the tokenizer failed");
            ApiError::new(ErrorCode::Internal, "The tokenizer could not decode these tokens.")
        })
    }

    /// A token as the vocabulary spells it; empty for one that the model has a vector and no spelling for.
    pub fn spelling(&self, token: u32) -> String {
        self.inner.id_to_token(token).unwrap_or_default()
    }

    /// The tokens of a text; `param` names it in errors.
    pub fn encode(&self, text: &str, too_long: TooLong, param: &str) -> Result<Tokens, ApiError> {
        let mut encoding = self.raw(&format!("{}{text}", self.prompt))?;
        let room = self.limit - self.added(false);
        if encoding.len() > room {
            self.check_cut(encoding.len() + self.added(false), too_long, param)?;
            encoding.truncate(room, 0, TruncationDirection::Right);
        }
        self.finish(encoding, None, param)
    }

    /// The tokens of a pair, of whose second text `most` count. Of two that are too long together, the longer one is cut.
    pub fn encode_pair(
        &self,
        first: &str,
        second: &str,
        most: usize,
        too_long: TooLong,
        param: &str,
    ) -> Result<Tokens, ApiError> {
        let (mut first, mut second) = (self.raw(first)?, self.raw(second)?);
        second.truncate(most.min(second.len()), 0, TruncationDirection::Right);
        let room = self.limit - self.added(true);
        if first.len() + second.len() > room {
            self.check_cut(first.len() + second.len() + self.added(true), too_long, param)?;
            let shorter = first.len().min(second.len()).min(room / 2);
            let (first_len, second_len) = if first.len() <= second.len() {
                (shorter, room - shorter)
            } else {
                (room - shorter, shorter)
            };
            first.truncate(first_len, 0, TruncationDirection::Right);
            second.truncate(second_len, 0, TruncationDirection::Right);
        }
        self.finish(first, Some(second), param)
    }

    /// Checks tokens that a caller brings; they are taken as they are.
    pub fn take(&self, mut ids: Vec<u32>, too_long: TooLong, param: &str) -> Result<Tokens, ApiError> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocabulary) {
            let message =
                format!("'{param}' has the token {id}; this model's are 0 to {}.", self.vocabulary - 1);
            return Err(ApiError::invalid(param, message));
        }
        if ids.len() > self.limit {
            self.check_cut(ids.len(), too_long, param)?;
            ids.truncate(self.limit);
        }
        if ids.is_empty() {
            return Err(ApiError::invalid(param, format!("'{param}' has no tokens.")));
        }
        Ok(Tokens { ids, types: Vec::new() })
    }

    fn raw(&self, text: &str) -> Result<Encoding, ApiError> {
        let lower = if self.lowercases { Some(text.to_lowercase()) } else { None };
        self.inner.encode_fast(lower.as_deref().unwrap_or(text), false).map_err(|error| failed(&error))
    }

    fn finish(&self, first: Encoding, second: Option<Encoding>, param: &str) -> Result<Tokens, ApiError> {
        let encoding = self.inner.post_process(first, second, true).map_err(|error| failed(&error))?;
        if encoding.is_empty() {
            return Err(ApiError::invalid(param, format!("'{param}' makes no tokens.")));
        }
        let types = encoding.get_type_ids();
        let types = if types.iter().all(|kind| *kind == 0) { Vec::new() } else { types.to_vec() };
        Ok(Tokens { ids: encoding.get_ids().to_vec(), types })
    }

    /// Special tokens around a text, or around a pair.
    fn added(&self, is_pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(is_pair))
    }

    fn check_cut(&self, tokens: usize, too_long: TooLong, param: &str) -> Result<(), ApiError> {
        if too_long == TooLong::Cut {
            return Ok(());
        }
        let limit = self.limit;
        let message = format!("'{param}' has {tokens} tokens; this model reads {limit} at most.");
        Err(ApiError::new(ErrorCode::ContextLengthExceeded, message)
            .with_param(param)
            .with_detail("context_length", limit)
            .with_detail("requested_tokens", tokens)
            .with_action("Send shorter texts, or set 'truncate' to leave out what is too much."))
    }
}

fn failed(error: &tokenizers::Error) -> ApiError {
    tracing::error!(%error, "the tokenizer failed");
    ApiError::new(ErrorCode::Internal, "The tokenizer could not encode this text.")
}

/// What stands before every text unless a caller says otherwise.
fn prompt(folder: &Path) -> Result<String, LoadError> {
    let path = folder.join("config_sentence_transformers.json");
    if !path.is_file() {
        return Ok(String::new());
    }
    let config: Prompts = read_json(&path)?;
    let prompt = config.default_prompt_name.and_then(|name| config.prompts.get(&name).cloned());
    Ok(prompt.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned())
}
