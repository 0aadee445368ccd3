//! Reads forward through bytes that may say anything.

use crate::error::LoadError;

/// A place in a header.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    fn ends(&self, wanted: u64) -> LoadError {
        LoadError::Corrupted(format!(
            "the file ends inside its header: {wanted} bytes are due at byte {}, {} are left",
            self.at,
            self.left()
        ))
    }

    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], LoadError> {
        let taken = usize::try_from(len)
            .ok()
            .and_then(|len| self.at.checked_add(len))
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| self.ends(len))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let (array, _) = self
            .bytes
            .get(self.at..)
            .and_then(<[u8]>::split_first_chunk)
            .ok_or_else(|| self.ends(N as u64))?;
        self.at += N;
        Ok(*array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, LoadError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, LoadError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, LoadError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, LoadError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each, which the bytes left can hold.
    pub(super) fn count(&mut self, what: &str, least: usize) -> Result<usize, LoadError> {
        let count = self.u64()?;
        let possible = self.left() / least;
        usize::try_from(count).ok().filter(|count| *count <= possible).ok_or_else(|| {
            LoadError::Corrupted(format!(
                "the header claims {count} {what} at byte {}, the {} bytes left hold at most {possible}",
                self.at - 8,
                self.left()
            ))
        })
    }

    /// A text behind its length.
    pub(super) fn text(&mut self) -> Result<&'a str, LoadError> {
        let len = self.u64()?;
        let start = self.at;
        std::str::from_utf8(self.take(len)?)
            .map_err(|error| LoadError::Corrupted(format!("the text at byte {start} is no UTF-8: {error}")))
    }

    /// Goes past a text without looking at it.
    pub(super) fn skip_text(&mut self) -> Result<(), LoadError> {
        let len = self.u64()?;
        self.take(len).map(drop)
    }
}
