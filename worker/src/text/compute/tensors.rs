//! The graphics card's home of the decoder: registers are candle's tensors.
//!
//! It computes on every device that candle has, and so on the processor too, where tests hold it against the other home.

mod attention;
mod kv;

use std::sync::Arc;

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Result, Tensor};
use kernels::Format;
use kernels::activation::Activation;
use kernels::rope::RopePairs;
use protocol::worker::Backend;
use protocol::{ApiError, ErrorCode};

use self::attention::attend;
use self::kv::{KvPool, Segment};
use super::{Compute, Heads, StackedMatrix, wanted_rows};
use crate::config::{KvConfig, KvFormat};
use crate::engine::{Span, StepError};
use crate::error::LoadError;
use crate::file::StoredTensor;
use crate::text::architecture::Architecture;
use crate::text::rope::Rope;

/// Tokens of prompts in a step: enough for a card to be busy.
const PREFILL_TOKENS: usize = 256;

/// Which card, for messages.
#[derive(Debug, Clone, Copy)]
pub struct Card {
    /// The device family.
    pub backend: Backend,
    /// The device's number.
    pub gpu: u32,
}

/// The machine on a card.
#[derive(Debug)]
pub struct Tensors {
    architecture: Architecture,
    device: Device,
    card: Card,
    embeddings: Arc<QTensor>,
    kv: KvPool,
    rope: Rope,
    local_rope: Option<Rope>,
    batch: Batch,
    stream: Tensor,
    input: Tensor,
    product: Tensor,
}

/// What the step's rows are.
#[derive(Debug, Default)]
struct Batch {
    segments: Vec<Segment>,
    angles: Option<Angles>,
    local_angles: Option<Angles>,
    wanted: Vec<u32>,
}

/// Cosines and sines of a step's rows, each of shape (rows, 1, pairs).
#[derive(Debug)]
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Angles {
    fn new(rope: &mut Rope, positions: &[usize], device: &Device) -> Result<Self> {
        rope.reserve(positions.iter().max().map_or(0, |last| last + 1));
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for position in positions {
            let (cos, sin) = rope.angles(*position);
            cosines.extend_from_slice(cos);
            sines.extend_from_slice(sin);
        }
        let shape = (positions.len(), 1, cosines.len() / positions.len());
        Ok(Self {
            cos: Tensor::from_vec(cosines, shape, device)?,
            sin: Tensor::from_vec(sines, shape, device)?,
        })
    }
}

/// Stacked weights, each with what is added to its products.
#[derive(Debug)]
pub struct Stacked(Vec<(QMatMul, Option<Tensor>)>);

impl Stacked {
    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let products = self
            .0
            .iter()
            .map(|(weight, bias)| {
                let product = weight.forward(input)?;
                match bias {
                    Some(bias) => product.broadcast_add(bias),
                    None => Ok(product),
                }
            })
            .collect::<Result<Vec<_>>>()?;
        if let [product] = &products[..] { Ok(product.clone()) } else { Tensor::cat(&products, 1) }
    }
}

impl Tensors {
    /// A machine on this device, for a model with these embeddings.
    pub fn new(
        architecture: Architecture,
        (device, card): (Device, Card),
        embeddings: &StoredTensor<'_>,
        kv: KvConfig,
        (rope, local_rope): (Rope, Option<Rope>),
    ) -> std::result::Result<Self, LoadError> {
        if kv.format != KvFormat::F16 {
            return Err(LoadError::Unsupported(format!("keys and values as {} on this device", kv.format)));
        }
        let Architecture { layers, kv_heads, head_dim, .. } = architecture;
        let block_bytes = kv::block_bytes(layers, kv_heads, head_dim);
        let blocks_max = (kv.budget_bytes as usize / block_bytes).max(1);
        let nothing = Tensor::zeros((1, 1), candle_core::DType::F32, &device)?;
        Ok(Self {
            embeddings: Arc::new(on_device(embeddings, &device)?),
            kv: KvPool::new(layers, kv_heads, head_dim, blocks_max, &device)?,
            architecture,
            device,
            card,
            rope,
            local_rope,
            batch: Batch::default(),
            stream: nothing.clone(),
            input: nothing.clone(),
            product: nothing,
        })
    }

    fn norm(&self, rows: &Tensor, weight: &Tensor) -> Result<Tensor> {
        candle_nn::ops::rms_norm(&rows.contiguous()?, weight, self.architecture.norm_eps)
    }

    /// Norms and rotates queries or keys of shape (rows, heads, head_dim).
    fn complete(&self, heads: &Tensor, norm: Option<&Tensor>, angles: Option<&Angles>) -> Result<Tensor> {
        let (rows, count, head_dim) = heads.dims3()?;
        let mut heads = heads.contiguous()?;
        if let Some(weight) = norm {
            // A weight for all heads together, or one for each of them.
            let width = weight.dim(0)?;
            let shape = (rows * count * head_dim / width, width);
            heads = self.norm(&heads.reshape(shape)?, weight)?.reshape((rows, count, head_dim))?;
        }
        let Some(Angles { cos, sin }) = angles else { return Ok(heads) };
        let rotated_dims = 2 * cos.dim(2)?;
        // A row counts as a batch of one token here, which lets each have angles of its own.
        let turning = heads.narrow(2, 0, rotated_dims)?.contiguous()?.unsqueeze(2)?;
        let turned = match self.architecture.rope_pairs {
            RopePairs::Interleaved => candle_nn::rotary_emb::rope_i(&turning, cos, sin)?,
            RopePairs::Halves => candle_nn::rotary_emb::rope(&turning, cos, sin)?,
        };
        let turned = turned.squeeze(2)?;
        if rotated_dims == head_dim {
            return Ok(turned);
        }
        Tensor::cat(&[turned, heads.narrow(2, rotated_dims, head_dim - rotated_dims)?], 2)
    }
}

impl Compute for Tensors {
    type Matrix = Stacked;
    type Vector = Tensor;
    type Error = candle_core::Error;

    fn matrix(&self, _inputs: usize, parts: &[StackedMatrix<'_>]) -> std::result::Result<Stacked, LoadError> {
        let parts = parts.iter().map(|part| {
            let bias = part.bias.clone().map(|bias| self.vector(bias)).transpose()?;
            Ok((matrix_of(Arc::new(on_device(&part.weights, &self.device)?))?, bias))
        });
        Ok(Stacked(parts.collect::<std::result::Result<_, LoadError>>()?))
    }

    fn tied_head(&self, _embeddings: &StoredTensor<'_>) -> std::result::Result<Stacked, LoadError> {
        Ok(Stacked(vec![(matrix_of(self.embeddings.clone())?, None)]))
    }

    fn vector(&self, numbers: Vec<f32>) -> std::result::Result<Tensor, LoadError> {
        let len = numbers.len();
        Ok(Tensor::from_vec(numbers, len, &self.device)?)
    }

    fn block_bytes(&self) -> usize {
        let Architecture { layers, kv_heads, head_dim, .. } = self.architecture;
        kv::block_bytes(layers, kv_heads, head_dim)
    }

    fn blocks_max(&self) -> usize {
        self.kv.blocks_max()
    }

    fn prefill_tokens(&self, _weights: usize) -> usize {
        PREFILL_TOKENS
    }

    fn copy_block(&mut self, from: u32, to: u32, tokens: usize) -> Result<()> {
        self.kv.copy(from as usize, to as usize, tokens)
    }

    fn begin(&mut self, spans: &[Span<'_>]) -> Result<()> {
        let segments = spans.iter().map(|span| Segment::new(span, &self.device));
        self.batch.segments = segments.collect::<Result<_>>()?;
        self.kv.reserve(&self.batch.segments)?;
        let tokens: Vec<u32> = spans.iter().flat_map(|span| span.tokens.iter().copied()).collect();
        let positions: Vec<usize> =
            spans.iter().flat_map(|span| span.position..span.position + span.tokens.len()).collect();
        self.batch.angles = Some(Angles::new(&mut self.rope, &positions, &self.device)?);
        self.batch.local_angles =
            self.local_rope.as_mut().map(|rope| Angles::new(rope, &positions, &self.device)).transpose()?;
        self.batch.wanted = wanted_rows(spans).map(|row| row as u32).collect();
        let rows = self.embeddings.embedding(&Tensor::new(&tokens[..], &self.device)?)?;
        self.stream = (rows * f64::from(self.architecture.embedding_scale))?;
        Ok(())
    }

    fn read_stream(&mut self, norm: Option<&Tensor>) -> Result<()> {
        self.input = match norm {
            Some(weight) => self.norm(&self.stream, weight)?,
            None => self.stream.clone(),
        };
        Ok(())
    }

    fn multiply(&mut self, matrix: &Stacked) -> Result<()> {
        self.product = matrix.forward(&self.input)?;
        Ok(())
    }

    fn attend(&mut self, layer: usize, heads: &Heads<Tensor>) -> Result<()> {
        let architecture = &self.architecture;
        let Architecture { heads: query_heads, kv_heads, head_dim, .. } = *architecture;
        let (query_width, key_width) = (architecture.query_width(), architecture.key_width());
        let rows = self.product.dim(0)?;
        let part = |at: usize, count: usize| {
            self.product.narrow(1, at, count * head_dim)?.contiguous()?.reshape((rows, count, head_dim))
        };
        let angles = match &self.batch.local_angles {
            Some(local) if heads.is_local => Some(local),
            _ => self.batch.angles.as_ref(),
        };
        let angles = angles.filter(|_| heads.rotates);
        let queries = self.complete(&part(0, query_heads)?, heads.query_norm.as_ref(), angles)?;
        let keys = self.complete(&part(query_width, kv_heads)?, heads.key_norm.as_ref(), angles)?;
        let keys = keys.transpose(0, 1)?;
        let values = part(query_width + key_width, kv_heads)?.transpose(0, 1)?;
        let mut outputs = Vec::with_capacity(self.batch.segments.len());
        let mut first = 0;
        for segment in &self.batch.segments {
            let count = segment.count;
            let (keys, values) = (keys.narrow(1, first, count)?, values.narrow(1, first, count)?);
            let (keys, values) = self.kv.append(layer, segment, &keys, &values)?;
            let own = queries.narrow(0, first, count)?;
            outputs.push(attend(architecture, heads.is_local, &own, (&keys, &values), segment.position)?);
            first += count;
        }
        self.input = Tensor::cat(&outputs, 0)?;
        Ok(())
    }

    fn gate(&mut self) -> Result<()> {
        let width = self.architecture.feed_forward;
        let gate = self.product.narrow(1, 0, width)?.contiguous()?;
        let gate = match self.architecture.activation {
            Activation::Silu => gate.silu()?,
            Activation::GeluTanh => gate.gelu()?,
        };
        self.input = (gate * self.product.narrow(1, width, width)?)?;
        Ok(())
    }

    fn add_product(&mut self, matrix: &Stacked, norm: Option<&Tensor>) -> Result<()> {
        let mut product = matrix.forward(&self.input)?;
        if let Some(weight) = norm {
            product = self.norm(&product, weight)?;
        }
        self.stream = (&self.stream + (product * f64::from(self.architecture.residual_scale))?)?;
        Ok(())
    }

    fn logits(&mut self, norm: &Tensor, head: &Stacked, logits: &mut Vec<f32>) -> Result<()> {
        logits.clear();
        if self.batch.wanted.is_empty() {
            return Ok(());
        }
        let rows = self.stream.index_select(&Tensor::new(&self.batch.wanted[..], &self.device)?, 0)?;
        let mut made = (head.forward(&self.norm(&rows, norm)?)? * f64::from(self.architecture.logit_scale))?;
        if let Some(cap) = self.architecture.logit_softcap {
            made = ((made / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        logits.extend(made.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    fn step_error(&self, error: candle_core::Error) -> StepError {
        let Card { backend, gpu } = self.card;
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default();
        let code = match backend {
            Backend::Cpu => return StepError::Batch(message.to_owned()),
            Backend::Cuda => ErrorCode::CudaDeviceFailed,
            Backend::Metal => ErrorCode::MetalDeviceFailed,
        };
        let message = format!("{backend} device {gpu} failed: {message}");
        StepError::Device(ApiError::new(code, message).with_detail("device", gpu))
    }
}

fn matrix_of(weight: Arc<QTensor>) -> Result<QMatMul> {
    match weight.dtype() {
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => QMatMul::from_arc(weight),
        _ => Ok(QMatMul::QTensor(weight)),
    }
}

/// A stored tensor as candle holds it, on this device.
fn on_device(stored: &StoredTensor<'_>, device: &Device) -> std::result::Result<QTensor, LoadError> {
    let dtype = match stored.format {
        Format::F32 => GgmlDType::F32,
        Format::F16 => GgmlDType::F16,
        Format::Bf16 => GgmlDType::BF16,
        Format::Q4_0 => GgmlDType::Q4_0,
        Format::Q4_1 => GgmlDType::Q4_1,
        Format::Q5_0 => GgmlDType::Q5_0,
        Format::Q5_1 => GgmlDType::Q5_1,
        Format::Q8_0 => GgmlDType::Q8_0,
        Format::Q4K => GgmlDType::Q4K,
        Format::Q5K => GgmlDType::Q5K,
        Format::Q6K => GgmlDType::Q6K,
        Format::Iq4Nl | Format::Iq4Xs => {
            return Err(LoadError::Unsupported(format!(
                "weights stored as {} on this device",
                stored.format
            )));
        }
    };
    Ok(qtensor_from_ggml(dtype, stored.bytes, stored.dims.clone(), device)?)
}
