//! A GGUF file as the loader wants it: typed metadata, and tensors whose place in the file was checked first.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{Content, Value};

use crate::error::LoadError;

/// Bytes read from the disk at once; tensors are read whole, so this only serves the header.
const READ_BUFFER_BYTES: usize = 1 << 20;

/// An open model file whose header has been read.
pub struct ModelFile {
    reader: BufReader<File>,
    content: Content,
}

impl ModelFile {
    /// Reads the header and checks that every tensor lies inside the file.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let file = File::open(path)
            .map_err(|error| LoadError::Failed(format!("cannot open {}: {error}", path.display())))?;
        let file_bytes = file
            .metadata()
            .map_err(|error| LoadError::Failed(format!("cannot stat {}: {error}", path.display())))?
            .len();
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, file);
        let corrupted = |what: &str| LoadError::Corrupted(format!("{}: {what}", path.display()));
        // The reader divides by an alignment that the file names, and panics where that is 0.
        let content = std::panic::catch_unwind(AssertUnwindSafe(|| Content::read(&mut reader)))
            .map_err(|_| corrupted("the header's numbers are impossible"))?
            .map_err(|error| corrupted(&plain(&error)))?;
        let model = Self { reader, content };
        model.check_extents(path, file_bytes)?;
        Ok(model)
    }

    fn check_extents(&self, path: &Path, file_bytes: u64) -> Result<(), LoadError> {
        for (name, info) in &self.content.tensor_infos {
            let end = tensor_bytes(info)
                .and_then(|bytes| bytes.checked_add(info.offset))
                .and_then(|end| end.checked_add(self.content.tensor_data_offset));
            match end {
                Some(end) if end <= file_bytes => {}
                Some(end) => {
                    return Err(LoadError::Corrupted(format!(
                        "{} is truncated: tensor {name} ends at byte {end}, the file has {file_bytes}",
                        path.display()
                    )));
                }
                None => {
                    return Err(LoadError::Corrupted(format!(
                        "{}: tensor {name} has the impossible shape {:?}",
                        path.display(),
                        info.shape.dims()
                    )));
                }
            }
        }
        Ok(())
    }

    /// The metadata as read.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata::of(&self.content.metadata)
    }

    /// Bytes of all tensors together.
    pub fn weight_bytes(&self) -> u64 {
        self.content.tensor_infos.values().filter_map(tensor_bytes).sum()
    }

    /// Whether the file holds a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// Reads one tensor, whose dimensions (outermost first) must be exactly these.
    pub fn tensor(&mut self, name: &str, dims: &[usize], device: &Device) -> Result<Arc<QTensor>, LoadError> {
        let info = self
            .content
            .tensor_infos
            .get(name)
            .ok_or_else(|| LoadError::Corrupted(format!("the file lacks the tensor {name}")))?;
        if info.shape.dims() != dims {
            return Err(LoadError::Corrupted(format!(
                "tensor {name} has shape {:?}, the header's numbers ask for {dims:?}",
                info.shape.dims()
            )));
        }
        let tensor = info
            .read(&mut self.reader, self.content.tensor_data_offset, device)
            .map_err(|error| LoadError::Failed(format!("tensor {name}: {}", plain(&error))))?;
        Ok(Arc::new(tensor))
    }
}

/// A tensor's bytes in the file, or `None` if its shape overflows or does not fit its format's blocks.
fn tensor_bytes(info: &candle_core::quantized::gguf_file::TensorInfo) -> Option<u64> {
    let row = *info.shape.dims().last()?;
    if !row.is_multiple_of(info.ggml_dtype.block_size()) {
        return None;
    }
    let elements = info.shape.dims().iter().try_fold(1usize, |product, dim| product.checked_mul(*dim))?;
    (elements / info.ggml_dtype.block_size())
        .checked_mul(info.ggml_dtype.type_size())
        .map(|bytes| bytes as u64)
}

/// The error's first line: candle appends a backtrace, which is for no reader of ours.
fn plain(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Typed access to a file's key-value pairs.
#[derive(Clone, Copy)]
pub struct Metadata<'a>(&'a HashMap<String, Value>);

impl<'a> Metadata<'a> {
    /// Key-value pairs that need not come from a file.
    pub fn of(pairs: &'a HashMap<String, Value>) -> Self {
        Self(pairs)
    }

    fn wrong(key: &str, value: &Value, wanted: &str) -> LoadError {
        LoadError::Corrupted(format!("metadata {key} is {:?} where {wanted} is due", value.value_type()))
    }

    fn required<T>(key: &str, value: Option<T>) -> Result<T, LoadError> {
        value.ok_or_else(|| LoadError::Corrupted(format!("the header lacks {key}")))
    }

    /// A whole number that is not negative.
    pub fn count(self, key: &str) -> Result<Option<usize>, LoadError> {
        self.0
            .get(key)
            .map(|value| as_count(value).ok_or_else(|| Self::wrong(key, value, "a count")))
            .transpose()
    }

    /// A count that must be there.
    pub fn required_count(self, key: &str) -> Result<usize, LoadError> {
        Self::required(key, self.count(key)?)
    }

    /// A count that the format allows to differ by layer; such files are refused.
    pub fn uniform_count(self, key: &str) -> Result<Option<usize>, LoadError> {
        let Some(Value::Array(items)) = self.0.get(key) else { return self.count(key) };
        let mut counts = items.iter().map(as_count);
        let first = counts.next().flatten();
        if first.is_none() || counts.any(|count| count != first) {
            return Err(LoadError::Unsupported(format!("{key} differs from layer to layer")));
        }
        Ok(first)
    }

    /// A number with a fraction.
    pub fn float(self, key: &str) -> Result<Option<f32>, LoadError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::F32(number)) => Ok(Some(*number)),
            Some(Value::F64(number)) => Ok(Some(*number as f32)),
            Some(other) => Err(Self::wrong(key, other, "a number")),
        }
    }

    /// A number that must be there.
    pub fn required_float(self, key: &str) -> Result<f32, LoadError> {
        Self::required(key, self.float(key)?)
    }

    /// A yes or no.
    pub fn flag(self, key: &str) -> Result<Option<bool>, LoadError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(Self::wrong(key, other, "a boolean")),
        }
    }

    /// A text.
    pub fn text(self, key: &str) -> Result<Option<&'a str>, LoadError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Self::wrong(key, other, "a text")),
        }
    }

    /// A text that must be there.
    pub fn required_text(self, key: &str) -> Result<&'a str, LoadError> {
        Self::required(key, self.text(key)?)
    }

    /// A list, each item read by `read`.
    pub fn list<T>(
        self,
        key: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, LoadError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| read(item).ok_or_else(|| Self::wrong(key, item, "another type")))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(other) => Err(Self::wrong(key, other, "a list")),
        }
    }

    /// A list of texts.
    pub fn texts(self, key: &str) -> Result<Option<Vec<&'a str>>, LoadError> {
        self.list(key, |item| match item {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A list of numbers with fractions.
    pub fn floats(self, key: &str) -> Result<Option<Vec<f32>>, LoadError> {
        self.list(key, |item| match item {
            Value::F32(number) => Some(*number),
            _ => None,
        })
    }

    /// A list of whole numbers.
    pub fn counts(self, key: &str) -> Result<Option<Vec<usize>>, LoadError> {
        self.list(key, as_count)
    }
}

fn as_count(value: &Value) -> Option<usize> {
    match value {
        Value::U8(number) => Some(*number as usize),
        Value::U16(number) => Some(*number as usize),
        Value::U32(number) => Some(*number as usize),
        Value::U64(number) => usize::try_from(*number).ok(),
        Value::I8(number) => usize::try_from(*number).ok(),
        Value::I16(number) => usize::try_from(*number).ok(),
        Value::I32(number) => usize::try_from(*number).ok(),
        Value::I64(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}
