//! A file as a slice of memory. The only room of the worker with unsafe code besides the kernels.
//!
//! A mapping is the file, not a copy: whoever writes into the file while it is mapped changes the bytes under the reader,
//! and whoever shortens it makes the next touch of a missing page end the process by SIGBUS. Nothing here can prevent
//! that. The length is checked at open, so that a file which was cut off before is an error; a file in use must be replaced
//! by renaming another one over it, as the hive does, and never be written in place. Numbers taken from the header are
//! kept, and bytes read again are checked again, so that changed bytes give wrong values or errors but no access outside
//! the mapping.

#![expect(
    unsafe_code,
    reason = "mapping a file, and giving its pages back, are promises that the compiler cannot check"
)]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

use crate::error::LoadError;

/// The smallest unit that pages come in; larger pages are multiples of it.
const PAGE_BYTES: usize = 4096;

/// A file, mapped read-only.
#[derive(Debug)]
pub(super) struct Mapping(Mmap);

impl Mapping {
    /// Maps a whole file.
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            LoadError::Failed(format!("cannot {what} {}: {error}", path.display()))
        };
        let file = File::open(path).map_err(|error| failed("open", &error))?;
        let metadata = file.metadata().map_err(|error| failed("stat", &error))?;
        if !metadata.is_file() {
            return Err(failed("load", &"it is no regular file"));
        }
        if metadata.len() == 0 {
            return Err(LoadError::Corrupted(format!("{} is empty", path.display())));
        }
        // SAFETY: the mapping is read-only and private to this process, and no Rust object lives in it. What is left is a
        // change of the file from outside; the module's documentation says what follows from one.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| failed("map", &error))?;
        Ok(Self(map))
    }

    /// Lets go of the memory of the pages that lie wholly inside a range. They come back from the file when touched again.
    pub(super) fn release(&self, range: Range<usize>) {
        let start = range.start.next_multiple_of(PAGE_BYTES);
        let end = range.end.min(self.0.len()) / PAGE_BYTES * PAGE_BYTES;
        if start >= end {
            return;
        }
        // SAFETY: the pages of a mapping that nobody can write are equal to the file's, so dropping them changes no byte.
        let dropped = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        if let Err(error) = dropped {
            // Only memory is lost by this: a system with larger pages, or without the call.
            tracing::debug!(%error, "pages of the model file stay in memory");
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_come_back_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..5 * PAGE_BYTES + 7).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        for range in [0..bytes.len(), 1..bytes.len() + 9, 10..20, 4000..8193, PAGE_BYTES..PAGE_BYTES] {
            mapping.release(range);
            assert!(*mapping == *bytes);
        }
    }

    #[test]
    fn what_is_no_file_or_empty_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Mapping::open(folder.path()).is_err());
        assert!(Mapping::open(&folder.path().join("nothing")).is_err());
        let empty = folder.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(matches!(Mapping::open(&empty), Err(LoadError::Corrupted(_))));
    }
}
