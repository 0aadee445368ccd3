//! A safetensors file: a JSON header that places named tensors, and their bytes.
//!
//! The safetensors crate reads the header and sees to it that each tensor begins where the one before ends and has the
//! bytes that its shape and type ask for. Whether the file is long enough is checked here: the crate's own check adds
//! what a hostile header can make overflow.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use ::safetensors::Dtype;
use ::safetensors::tensor::Metadata;
use kernels::Format;

use crate::error::LoadError;
use crate::file::cursor::Cursor;
use crate::file::mmap::Mapping;
use crate::file::{StoredTensor, expect_dims, in_file};

/// Some hundred bytes for each of 50,000 tensors. The format allows 100 MB, which would take gigabytes to read.
const HEADER_BYTES_MAX: u64 = 8 << 20;

/// An open safetensors file.
#[derive(Debug)]
pub struct SafetensorsFile {
    mapping: Mapping,
    header: Header,
}

/// Where each tensor lies, checked against the file's bytes.
#[derive(Debug)]
pub struct Header(HashMap<String, Entry>);

#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    dims: Vec<usize>,
    range: Range<usize>,
}

impl SafetensorsFile {
    /// Maps the file, reads the header and checks that every tensor lies inside the file.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let mapping = Mapping::open(path)?;
        let header = Header::read(&mapping).map_err(|error| in_file(path, error))?;
        Ok(Self { mapping, header })
    }

    /// The tensors' names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.0.keys().map(String::as_str)
    }

    /// Whether the file holds a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.header.0.contains_key(name)
    }

    /// A tensor's dimensions, outermost first.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.header.0.get(name).map(|entry| entry.dims.as_slice())
    }

    /// Bytes of all tensors together.
    pub fn weight_bytes(&self) -> u64 {
        self.header.0.values().map(|entry| entry.range.len() as u64).sum()
    }

    /// One tensor, whose dimensions (outermost first) must be exactly these. Its bytes need not be aligned.
    pub fn tensor(&self, name: &str, dims: &[usize]) -> Result<StoredTensor<'_>, LoadError> {
        let entry = self
            .header
            .0
            .get(name)
            .ok_or_else(|| LoadError::Corrupted(format!("the file lacks the tensor {name}")))?;
        expect_dims(name, &entry.dims, dims)?;
        let format = format_of(entry.dtype).ok_or_else(|| {
            LoadError::Unsupported(format!(
                "tensor {name} is stored as {}; F32, F16 and BF16 are read",
                entry.dtype
            ))
        })?;
        Ok(StoredTensor { format, dims: dims.to_vec(), bytes: &self.mapping[entry.range.clone()] })
    }

    /// Says that a tensor's bytes have been copied elsewhere: the memory that holds them may go.
    pub fn release(&self, name: &str) {
        let range = self.header.0.get(name).map(|entry| entry.range.clone());
        self.mapping.release(range.unwrap_or_default());
    }
}

impl Header {
    /// Reads the header at the beginning of a file's bytes, all of which must be there.
    pub fn read(bytes: &[u8]) -> Result<Self, LoadError> {
        let mut cursor = Cursor::new(bytes, 0);
        let len = cursor.u64()?;
        if len > HEADER_BYTES_MAX {
            return Err(LoadError::Corrupted(format!(
                "no safetensors file, or none that is read here: a header of {len} bytes, the limit is {HEADER_BYTES_MAX}"
            )));
        }
        let json = cursor.take(len)?;
        let metadata: Metadata = serde_json::from_slice(json)
            .map_err(|error| LoadError::Corrupted(format!("safetensors header: {error}")))?;
        let mut entries = HashMap::new();
        for (name, info) in metadata.tensors() {
            let range = place(&name, info, cursor.at(), bytes.len())?;
            entries.insert(name, Entry { dtype: info.dtype, dims: info.shape.clone(), range });
        }
        Ok(Self(entries))
    }
}

/// A tensor's place in a file of `file_bytes` whose tensors begin at `data`.
fn place(
    name: &str,
    info: &::safetensors::tensor::TensorInfo,
    data: usize,
    file_bytes: usize,
) -> Result<Range<usize>, LoadError> {
    let (first, last) = info.data_offsets;
    let start = data.checked_add(first);
    let end = data.checked_add(last);
    let (Some(start), Some(end)) = (start, end.filter(|_| first <= last)) else {
        return Err(LoadError::Corrupted(format!(
            "tensor {name} has the impossible offsets {first} to {last}"
        )));
    };
    if end > file_bytes {
        return Err(LoadError::Corrupted(format!(
            "the file is truncated: tensor {name} ends at byte {end}, the file has {file_bytes}"
        )));
    }
    Ok(start..end)
}

fn format_of(dtype: Dtype) -> Option<Format> {
    match dtype {
        Dtype::F32 => Some(Format::F32),
        Dtype::F16 => Some(Format::F16),
        Dtype::BF16 => Some(Format::Bf16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(json: &str, data: usize) -> Vec<u8> {
        [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![7; data]].concat()
    }

    fn refusal(json: &str, data: usize) -> String {
        Header::read(&file(json, data)).unwrap_err().to_string()
    }

    #[test]
    fn tensors_are_the_files_own_bytes() {
        let json = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
            "b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I64","shape":[1],"data_offsets":[32,40]}}"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, file(json, 40)).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        assert_eq!((file.names().count(), file.weight_bytes()), (3, 40));
        assert_eq!((file.dims("a"), file.dims("d")), (Some(&[2, 3][..]), None));
        let stored = file.tensor("b", &[4]).unwrap();
        assert_eq!((stored.format, stored.bytes), (Format::Bf16, &[7; 8][..]));
        file.release("b");
        assert!(file.tensor("a", &[3, 2]).unwrap_err().to_string().contains("shape [2, 3]"));
        assert!(file.tensor("c", &[1]).unwrap_err().to_string().contains("I64"));
        assert!(file.tensor("d", &[1]).unwrap_err().to_string().contains("lacks"));
    }

    #[test]
    fn what_is_wrong_is_said_with_numbers() {
        let of = |shape: &str, offsets: &str| {
            refusal(&format!(r#"{{"t":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#), 64)
        };
        assert!(of("[17]", "[0,68]").contains("truncated: tensor t ends"));
        assert!(of("[16]", "[4,68]").contains("invalid offset for tensor `t`"));
        assert!(of("[15]", "[0,64]").contains("invalid shape"));
        assert!(of("[4611686018427387904,4]", "[0,64]").contains("overflow"));
        assert!(of("[16]", "[0,18446744073709551615]").contains("invalid shape"));
        assert!(of("[-1]", "[0,64]").contains("safetensors header"));
        assert!(refusal(&"[".repeat(5000), 0).contains("safetensors header"));
        assert!(Header::read(&[255; 64]).unwrap_err().to_string().contains("the limit is 8388608"));
        assert!(
            Header::read(&file("{}", 0)[..9]).unwrap_err().to_string().contains("ends inside its header")
        );
    }
}
