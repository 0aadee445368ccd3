//! tokenizer.json, read by the tokenizers crate.
//!
//! The crate trusts such files: on some broken ones it panics. They come with models, so a panic is caught here and
//! becomes the error that it should have been.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::error::LoadError;

/// Twice the largest that is known, which has 262,144 tokens.
const BYTES_MAX: u64 = 64 << 20;

/// Reads a tokenizer.json.
pub fn read_file(path: &Path) -> Result<Tokenizer, LoadError> {
    read(&bytes(path)?).map_err(|error| wrong(path, &error))
}

/// Reads what a tokenizer.json says of splitting and merging, without its special tokens and all that is done around a
/// text.
pub fn read_bare(path: &Path) -> Result<Tokenizer, LoadError> {
    let mut document: Value = serde_json::from_slice(&bytes(path)?).map_err(|error| wrong(path, &error))?;
    let Some(parts) = document.as_object_mut() else {
        return Err(wrong(path, &"a JSON object is due"));
    };
    parts.insert("added_tokens".to_owned(), json!([]));
    for part in ["post_processor", "truncation", "padding"] {
        parts.insert(part.to_owned(), Value::Null);
    }
    let bare = serde_json::to_vec(&document).map_err(|error| wrong(path, &error))?;
    read(&bare).map_err(|error| wrong(path, &error))
}

/// Reads the text of a tokenizer.json.
pub fn read(json: &[u8]) -> Result<Tokenizer, LoadError> {
    match catch_unwind(AssertUnwindSafe(|| Tokenizer::from_bytes(json))) {
        Ok(read) => read.map_err(|error| LoadError::Corrupted(error.to_string())),
        Err(_) => Err(LoadError::Corrupted("the tokenizer's parts contradict each other".to_owned())),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, LoadError> {
    let bytes = std::fs::metadata(path).map_err(|error| wrong(path, &error))?.len();
    if bytes > BYTES_MAX {
        return Err(wrong(path, &format!("a tokenizer of {bytes} bytes, the limit is {BYTES_MAX}")));
    }
    std::fs::read(path).map_err(|error| wrong(path, &error))
}

fn wrong(path: &Path, what: &dyn std::fmt::Display) -> LoadError {
    LoadError::Corrupted(format!("{}: {what}", path.display()))
}
