//! Model files, read in place: GGUF for text models, safetensors for embedding models.
//!
//! A file may come from anywhere, so nothing that it says of itself is believed: each count, length and offset is held
//! against the bytes that are there before anything is read or reserved by it. Memory never grows beyond a small multiple
//! of the header, time is linear in it, and whatever is wrong is an error with the numbers.
//!
//! What the tensors mean is not known here, nor what a family of models requires of them.

mod cursor;
pub mod gguf;
mod mmap;
pub mod safetensors;

use std::path::Path;

use kernels::Format;

use crate::error::LoadError;

pub use gguf::ModelFile;
pub use safetensors::SafetensorsFile;

/// A tensor as it lies in its file.
#[derive(Debug, Clone)]
pub struct StoredTensor<'a> {
    /// How its elements are stored.
    pub format: Format,
    /// Its dimensions, outermost first.
    pub dims: Vec<usize>,
    /// Its bytes: exactly those that the format and the dimensions ask for.
    pub bytes: &'a [u8],
}

/// Bytes of a tensor of these dimensions; none if they overflow, if one of them is 0, or if a row is no whole number of
/// the format's blocks.
fn tensor_bytes(format: Format, dims: &[usize]) -> Option<usize> {
    let row = *dims.last()?;
    let elements = dims.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim))?;
    (elements > 0 && row.is_multiple_of(format.block_len())).then(|| format.bytes(elements)).flatten()
}

/// The formats that tensors may have, for messages.
fn known_formats() -> String {
    Format::ALL.map(Format::name).join(", ")
}

fn expect_dims(name: &str, found: &[usize], wanted: &[usize]) -> Result<(), LoadError> {
    if found == wanted {
        return Ok(());
    }
    Err(LoadError::Corrupted(format!(
        "tensor {name} has shape {found:?}, the header's numbers ask for {wanted:?}"
    )))
}

/// Puts the file's name before what is wrong with it.
fn in_file(path: &Path, error: LoadError) -> LoadError {
    match error {
        LoadError::Corrupted(what) => LoadError::Corrupted(format!("{}: {what}", path.display())),
        LoadError::Unsupported(what) => LoadError::Unsupported(format!("{}: {what}", path.display())),
        other => other,
    }
}
