//! A GGUF file as the loader wants it: typed metadata, and tensors whose place in the file was checked first.

mod header;
mod metadata;

use std::ops::Range;
use std::path::Path;

pub use header::Header;
pub use metadata::{Item, Metadata};

use crate::error::LoadError;
use crate::file::mmap::Mapping;
use crate::file::{StoredTensor, expect_dims, in_file, known_formats};

/// An open model file whose header has been read.
#[derive(Debug)]
pub struct ModelFile {
    mapping: Mapping,
    header: Header,
}

impl ModelFile {
    /// Maps the file, reads the header and checks that every tensor lies inside the file.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let mapping = Mapping::open(path)?;
        let header = Header::read(&mapping).map_err(|error| in_file(path, error))?;
        let file = Self { mapping, header };
        file.refuse_part().map_err(|error| in_file(path, error))?;
        Ok(file)
    }

    fn refuse_part(&self) -> Result<(), LoadError> {
        let number = |key| self.metadata().count(key);
        match number("split.count")? {
            Some(count) if count > 1 => Err(LoadError::Unsupported(format!(
                "the file is part {} of {count} of a model; merge the parts into one file with `llama-gguf-split \
                 --merge FIRST_PART OUTPUT` and load that",
                number("split.no")?.unwrap_or(0).saturating_add(1)
            ))),
            _ => Ok(()),
        }
    }

    /// The metadata as the file has it.
    pub fn metadata(&self) -> Metadata<'_> {
        self.header.metadata(&self.mapping)
    }

    /// Bytes of all tensors together.
    pub fn weight_bytes(&self) -> u64 {
        self.header.tensors().map(|(_, entry)| entry.range().len() as u64).sum()
    }

    /// Whether the file holds a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.header.tensor(name).is_some()
    }

    /// One tensor, whose dimensions (outermost first) must be exactly these.
    pub fn tensor(&self, name: &str, dims: &[usize]) -> Result<StoredTensor<'_>, LoadError> {
        let entry = self
            .header
            .tensor(name)
            .ok_or_else(|| LoadError::Corrupted(format!("the file lacks the tensor {name}")))?;
        expect_dims(name, entry.dims(), dims)?;
        let format = entry.format().map_err(|stored| {
            LoadError::Unsupported(format!(
                "tensor {name} is stored as {stored}; this build reads {}",
                known_formats()
            ))
        })?;
        Ok(StoredTensor { format, dims: dims.to_vec(), bytes: &self.mapping[entry.range()] })
    }

    /// Says that a tensor's bytes have been copied elsewhere: the memory that holds them may go.
    pub fn release(&self, name: &str) {
        let range: Option<Range<usize>> = self.header.tensor(name).map(header::Entry::range);
        self.mapping.release(range.unwrap_or_default());
    }
}

#[cfg(test)]
pub(crate) mod tests;
