//! The processor's home of the decoder: registers of plain numbers, and kernels that work on them.
//!
//! Nothing is allocated in a step that is no larger than one before it.

use std::sync::Arc;

use kernels::activation::soft_cap;
use kernels::attention::{Attention, AttentionPlan, Queries};
use kernels::kv::{HeadRows, KvError, KvSpan, KvStore, Places};
use kernels::norm::{add_rms_norm, rms_norm, rms_norm_in_place};
use kernels::rope::rotate;
use kernels::{Matrix, Pool, Rows, Source};

use super::{Compute, Heads, StackedMatrix, wanted_rows};
use crate::engine::{Span, StepError};
use crate::error::LoadError;
use crate::file::{ModelFile, StoredTensor};
use crate::text::architecture::Architecture;
use crate::text::decoder::EMBEDDINGS;
use crate::text::rope::Rope;

/// Weights times tokens that two ordinary cores multiply in the time that a step may take: a cancel waits for its end.
const WEIGHTS_A_STEP: usize = 27_000_000_000;
/// Bounds and granularity of the tokens of a step.
const PREFILL_TOKENS_MIN: usize = 32;
const PREFILL_TOKENS_MAX: usize = 128;
/// Tokens before those of an ordinary step.
const TOKENS_BEFORE: usize = 1024;
/// What a multiplication of attention costs, measured in those of quantised weights.
const ATTENTION_COST: usize = 3;

/// Logits that are scaled or capped at once.
const LOGITS_A_TASK: usize = 8192;

/// The machine on the processor.
#[derive(Debug)]
pub struct Cpu {
    architecture: Architecture,
    /// Holds the embeddings, whose rows are read from it one by one.
    file: Arc<ModelFile>,
    vocabulary: usize,
    pool: Pool,
    kv: KvStore,
    rope: Rope,
    local_rope: Option<Rope>,
    places: Places,
    plan: AttentionPlan,
    local_plan: AttentionPlan,
    stream: Vec<f32>,
    input: Rows,
    product: Vec<f32>,
    wanted: Vec<usize>,
}

/// Stacked weights and what is added to their products.
#[derive(Debug)]
pub struct BiasedMatrix {
    weights: Matrix,
    bias: Option<Vec<f32>>,
}

impl BiasedMatrix {
    fn is_plain(&self) -> bool {
        self.bias.is_none()
    }
}

impl Cpu {
    /// A machine for a model whose embeddings lie in `file`.
    pub fn new(
        architecture: Architecture,
        file: Arc<ModelFile>,
        vocabulary: usize,
        threads: usize,
        kv: KvStore,
        (rope, local_rope): (Rope, Option<Rope>),
    ) -> Self {
        Self {
            architecture,
            file,
            vocabulary,
            pool: Pool::new(threads),
            kv,
            rope,
            local_rope,
            places: Places::default(),
            plan: AttentionPlan::default(),
            local_plan: AttentionPlan::default(),
            stream: Vec::new(),
            input: Rows::new(),
            product: Vec::new(),
            wanted: Vec::new(),
        }
    }

    fn attention(&self, window: Option<usize>) -> Attention {
        let Architecture { heads, attention_softcap, .. } = self.architecture;
        Attention { heads, soft_cap: attention_softcap, window }
    }

    fn embed(&mut self, spans: &[Span<'_>]) -> Result<(), String> {
        let Architecture { hidden, embedding_scale, .. } = self.architecture;
        let table =
            self.file.tensor(EMBEDDINGS, &[self.vocabulary, hidden]).map_err(|error| error.to_string())?;
        let row_bytes = table.bytes.len() / self.vocabulary;
        self.stream.resize(self.places.rows() * hidden, 0.0);
        let mut tokens = spans.iter().flat_map(|span| span.tokens);
        for row in self.stream.chunks_exact_mut(hidden) {
            let Some(token) = tokens.next() else { break };
            let bytes = table.bytes.get(*token as usize * row_bytes..).and_then(|rest| rest.get(..row_bytes));
            let bytes = bytes.ok_or_else(|| format!("token {token} is none of {}", self.vocabulary))?;
            kernels::dequantize(table.format, bytes, row);
            scale(row, embedding_scale);
        }
        Ok(())
    }

    /// The product's numbers, as many as this many rows of this width have.
    fn product(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        &mut buffer[..len]
    }
}

impl Compute for Cpu {
    type Matrix = BiasedMatrix;
    type Vector = Vec<f32>;
    type Error = String;

    fn matrix(&self, inputs: usize, parts: &[StackedMatrix<'_>]) -> Result<BiasedMatrix, LoadError> {
        let sources: Vec<Source<'_>> = parts.iter().map(|part| source(&part.weights)).collect();
        let weights = Matrix::pack(&self.pool, inputs, &sources)
            .map_err(|error| LoadError::Corrupted(error.to_string()))?;
        let has_bias = parts.iter().any(|part| part.bias.is_some());
        let bias = has_bias.then(|| {
            let of = |part: &StackedMatrix<'_>| {
                part.bias.clone().unwrap_or_else(|| vec![0.0; part.weights.dims[0]])
            };
            parts.iter().flat_map(of).collect()
        });
        Ok(BiasedMatrix { weights, bias })
    }

    fn tied_head(&self, embeddings: &StoredTensor<'_>) -> Result<BiasedMatrix, LoadError> {
        let weights = Matrix::pack(&self.pool, self.architecture.hidden, &[source(embeddings)])
            .map_err(|error| LoadError::Corrupted(error.to_string()))?;
        Ok(BiasedMatrix { weights, bias: None })
    }

    fn vector(&self, numbers: Vec<f32>) -> Result<Vec<f32>, LoadError> {
        Ok(numbers)
    }

    fn block_bytes(&self) -> usize {
        self.kv.layout().block_bytes()
    }

    fn blocks_max(&self) -> usize {
        self.kv.blocks_max()
    }

    fn prefill_tokens(&self, weights: usize) -> usize {
        let attention = 2 * self.architecture.layers * self.architecture.query_width() * TOKENS_BEFORE;
        let cost = weights.saturating_add(attention.saturating_mul(ATTENTION_COST));
        let tokens = WEIGHTS_A_STEP / cost / PREFILL_TOKENS_MIN * PREFILL_TOKENS_MIN;
        tokens.clamp(PREFILL_TOKENS_MIN, PREFILL_TOKENS_MAX)
    }

    fn copy_block(&mut self, from: u32, to: u32, _tokens: usize) -> Result<(), String> {
        self.kv.copy(from, to).map_err(|error| error.to_string())
    }

    fn begin(&mut self, spans: &[Span<'_>]) -> Result<(), String> {
        let placed = spans.iter().map(|span| KvSpan { position: span.position, tokens: span.tokens.len() });
        let blocks = |span: usize| spans[span].blocks.iter().map(|block| block.0);
        self.kv.place(&mut self.places, placed, blocks).map_err(|error: KvError| error.to_string())?;
        self.embed(spans)?;
        let end = spans.iter().map(|span| span.position + span.tokens.len()).max().unwrap_or(0);
        self.rope.reserve(end);
        let threads = self.pool.threads();
        self.plan.lay(self.attention(None), &self.kv, &self.places, threads);
        if let Some(window) = self.architecture.window {
            let attention = self.attention(Some(window.tokens));
            self.local_plan.lay(attention, &self.kv, &self.places, threads);
        }
        if let Some(rope) = &mut self.local_rope {
            rope.reserve(end);
        }
        self.wanted.clear();
        self.wanted.extend(wanted_rows(spans));
        Ok(())
    }

    fn read_stream(&mut self, norm: Option<&Vec<f32>>) -> Result<(), String> {
        let Architecture { hidden, norm_eps, .. } = self.architecture;
        let stream = &self.stream;
        self.input.fill(&self.pool, self.places.rows(), hidden, |row, input| {
            let numbers = &stream[row * hidden..(row + 1) * hidden];
            match norm {
                Some(weight) => rms_norm(numbers, weight, norm_eps, input),
                None => input.copy_from_slice(numbers),
            }
        });
        Ok(())
    }

    fn multiply(&mut self, matrix: &BiasedMatrix) -> Result<(), String> {
        let width = matrix.weights.outputs();
        let product = Self::product(&mut self.product, self.input.count() * width);
        matrix.weights.multiply(&self.pool, &self.input, product);
        if let Some(bias) = &matrix.bias {
            self.pool.for_each_chunk(product, width, |_, row| add(row, bias));
        }
        Ok(())
    }

    fn attend(&mut self, layer: usize, heads: &Heads<Vec<f32>>) -> Result<(), String> {
        let architecture = &self.architecture;
        let (query_width, key_width) = (architecture.query_width(), architecture.key_width());
        let width = query_width + 2 * key_width;
        let numbers = &mut self.product[..self.places.rows() * width];
        let rope = match &self.local_rope {
            Some(local) if heads.is_local => local,
            _ => &self.rope,
        };
        let places = &self.places;
        let prepare = |row: usize, numbers: &mut [f32]| {
            let (queries, rest) = numbers.split_at_mut(query_width);
            let keys = &mut rest[..key_width];
            let angles = heads.rotates.then(|| rope.angles(places.position(row)));
            complete(architecture, queries, heads.query_norm.as_deref(), angles);
            complete(architecture, keys, heads.key_norm.as_deref(), angles);
            scale(queries, architecture.attention_scale);
        };
        let values_at = query_width + key_width;
        let rows = HeadRows { numbers: &mut *numbers, width, keys_at: query_width, values_at };
        self.kv.write(&self.pool, places, layer, rows, prepare);
        let plan = if heads.is_local { &mut self.local_plan } else { &mut self.plan };
        let queries = Queries { numbers, width };
        plan.attend(&self.pool, &self.kv, places, layer, queries, &mut self.input);
        Ok(())
    }

    fn gate(&mut self) -> Result<(), String> {
        let Architecture { feed_forward, activation, .. } = self.architecture;
        let product = &self.product;
        self.input.fill(&self.pool, self.places.rows(), feed_forward, |row, input| {
            let (gate, up) = product[row * 2 * feed_forward..][..2 * feed_forward].split_at(feed_forward);
            activation.gate(gate, up, input);
        });
        Ok(())
    }

    fn add_product(&mut self, matrix: &BiasedMatrix, norm: Option<&Vec<f32>>) -> Result<(), String> {
        let Architecture { hidden, norm_eps, residual_scale, .. } = self.architecture;
        let is_whole = residual_scale.to_bits() == 1f32.to_bits();
        if matrix.is_plain() && norm.is_none() && is_whole {
            matrix.weights.multiply_add(&self.pool, &self.input, &mut self.stream);
            return Ok(());
        }
        self.multiply(matrix)?;
        let product = &self.product;
        self.pool.for_each_chunk(&mut self.stream, hidden, |row, stream| {
            let numbers = &product[row * hidden..(row + 1) * hidden];
            match norm {
                Some(weight) => add_rms_norm(numbers, weight, norm_eps, residual_scale, stream),
                None => {
                    for (sum, number) in stream.iter_mut().zip(numbers) {
                        *sum += residual_scale * number;
                    }
                }
            }
        });
        Ok(())
    }

    fn logits(&mut self, norm: &Vec<f32>, head: &BiasedMatrix, logits: &mut Vec<f32>) -> Result<(), String> {
        let Architecture { hidden, norm_eps, logit_scale, logit_softcap, .. } = self.architecture;
        let width = head.weights.outputs();
        logits.resize(self.wanted.len() * width, 0.0);
        if self.wanted.is_empty() {
            return Ok(());
        }
        let (stream, wanted) = (&self.stream, &self.wanted);
        self.input.fill(&self.pool, wanted.len(), hidden, |row, input| {
            rms_norm(&stream[wanted[row] * hidden..][..hidden], norm, norm_eps, input);
        });
        head.weights.multiply(&self.pool, &self.input, logits);
        if logit_scale.to_bits() != 1f32.to_bits() {
            self.pool.for_each_chunk(logits, LOGITS_A_TASK, |_, logits| scale(logits, logit_scale));
        }
        if let Some(cap) = logit_softcap {
            self.pool.for_each_chunk(logits, LOGITS_A_TASK, |_, logits| soft_cap(logits, cap));
        }
        Ok(())
    }

    fn step_error(&self, error: String) -> StepError {
        StepError::Batch(error)
    }
}

fn source<'a>(stored: &StoredTensor<'a>) -> Source<'a> {
    Source { format: stored.format, outputs: stored.dims[0], bytes: stored.bytes }
}

fn add(row: &mut [f32], bias: &[f32]) {
    for (number, bias) in row.iter_mut().zip(bias) {
        *number += bias;
    }
}

fn scale(numbers: &mut [f32], factor: f32) {
    if factor.to_bits() != 1f32.to_bits() {
        for number in numbers {
            *number *= factor;
        }
    }
}

/// Norms and rotates the heads of a row of queries or keys.
fn complete(
    architecture: &Architecture,
    heads: &mut [f32],
    norm: Option<&[f32]>,
    angles: Option<(&[f32], &[f32])>,
) {
    let Architecture { norm_eps, head_dim, rope_pairs, .. } = *architecture;
    if let Some(weight) = norm {
        // A weight for all heads together, or one for each of them.
        for heads in heads.chunks_exact_mut(weight.len()) {
            rms_norm_in_place(heads, weight, norm_eps);
        }
    }
    if let Some((cos, sin)) = angles {
        for head in heads.chunks_exact_mut(head_dim) {
            rotate(rope_pairs, head, cos, sin);
        }
    }
}
