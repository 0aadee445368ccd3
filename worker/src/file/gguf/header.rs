//! The header of a GGUF file, versions 2 and 3, little endian: key-value pairs, then the tensors' names and places.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ops::Range;

use kernels::Format;

use super::metadata::{Metadata, Place};
use crate::error::LoadError;
use crate::file::cursor::Cursor;
use crate::file::tensor_bytes;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSIONS: [u32; 2] = [2, 3];
/// Bytes of the shortest header: magic, version and the two counts.
const LEAST_BYTES: usize = 24;
/// An empty key, its type and a value of one byte.
const LEAST_PAIR_BYTES: usize = 13;
/// An empty name, one dimension, type and offset.
const LEAST_TENSOR_BYTES: usize = 32;
/// Far above any model: the largest have some hundred keys and some thousand tensors.
const PAIRS_MAX: usize = 1 << 16;
const TENSORS_MAX: usize = 1 << 18;
/// The format's own bound on keys; names of tensors are shorter still.
const NAME_BYTES_MAX: usize = 65_535;
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: usize = 32;
/// The format asks for a multiple of 8; beyond a large page, alignment serves nobody.
const ALIGNMENTS: std::ops::RangeInclusive<usize> = 8..=1 << 21;

/// What a header says, checked against the file's bytes. Values stay in the file; only their places are kept.
#[derive(Debug)]
pub struct Header {
    pairs: HashMap<String, Place>,
    tensors: HashMap<String, Entry>,
}

/// A tensor's place.
#[derive(Debug)]
pub struct Entry {
    /// GGUF's number of the format, which need not be one of ours.
    ggml: u32,
    dims: Vec<usize>,
    /// Empty where the format is unknown, and with it the length.
    range: Range<usize>,
}

impl Entry {
    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Where the bytes lie in the file.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The format, or else the name of what it is.
    pub fn format(&self) -> Result<Format, String> {
        Format::from_ggml(self.ggml).ok_or_else(|| match foreign_format(self.ggml) {
            Some(name) => format!("{name} (type {})", self.ggml),
            None => format!("type {}", self.ggml),
        })
    }
}

impl Header {
    /// Reads the header at the beginning of a file's bytes, all of which must be there.
    pub fn read(bytes: &[u8]) -> Result<Self, LoadError> {
        let mut cursor = Cursor::new(bytes, 0);
        check_kind(&mut cursor)?;
        let tensor_count = cursor.count("tensors", LEAST_TENSOR_BYTES)?;
        let pair_count = cursor.count("key-value pairs", LEAST_PAIR_BYTES)?;
        for (count, most, what) in
            [(tensor_count, TENSORS_MAX, "tensors"), (pair_count, PAIRS_MAX, "key-value pairs")]
        {
            if count > most {
                return Err(LoadError::Unsupported(format!(
                    "the header has {count} {what}, the limit is {most}"
                )));
            }
        }
        let mut header = Self { pairs: HashMap::new(), tensors: HashMap::new() };
        for _ in 0..pair_count {
            header.read_pair(&mut cursor)?;
        }
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(TensorInfo::read(&mut cursor)?);
        }
        let alignment = header.alignment(bytes)?;
        let data = cursor.at().next_multiple_of(alignment);
        for info in infos {
            let entry = info.place(data, alignment, bytes.len())?;
            if header.tensors.insert(info.name.to_owned(), entry).is_some() {
                return Err(LoadError::Corrupted(format!("the header has the tensor {} twice", info.name)));
            }
        }
        Ok(header)
    }

    /// The pairs, given the bytes that the header was read from.
    pub fn metadata<'a>(&'a self, bytes: &'a [u8]) -> Metadata<'a> {
        Metadata::new(&self.pairs, bytes)
    }

    /// One tensor's place.
    pub fn tensor(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name)
    }

    /// All tensors, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    fn read_pair(&mut self, cursor: &mut Cursor<'_>) -> Result<(), LoadError> {
        let key = name(cursor, "key")?;
        let place = Place::read(cursor, key)?;
        match self.pairs.entry(key.to_owned()) {
            Slot::Occupied(_) => Err(LoadError::Corrupted(format!("the header has the key {key} twice"))),
            Slot::Vacant(slot) => {
                slot.insert(place);
                Ok(())
            }
        }
    }

    fn alignment(&self, bytes: &[u8]) -> Result<usize, LoadError> {
        let alignment = self.metadata(bytes).count(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
        if alignment.is_power_of_two() && ALIGNMENTS.contains(&alignment) {
            return Ok(alignment);
        }
        Err(LoadError::Corrupted(format!(
            "{ALIGNMENT_KEY} is {alignment}; it must be a power of two from {} to {}",
            ALIGNMENTS.start(),
            ALIGNMENTS.end()
        )))
    }
}

/// Refuses what is no GGUF file of a version and byte order that is read here.
fn check_kind(cursor: &mut Cursor<'_>) -> Result<(), LoadError> {
    if cursor.left() < LEAST_BYTES {
        return Err(LoadError::Corrupted(format!(
            "{} bytes are no GGUF file, whose header alone has {LEAST_BYTES}",
            cursor.left()
        )));
    }
    let magic = cursor.take(MAGIC.len() as u64)?;
    if magic != MAGIC {
        return Err(LoadError::Corrupted(format!(
            "no GGUF file: it begins with '{}' where 'GGUF' is due",
            magic.escape_ascii()
        )));
    }
    match cursor.u32()? {
        version if VERSIONS.contains(&version) => Ok(()),
        version if VERSIONS.contains(&version.swap_bytes()) => Err(LoadError::Unsupported(
            "a big-endian GGUF file; convert it to little endian with gguf-py's gguf_convert_endian.py"
                .to_owned(),
        )),
        version => Err(LoadError::Unsupported(format!(
            "GGUF version {version}; versions 2 and 3 are read. Convert the model anew"
        ))),
    }
}

/// A key or a tensor's name.
fn name<'a>(cursor: &mut Cursor<'a>, what: &str) -> Result<&'a str, LoadError> {
    let at = cursor.at();
    let name = cursor.text()?;
    if name.len() > NAME_BYTES_MAX {
        return Err(LoadError::Corrupted(format!(
            "the {what} at byte {at} has {} bytes, at most {NAME_BYTES_MAX} are allowed",
            name.len()
        )));
    }
    Ok(name)
}

/// What the header says of one tensor.
struct TensorInfo<'a> {
    name: &'a str,
    dims: Vec<usize>,
    ggml: u32,
    offset: u64,
}

impl<'a> TensorInfo<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, LoadError> {
        let name = name(cursor, "tensor name")?;
        let count = cursor.u32()?;
        if !(1..=DIMENSIONS_MAX).contains(&count) {
            return Err(LoadError::Corrupted(format!(
                "tensor {name} has {count} dimensions; 1 to {DIMENSIONS_MAX} are possible"
            )));
        }
        let mut dims = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let dim = cursor.u64()?;
            dims.push(usize::try_from(dim).unwrap_or(usize::MAX));
        }
        // The file has the innermost first.
        dims.reverse();
        Ok(Self { name, dims, ggml: cursor.u32()?, offset: cursor.u64()? })
    }

    /// The tensor's place in a file of `file_bytes` whose tensors begin at `data`.
    fn place(&self, data: usize, alignment: usize, file_bytes: usize) -> Result<Entry, LoadError> {
        let Self { name, dims, ggml, offset } = self;
        let impossible = || {
            LoadError::Corrupted(format!(
                "tensor {name} has the impossible shape {dims:?} or offset {offset}"
            ))
        };
        let bytes = match Format::from_ggml(*ggml) {
            Some(format) => tensor_bytes(format, dims).ok_or_else(impossible)?,
            None => 0,
        };
        if !offset.is_multiple_of(alignment as u64) {
            return Err(LoadError::Corrupted(format!(
                "tensor {name} begins at offset {offset}, which is no multiple of the alignment {alignment}"
            )));
        }
        let start = usize::try_from(*offset)
            .ok()
            .and_then(|offset| data.checked_add(offset))
            .ok_or_else(impossible)?;
        let end = start.checked_add(bytes).ok_or_else(impossible)?;
        if end > file_bytes {
            return Err(LoadError::Corrupted(format!(
                "the file is truncated: tensor {name} ends at byte {end}, the file has {file_bytes}"
            )));
        }
        Ok(Entry { ggml: *ggml, dims: dims.clone(), range: start..end })
    }
}

/// Names of ggml's formats that are not read here.
fn foreign_format(ggml: u32) -> Option<&'static str> {
    Some(match ggml {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return None,
    })
}
