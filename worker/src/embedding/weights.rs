//! The tensors of a model's folder: model.safetensors, or the shards that its index names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kernels::float::{FloatMatrix, Operands};
use kernels::{Pool, Source, dequantize};
use serde::Deserialize;

use super::architecture::Family;
use crate::error::LoadError;
use crate::file::{SafetensorsFile, StoredTensor};

/// Shards of one model at most.
const SHARDS_MAX: usize = 256;

/// The tensors of one model.
pub struct Weights {
    files: Vec<SafetensorsFile>,
    prefix: &'static str,
    on_read: Box<dyn FnMut(u64)>,
}

/// A norm's numbers.
#[derive(Debug)]
pub struct Norm {
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

/// How matrices are packed.
#[derive(Debug, Clone, Copy)]
pub struct Packing<'a> {
    pub pool: &'a Pool,
    pub operands: Operands,
}

impl Weights {
    /// Opens a folder's files and finds out what stands before all names. `on_read` is told the bytes of each tensor read.
    pub fn open(folder: &Path, family: Family, on_read: Box<dyn FnMut(u64)>) -> Result<Self, LoadError> {
        let names = shard_names(folder)?;
        let files: Vec<SafetensorsFile> =
            names.iter().map(|name| SafetensorsFile::open(&folder.join(name))).collect::<Result<_, _>>()?;
        let words = format!("{}.weight", family.tables().words);
        let has = |prefix: &&str| files.iter().any(|file| file.has(&format!("{prefix}{words}")));
        let prefix = Family::PREFIXES.into_iter().find(has).ok_or_else(|| {
            LoadError::Corrupted(format!("the model's files lack the tensor {words}, with any known prefix"))
        })?;
        Ok(Self { files, prefix, on_read })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(SafetensorsFile::weight_bytes).sum()
    }

    /// Reads a table of so many rows of numbers.
    pub fn table(&mut self, name: &str, rows: usize, width: usize) -> Result<Vec<f32>, LoadError> {
        let name = format!("{}{name}.weight", self.prefix);
        self.numbers(&name, &[rows, width])
    }

    /// Reads a norm, which may lack a bias. Old files call its numbers gamma and beta.
    pub fn norm(&mut self, name: &str, width: usize) -> Result<Norm, LoadError> {
        let name = format!("{}{name}", self.prefix);
        let ending = |new: &str, old: &str| {
            let old = format!("{name}.{old}");
            if self.file_of(&old).is_some() { old } else { format!("{name}.{new}") }
        };
        let (weight, bias) = (ending("weight", "gamma"), ending("bias", "beta"));
        Ok(Norm { weight: self.numbers(&weight, &[width])?, bias: self.optional(&bias, &[width])? })
    }

    /// Reads a norm if there is one.
    pub fn optional_norm(&mut self, name: &str, width: usize) -> Result<Option<Norm>, LoadError> {
        let weight = format!("{}{name}.weight", self.prefix);
        if self.file_of(&weight).is_none() { Ok(None) } else { self.norm(name, width).map(Some) }
    }

    /// Packs matrices of `inputs` columns, stacked, each of so many outputs, with their biases if they have any.
    pub fn matrix(
        &mut self,
        packing: Packing<'_>,
        names: &[String],
        inputs: usize,
        outputs: usize,
    ) -> Result<FloatMatrix, LoadError> {
        let each = outputs / names.len();
        let full: Vec<String> = names.iter().map(|name| format!("{}{name}", self.prefix)).collect();
        let mut bias = Vec::new();
        for name in &full {
            bias.extend(self.optional(&format!("{name}.bias"), &[each])?.unwrap_or_default());
        }
        if !bias.is_empty() && bias.len() != outputs {
            return Err(LoadError::Corrupted(format!(
                "some of {} have a bias and some have none",
                full.join(", ")
            )));
        }
        let weights: Vec<String> = full.iter().map(|name| format!("{name}.weight")).collect();
        let stored: Vec<StoredTensor<'_>> =
            weights.iter().map(|name| self.stored(name, &[each, inputs])).collect::<Result<_, _>>()?;
        let sources: Vec<Source<'_>> = stored
            .iter()
            .map(|tensor| Source { format: tensor.format, outputs: each, bytes: tensor.bytes })
            .collect();
        let bias = (!bias.is_empty()).then_some(bias.as_slice());
        let matrix = FloatMatrix::pack(packing.pool, inputs, &sources, bias, packing.operands)
            .map_err(|error| LoadError::Corrupted(format!("{}: {error}", full.join(", "))))?;
        let bytes: Vec<usize> = stored.iter().map(|tensor| tensor.bytes.len()).collect();
        weights.iter().zip(bytes).for_each(|(name, bytes)| self.done(name, bytes));
        Ok(matrix)
    }

    /// The same for a tensor outside the encoder, whose name is whole.
    pub fn head_matrix(
        &mut self,
        packing: Packing<'_>,
        name: &str,
        inputs: usize,
        outputs: Option<usize>,
    ) -> Result<FloatMatrix, LoadError> {
        let weight = format!("{name}.weight");
        let outputs = outputs.or_else(|| {
            self.file_of(&weight).and_then(|file| file.dims(&weight)).and_then(|dims| dims.first().copied())
        });
        let prefix = std::mem::take(&mut self.prefix);
        let matrix = self.matrix(packing, &[name.to_owned()], inputs, outputs.unwrap_or(1));
        self.prefix = prefix;
        matrix
    }

    /// The same for a norm outside the encoder.
    pub fn head_norm(&mut self, name: &str, width: usize) -> Result<Norm, LoadError> {
        let prefix = std::mem::take(&mut self.prefix);
        let norm = self.norm(name, width);
        self.prefix = prefix;
        norm
    }

    /// What stands before the names of the encoder's tensors.
    pub fn prefix(&self) -> &'static str {
        self.prefix
    }

    fn optional(&mut self, name: &str, dims: &[usize]) -> Result<Option<Vec<f32>>, LoadError> {
        if self.file_of(name).is_none() { Ok(None) } else { self.numbers(name, dims).map(Some) }
    }

    fn numbers(&mut self, name: &str, dims: &[usize]) -> Result<Vec<f32>, LoadError> {
        let tensor = self.stored(name, dims)?;
        let mut numbers = vec![0.0; dims.iter().product()];
        dequantize(tensor.format, tensor.bytes, &mut numbers);
        let bytes = tensor.bytes.len();
        self.done(name, bytes);
        Ok(numbers)
    }

    fn stored(&self, name: &str, dims: &[usize]) -> Result<StoredTensor<'_>, LoadError> {
        let file = self.file_of(name);
        let lacking = || LoadError::Corrupted(format!("the model's files lack the tensor {name}"));
        file.ok_or_else(lacking)?.tensor(name, dims)
    }

    fn file_of(&self, name: &str) -> Option<&SafetensorsFile> {
        self.files.iter().find(|file| file.has(name))
    }

    /// A tensor has been copied elsewhere.
    fn done(&mut self, name: &str, bytes: usize) {
        if let Some(file) = self.file_of(name) {
            file.release(name);
        }
        (self.on_read)(bytes as u64);
    }
}

/// The files that hold the tensors, below the folder.
fn shard_names(folder: &Path) -> Result<Vec<String>, LoadError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.is_file() {
        return Ok(vec!["model.safetensors".to_owned()]);
    }
    let index: Index = super::model::read_json(&index)?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    let is_plain = |name: &String| Path::new(name).file_name().is_some_and(|file| file == name.as_str());
    if names.is_empty() || names.len() > SHARDS_MAX || !names.iter().all(is_plain) {
        return Err(LoadError::Corrupted(format!(
            "model.safetensors.index.json names {} files; 1 to {SHARDS_MAX} beside it are possible",
            names.len()
        )));
    }
    Ok(names.into_iter().collect())
}
