//! Loads a text model whole: weights, vocabulary, tokenizer and chat template, warmed up and ready.

use std::path::Path;
use std::sync::Arc;

use kernels::kv::{KvLayout, KvStore};
use protocol::worker::{Backend, LoadProgress, LoadStage};

use crate::config::{KvConfig, KvFormat};
use crate::engine::{BLOCK_TOKENS, BlockId, Logits, Model, Span, StepError, blocks_for};
use crate::error::LoadError;
use crate::file::ModelFile;
use crate::text::architecture::Architecture;
use crate::text::compute::cpu::Cpu;
use crate::text::compute::tensors::{Card, Tensors};
use crate::text::decoder::{DecoderLoader, EMBEDDINGS, load_ropes};
use crate::text::language::Language;
use crate::text::template::ChatTemplate;
use crate::text::tokenizer::Tokenizer;
use crate::text::vocabulary::Vocabulary;

/// The share of the whole load that is done when all weights are in; the rest is the warm-up.
const WEIGHTS_SHARE: f32 = 0.95;

/// A loaded model. The engine owns the weights; the tokenizer and the template serve the requests on their way in.
#[derive(Debug)]
pub struct TextModel {
    /// The part that computes.
    pub weights: TextWeights,
    /// The part that turns text into tokens and back.
    pub language: Arc<Language>,
}

/// A decoder as the engine wants it, wherever it computes.
pub struct TextWeights(Box<dyn Model>);

impl std::fmt::Debug for TextWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TextWeights({} tokens)", self.0.vocabulary_size())
    }
}

/// What to load and where to.
#[derive(Debug)]
pub struct LoadOrder<'a> {
    /// The GGUF file.
    pub path: &'a Path,
    /// The device family that the operator named.
    pub backend: Backend,
    /// The device's number.
    pub gpu: u32,
    /// Tokens of context at most; the model's own limit if absent.
    pub context_limit: Option<usize>,
    /// How keys and values are kept.
    pub kv: KvConfig,
    /// Threads that compute, where the processor does.
    pub threads: usize,
}

/// Loads a model, telling `report` how far it is.
pub fn load(order: &LoadOrder<'_>, report: &mut dyn FnMut(LoadProgress)) -> Result<TextModel, LoadError> {
    report(LoadProgress { stage: LoadStage::ReadingHeader, progress: 0.0, bytes_loaded: 0, bytes_total: 0 });
    let device = crate::device::open(order.backend, order.gpu)?;
    let file = Arc::new(ModelFile::open(order.path)?);
    let architecture = Architecture::read(file.metadata())?;
    let language = Arc::new(read_language(&file, &architecture, order)?);
    let bytes_total = file.weight_bytes();
    let progress =
        |stage, progress, bytes_loaded| LoadProgress { stage, progress, bytes_loaded, bytes_total };
    report(progress(LoadStage::LoadingWeights, 0.0, 0));
    let vocabulary = language.vocabulary.size();
    let ropes = load_ropes(&file, &architecture, language.context_limit)?;
    let mut on_bytes = |bytes| {
        let share = WEIGHTS_SHARE * bytes as f32 / bytes_total.max(1) as f32;
        report(progress(LoadStage::LoadingWeights, share.min(WEIGHTS_SHARE), bytes));
    };
    let loader = DecoderLoader::new(&file, &architecture, &mut on_bytes);
    let decoder: Box<dyn Model> = if order.backend == Backend::Cpu {
        let kv = kv_store(&architecture, order.kv);
        let cpu = Cpu::new(architecture.clone(), file.clone(), vocabulary, order.threads, kv, ropes);
        Box::new(loader.load(cpu, vocabulary)?)
    } else {
        let card = Card { backend: order.backend, gpu: order.gpu };
        let embeddings = file.tensor(EMBEDDINGS, &[vocabulary, architecture.hidden])?;
        let tensors = Tensors::new(architecture.clone(), (device, card), &embeddings, order.kv, ropes)?;
        Box::new(loader.load(tensors, vocabulary)?)
    };
    let mut weights = TextWeights(decoder);
    report(progress(LoadStage::WarmingUp, WEIGHTS_SHARE, bytes_total));
    weights.warm_up(language.context_limit)?;
    Ok(TextModel { weights, language })
}

/// An empty store for keys and values on the processor.
pub fn kv_store(architecture: &Architecture, kv: KvConfig) -> KvStore {
    let Architecture { layers, kv_heads, head_dim, .. } = *architecture;
    let format = match kv.format {
        KvFormat::F16 => kernels::kv::KvFormat::F16,
        KvFormat::Q8 => kernels::kv::KvFormat::Q8,
    };
    let layout = KvLayout { layers, kv_heads, head_dim, format };
    let blocks_max = usize::try_from(kv.budget_bytes).unwrap_or(usize::MAX) / layout.block_bytes().max(1);
    KvStore::new(layout, blocks_max.max(1))
}

fn read_language(
    file: &ModelFile,
    architecture: &Architecture,
    order: &LoadOrder<'_>,
) -> Result<Language, LoadError> {
    let metadata = file.metadata();
    let vocabulary = Arc::new(Vocabulary::read(metadata)?);
    let tokenizer = Tokenizer::read(metadata, vocabulary.clone(), order.path)?;
    let (bos_token, eos_token) = vocabulary.template_tokens();
    let template = metadata
        .text("tokenizer.chat_template")?
        .map(|source| ChatTemplate::compile(source, bos_token, eos_token))
        .transpose()?;
    let trained = architecture.context_length;
    let context_limit = order.context_limit.map_or(trained, |limit| limit.min(trained));
    Ok(Language::new(vocabulary, tokenizer, template, context_limit))
}

impl TextWeights {
    /// Runs one prompt chunk and one token, so that the first request finds memory and threads in place.
    fn warm_up(&mut self, context_limit: usize) -> Result<(), LoadError> {
        let room = self.blocks_max().saturating_mul(BLOCK_TOKENS).min(context_limit);
        let rows = self.prefill_tokens().min(room.saturating_sub(1)).max(1);
        let prompt = vec![0; rows];
        let blocks = BlockId::run(0, rows + 1);
        let mut logits = Vec::new();
        for (tokens, position) in [(&prompt[..], 0), (&prompt[..1], rows)] {
            let blocks = &blocks[..blocks_for(position + tokens.len())];
            let span = Span { tokens, position, blocks, logits: Logits::Last };
            self.step(&[span], &mut logits).map_err(|error| match error {
                StepError::Batch(message) => LoadError::Failed(message),
                StepError::Device(error) => LoadError::Failed(error.message),
            })?;
        }
        Ok(())
    }
}

impl Model for TextWeights {
    fn vocabulary_size(&self) -> usize {
        self.0.vocabulary_size()
    }

    fn block_bytes(&self) -> usize {
        self.0.block_bytes()
    }

    fn blocks_max(&self) -> usize {
        self.0.blocks_max()
    }

    fn prefill_tokens(&self) -> usize {
        self.0.prefill_tokens()
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, tokens: usize) -> Result<(), StepError> {
        self.0.copy_block(from, to, tokens)
    }

    fn step(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        self.0.step(spans, logits)
    }
}

const _: () = assert!(BLOCK_TOKENS == kernels::kv::BLOCK_TOKENS, "one size of blocks for all");
