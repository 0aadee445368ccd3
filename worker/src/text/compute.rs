//! What a decoder computes with: a machine with three registers, and its two homes.
//!
//! A register holds a row for each token of the step. The `stream` is the residual stream, the `input` is what goes into
//! the next product, the `product` is what came out of the last one. Operations name no rows, so that a home is free in
//! where it keeps them and in what it does at once: `cpu` norms, gates and quantises a row while it is in the nearest
//! cache, and divides all of it among threads; `tensors` hands whole registers to a graphics card.

pub mod cpu;
pub mod tensors;

use crate::engine::{Logits, Span, StepError};
use crate::error::LoadError;
use crate::file::StoredTensor;

/// One of the matrices that are stacked to one: they have the same input.
#[derive(Debug)]
pub struct StackedMatrix<'a> {
    /// The weights, one row an output.
    pub weights: StoredTensor<'a>,
    /// Added to the outputs.
    pub bias: Option<Vec<f32>>,
}

/// What one layer does with its queries and keys before they meet.
#[derive(Debug)]
pub struct Heads<V> {
    /// The norm of the queries.
    pub query_norm: Option<V>,
    /// The norm of the keys.
    pub key_norm: Option<V>,
    /// Whether the layer sees only the nearest tokens.
    pub is_local: bool,
    /// Whether queries and keys are rotated.
    pub rotates: bool,
}

/// The machine. A row's results must depend on the tokens of its own sequence alone.
pub trait Compute: Send + 'static {
    /// One or several stacked matrices.
    type Matrix: Send;
    /// Numbers such as a norm's weights.
    type Vector: Send;
    /// Why an operation failed.
    type Error;

    /// Takes matrices over; the stored bytes are not needed any more.
    fn matrix(&self, inputs: usize, parts: &[StackedMatrix<'_>]) -> Result<Self::Matrix, LoadError>;

    /// Takes the matrix of the embeddings as that of the head.
    fn tied_head(&self, embeddings: &StoredTensor<'_>) -> Result<Self::Matrix, LoadError>;

    /// Takes numbers over.
    fn vector(&self, numbers: Vec<f32>) -> Result<Self::Vector, LoadError>;

    /// Bytes of a block of keys and values.
    fn block_bytes(&self) -> usize;

    /// Blocks that the memory budget allows.
    fn blocks_max(&self) -> usize;

    /// Tokens of prompts that should go into a step of a model with so many weights, its head and embeddings left aside.
    fn prefill_tokens(&self, weights: usize) -> usize;

    /// Copies the first `tokens` tokens of a block.
    fn copy_block(&mut self, from: u32, to: u32, tokens: usize) -> Result<(), Self::Error>;

    /// Begins a step: finds room for its keys and values, and puts its tokens' embeddings into the stream.
    fn begin(&mut self, spans: &[Span<'_>]) -> Result<(), Self::Error>;

    /// Copies the stream to the input, through a norm if there is one.
    fn read_stream(&mut self, norm: Option<&Self::Vector>) -> Result<(), Self::Error>;

    /// Multiplies the input.
    fn multiply(&mut self, matrix: &Self::Matrix) -> Result<(), Self::Error>;

    /// Takes queries, keys and values from the product, keeps keys and values, and makes what the heads say the input.
    fn attend(&mut self, layer: usize, heads: &Heads<Self::Vector>) -> Result<(), Self::Error>;

    /// Makes the input of the product's two halves: the first one activated, times the second.
    fn gate(&mut self) -> Result<(), Self::Error>;

    /// Multiplies the input and adds the result, through a norm if there is one, to the stream.
    fn add_product(&mut self, matrix: &Self::Matrix, norm: Option<&Self::Vector>) -> Result<(), Self::Error>;

    /// Ends a step: makes logits of the stream's rows that need some, and puts nothing else into `logits`.
    fn logits(
        &mut self,
        norm: &Self::Vector,
        head: &Self::Matrix,
        logits: &mut Vec<f32>,
    ) -> Result<(), Self::Error>;

    /// What a failed operation means for the sequences of the step.
    fn step_error(&self, error: Self::Error) -> StepError;
}

/// The rows of a step that need logits, in the spans' order.
fn wanted_rows<'a>(spans: &'a [Span<'a>]) -> impl Iterator<Item = usize> + 'a {
    let mut end = 0;
    spans.iter().flat_map(move |span| {
        end += span.tokens.len();
        let count = match span.logits {
            Logits::None => 0,
            Logits::Last => span.tokens.len().min(1),
            Logits::All => span.tokens.len(),
        };
        end - count..end
    })
}
