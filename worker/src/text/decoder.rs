//! The decoder of all llama-like families: what differs between them is configuration and which tensors a file holds.
//!
//! A step takes the new tokens of several sequences as one flat batch of rows. Products work on the whole batch;
//! attention works sequence by sequence, each on its own keys and values. No row's result depends on another sequence's
//! rows. This file is the one description of the road from tokens to logits; [`Compute`] is who walks it.

mod loader;

pub use loader::{DecoderLoader, load_ropes};

use crate::engine::{BLOCK_TOKENS, BlockId, Model, Span, StepError};
use crate::text::compute::{Compute, Heads};

/// The tensor of the token embeddings.
pub const EMBEDDINGS: &str = "token_embd.weight";

/// A model's weights, ready to compute with.
pub struct Decoder<C: Compute> {
    compute: C,
    layers: Vec<Layer<C>>,
    norm: C::Vector,
    head: C::Matrix,
    vocabulary: usize,
    prefill_tokens: usize,
}

struct Layer<C: Compute> {
    attention_norm: Option<C::Vector>,
    queries_keys_values: C::Matrix,
    heads: Heads<C::Vector>,
    output: C::Matrix,
    after_attention_norm: Option<C::Vector>,
    feed_forward_norm: Option<C::Vector>,
    gate_and_up: C::Matrix,
    down: C::Matrix,
    after_feed_forward_norm: Option<C::Vector>,
}

impl<C: Compute> Decoder<C> {
    fn run(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<(), C::Error> {
        let compute = &mut self.compute;
        compute.begin(spans)?;
        for (index, layer) in self.layers.iter().enumerate() {
            compute.read_stream(layer.attention_norm.as_ref())?;
            compute.multiply(&layer.queries_keys_values)?;
            compute.attend(index, &layer.heads)?;
            compute.add_product(&layer.output, layer.after_attention_norm.as_ref())?;
            compute.read_stream(layer.feed_forward_norm.as_ref())?;
            compute.multiply(&layer.gate_and_up)?;
            compute.gate()?;
            compute.add_product(&layer.down, layer.after_feed_forward_norm.as_ref())?;
        }
        compute.logits(&self.norm, &self.head, logits)
    }

    /// What no machine could compute.
    fn check(&self, spans: &[Span<'_>]) -> Result<(), String> {
        for span in spans {
            let end = span.position.saturating_add(span.tokens.len());
            if span.tokens.is_empty() {
                return Err(format!("a sequence of {end} tokens comes without a new one"));
            }
            if let Some(token) = span.tokens.iter().find(|token| **token as usize >= self.vocabulary) {
                return Err(format!("token {token} is none of {}", self.vocabulary));
            }
            if end > span.blocks.len().saturating_mul(BLOCK_TOKENS) {
                return Err(format!("{} blocks do not hold {end} tokens", span.blocks.len()));
            }
        }
        Ok(())
    }
}

impl<C: Compute> Model for Decoder<C> {
    fn vocabulary_size(&self) -> usize {
        self.vocabulary
    }

    fn block_bytes(&self) -> usize {
        self.compute.block_bytes()
    }

    fn blocks_max(&self) -> usize {
        self.compute.blocks_max()
    }

    fn prefill_tokens(&self) -> usize {
        self.prefill_tokens
    }

    fn copy_block(&mut self, from: BlockId, to: BlockId, tokens: usize) -> Result<(), StepError> {
        self.compute.copy_block(from.0, to.0, tokens).map_err(|error| self.compute.step_error(error))
    }

    fn step(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
        if spans.is_empty() {
            logits.clear();
            return Ok(());
        }
        self.check(spans).map_err(StepError::Batch)?;
        self.run(spans, logits).map_err(|error| self.compute.step_error(error))
    }
}
