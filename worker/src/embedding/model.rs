//! A model's folder, loaded: encoder, tokenizer, and what is made of token vectors.

use std::cell::Cell;
use std::fmt::Debug;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use kernels::Pool;
use kernels::float::Operands;
use protocol::hive::ModelKind;
use protocol::worker::{Backend, LoadProgress, LoadStage};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::architecture::Architecture;
use super::encoder::{Encoder, Tokens};
use super::head::Head;
use super::pooling::Pooler;
use super::tokenizer::Tokenizer;
use super::weights::{Packing, Weights};
use crate::config::{ModelConfig, Precision};
use crate::error::LoadError;

/// Settings files are small; what is larger is none.
const JSON_BYTES_MAX: u64 = 64 << 20;
/// Tokens of the batch that is computed before the first request comes.
const WARM_UP_TOKENS: usize = 64;

/// The folder of an encoder model, if the path leads to one: the folder itself, or its safetensors file.
pub fn folder_of(path: &Path) -> Option<PathBuf> {
    let folder = if path.extension().is_some_and(|extension| extension == "safetensors") {
        path.parent()?.to_owned()
    } else {
        path.to_owned()
    };
    folder.join("config.json").is_file().then_some(folder)
}

/// An encoder and what is made of its vectors.
#[derive(Debug)]
pub struct VectorModel {
    encoder: Encoder,
    output: Output,
    pool: Pool,
}

#[derive(Debug)]
enum Output {
    Vectors(Pooler),
    Labels(Box<Head>),
}

/// What a request's texts are for the model, apart from its weights.
#[derive(Debug)]
pub struct Reader {
    /// Texts to tokens.
    pub tokenizer: Tokenizer,
    /// What the model is for.
    pub kind: ModelKind,
    /// Numbers of a text's vector, or of a pair's answer.
    pub width: usize,
}

/// Loads the model of a folder; `progress` is told how far it has come.
pub fn load(
    folder: &Path,
    config: &ModelConfig,
    progress: impl FnMut(LoadProgress) + 'static,
) -> Result<(VectorModel, Arc<Reader>), LoadError> {
    if config.backend != Backend::Cpu {
        let message =
            format!("embedding and rerank models run on the backend cpu, not on {}", config.backend);
        return Err(LoadError::Unsupported(message));
    }
    let pool = Pool::new(config.threads);
    let packing = Packing { pool: &pool, operands: operands(config.precision)? };
    let architecture: Value = read_json(&folder.join("config.json"))?;
    let architecture = Architecture::read(&architecture)?;
    let (hidden, vocabulary, head) = (architecture.hidden, architecture.vocabulary, architecture.head);
    let tokenizer = Tokenizer::read(folder, vocabulary, architecture.context)?.limited(config.context_limit);
    let mut weights = open_weights(folder, &architecture, progress)?;
    let output = match head {
        Some(kind) => Output::Labels(Box::new(Head::read(kind, &architecture, &mut weights, packing)?)),
        None => Output::Vectors(Pooler::read(folder)?),
    };
    let encoder = Encoder::read(architecture, &mut weights, packing)?;
    let (kind, width) = match &output {
        Output::Labels(head) => (ModelKind::Rerank, head.labels()),
        Output::Vectors(_) => (ModelKind::Embedding, hidden),
    };
    let model = VectorModel { encoder, output, pool };
    let warm_up = Tokens { ids: vec![0; WARM_UP_TOKENS.min(tokenizer.limit())], types: Vec::new() };
    model.run(&[&warm_up], &[None]);
    Ok((model, Arc::new(Reader { tokenizer, kind, width })))
}

/// The kind of products that was asked for, if this processor has it.
fn operands(precision: Precision) -> Result<Operands, LoadError> {
    match precision {
        Precision::Auto | Precision::Bf16 if Operands::Bf16.is_available() => Ok(Operands::Bf16),
        Precision::Auto | Precision::F32 => Ok(Operands::F32),
        Precision::Bf16 => Err(LoadError::Failed(
            "precision bf16 was asked for; this processor has no products of it".to_owned(),
        )),
    }
}

fn open_weights(
    folder: &Path,
    architecture: &Architecture,
    mut progress: impl FnMut(LoadProgress) + 'static,
) -> Result<Weights, LoadError> {
    let mut told =
        LoadProgress { stage: LoadStage::ReadingHeader, progress: 0.0, bytes_loaded: 0, bytes_total: 0 };
    progress(told.clone());
    let total = Rc::new(Cell::new(0));
    let known = total.clone();
    let on_read = move |bytes: u64| {
        told.stage = LoadStage::LoadingWeights;
        told.bytes_total = known.get();
        told.bytes_loaded += bytes;
        told.progress = told.bytes_loaded as f32 / told.bytes_total.max(1) as f32;
        progress(told.clone());
    };
    let weights = Weights::open(folder, architecture.family, Box::new(on_read))?;
    total.set(weights.bytes());
    Ok(weights)
}

impl VectorModel {
    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// What each text gets: its vector, cut to its number of dimensions if it has one, or its labels.
    pub fn run(&self, texts: &[&Tokens], dimensions: &[Option<usize>]) -> Vec<Vec<f32>> {
        let hidden = self.encoder.encode(&self.pool, texts);
        let width = self.encoder.architecture().hidden;
        let mut rest = hidden.as_slice();
        let mut results = Vec::with_capacity(texts.len());
        for (text, dimensions) in texts.iter().zip(dimensions) {
            let (own, others) = rest.split_at(text.ids.len() * width);
            rest = others;
            results.push(match &self.output {
                Output::Vectors(pooler) => pooler.pool(own, width, *dimensions),
                Output::Labels(head) => head.classify(own),
            });
        }
        results
    }
}

/// Reads a settings file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let failed =
        |error: std::io::Error| LoadError::Failed(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > JSON_BYTES_MAX {
        let message = format!("{} is larger than {JSON_BYTES_MAX} bytes", path.display());
        return Err(LoadError::Corrupted(message));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| LoadError::Corrupted(format!("{}: {error}", path.display())))
}

/// Reads a settings file that need not be there.
pub fn read_optional_json<T: DeserializeOwned + Default>(path: &Path) -> Result<T, LoadError> {
    if path.is_file() { read_json(path) } else { Ok(T::default()) }
}
