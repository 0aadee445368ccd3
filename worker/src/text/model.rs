//! Loads a text model whole: weights, vocabulary, tokenizer and chat template, warmed up and ready.

use std::path::Path;
use std::sync::Arc;

use protocol::worker::{Backend, LoadProgress, LoadStage, Message};
use protocol::{ApiError, ErrorCode};

use crate::config::{KvConfig, KvFormat};
use crate::engine::{BLOCK_TOKENS, BlockId, Logits, Model, Span, StepError, blocks_for};
use crate::error::LoadError;
use crate::file::ModelFile;
use crate::parallel::on_pool;
use crate::text::architecture::Architecture;
use crate::text::constraint::Grammars;
use crate::text::decoder::{Decoder, DecoderLoader};
use crate::text::kv::KvPool;
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

/// What is needed to turn a request into tokens and tokens into text.
#[derive(Debug)]
pub struct Language {
    /// The tokens.
    pub vocabulary: Arc<Vocabulary>,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// Conversations to text; models that were not trained to chat have none.
    pub template: Option<ChatTemplate>,
    /// Tokens that prompt and answer may hold together.
    pub context_limit: usize,
    /// What answers can be constrained to.
    pub grammars: Arc<Grammars>,
}

/// A decoder as the engine wants it.
#[derive(Debug)]
pub struct TextWeights {
    decoder: Decoder,
    kv: KvPool,
    backend: Backend,
    gpu: u32,
    vocabulary: usize,
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
}

/// Loads a model, telling `report` how far it is.
pub fn load(order: &LoadOrder<'_>, report: &mut dyn FnMut(LoadProgress)) -> Result<TextModel, LoadError> {
    report(LoadProgress { stage: LoadStage::ReadingHeader, progress: 0.0, bytes_loaded: 0, bytes_total: 0 });
    let device = crate::device::open(order.backend, order.gpu)?;
    let file = ModelFile::open(order.path)?;
    let architecture = Architecture::read(file.metadata())?;
    let language = Arc::new(read_language(&file, &architecture, order)?);
    let bytes_total = file.weight_bytes();
    let progress =
        |stage, progress, bytes_loaded| LoadProgress { stage, progress, bytes_loaded, bytes_total };
    report(progress(LoadStage::LoadingWeights, 0.0, 0));
    let decoder = DecoderLoader {
        file: &file,
        architecture,
        device,
        vocabulary: language.vocabulary.size(),
        on_bytes: &mut |bytes| {
            let share = WEIGHTS_SHARE * bytes as f32 / bytes_total.max(1) as f32;
            report(progress(LoadStage::LoadingWeights, share.min(WEIGHTS_SHARE), bytes));
        },
        bytes: 0,
        prefill_rows: usize::MAX,
    }
    .load()?;
    if order.kv.format != KvFormat::F16 {
        return Err(LoadError::Unsupported(format!("keys and values cannot be kept as {}", order.kv.format)));
    }
    let blocks_max = order.kv.budget_bytes as usize / block_bytes(decoder.architecture());
    let mut weights = TextWeights {
        kv: decoder.new_kv(blocks_max.max(1))?,
        decoder,
        backend: order.backend,
        gpu: order.gpu,
        vocabulary: language.vocabulary.size(),
    };
    report(progress(LoadStage::WarmingUp, WEIGHTS_SHARE, bytes_total));
    weights.warm_up()?;
    Ok(TextModel { weights, language })
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
    let grammars = Arc::new(Grammars::new(vocabulary.clone()));
    Ok(Language { vocabulary, tokenizer, template, context_limit, grammars })
}

impl Language {
    /// The prompt that the model's own template makes of a conversation.
    pub fn render(&self, messages: &[Message]) -> Result<String, ApiError> {
        match &self.template {
            Some(template) => template.render(messages),
            None => Err(ApiError::invalid("messages", "This model has no chat template.")
                .with_action("Send 'prompt' instead, or use a model that is made for conversations.")),
        }
    }
}

impl TextWeights {
    /// Runs one prompt chunk and one token, so that the first request finds memory and threads in place.
    fn warm_up(&mut self) -> Result<(), LoadError> {
        let rows = self.prefill_tokens().min(self.blocks_max() * BLOCK_TOKENS - 1);
        let prompt = vec![0; rows];
        let blocks = BlockId::run(0, rows + 1);
        let mut logits = Vec::new();
        for (tokens, position) in [(&prompt[..], 0), (&prompt[..1], rows)] {
            let span = Span {
                tokens,
                position,
                blocks: &blocks[..blocks_for(position + tokens.len())],
                logits: Logits::Last,
            };
            self.decoder.step(&mut self.kv, &[span], &mut logits)?;
        }
        Ok(())
    }

    fn step_error(&self, error: &candle_core::Error) -> StepError {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default();
        let code = match self.backend {
            Backend::Cpu => return StepError::Batch(message.to_owned()),
            Backend::Cuda => ErrorCode::CudaDeviceFailed,
            Backend::Metal => ErrorCode::MetalDeviceFailed,
        };
        let message = format!("{} device {} failed: {message}", self.backend, self.gpu);
        StepError::Device(ApiError::new(code, message).with_detail("device", self.gpu))
    }
}

/// Bytes that the keys and values of one block take in all layers, as f16.
fn block_bytes(architecture: &Architecture) -> usize {
    let Architecture { layers, kv_heads, head_dim, .. } = architecture;
    2 * size_of::<half::f16>() * layers * kv_heads * head_dim * BLOCK_TOKENS
}

impl Model for TextWeights {
    fn vocabulary_size(&self) -> usize {
        self.vocabulary
    }

    fn block_bytes(&self) -> usize {
        block_bytes(self.decoder.architecture())
    }

    fn blocks_max(&self) -> usize {
        self.kv.blocks_max()
    }

    fn prefill_tokens(&self) -> usize {
        self.decoder.prefill_rows()
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, tokens: usize) -> Result<(), StepError> {
        self.kv.copy(from, to, tokens).map_err(|error| self.step_error(&error))
    }

    fn step(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        on_pool(|| self.decoder.step(&mut self.kv, spans, logits)).map_err(|error| self.step_error(&error))
    }
}
