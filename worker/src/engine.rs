//! The engine: one thread that runs all sequences, a step at a time.
//!
//! Each step is one flat batch: a token of every sequence that generates, and parts of the prompts that wait. What the
//! model is, the engine does not know; it sees the [`Model`] trait. What stands behind a generation, it does not know
//! either: events go into a bounded channel, and a receiver that is gone means that nobody wants the rest.
//!
//! `step_loop` decides who computes, `schedule` how far prompts go, `memory` (over `blocks` and `prefix_cache`) where keys
//! and values lie; a `generation` is one request, each `sequence` of it one choice, and its `output` makes events of
//! tokens.

mod blocks;
mod board;
mod event;
mod generation;
mod handle;
mod logprobs;
mod memory;
mod output;
mod prefix_cache;
mod request;
mod schedule;
mod sequence;
mod slots;
mod step_loop;

pub use event::{Event, Finish};
pub use generation::Job;
pub use handle::Engine;
pub use request::{GenerationRequest, Input, ToolUse, check_tokens};
pub use slots::{SlotGuard, Slots};

use protocol::ApiError;

/// Tokens whose keys and values lie in one block, in all layers.
pub const BLOCK_TOKENS: usize = 32;

/// A block of the model's memory for keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockId(pub u32);

impl BlockId {
    /// The blocks from number `first` on that hold so many tokens, for callers that share no blocks.
    pub fn run(first: usize, tokens: usize) -> Vec<Self> {
        (first..first + blocks_for(tokens)).map(|number| Self(number as u32)).collect()
    }
}

/// Blocks that hold so many tokens.
pub const fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// Which rows of a span need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// None of them.
    None,
    /// The last token's.
    Last,
    /// Every token's, for the log probabilities of a prompt.
    All,
}

impl Logits {
    /// Rows of logits that a span of so many tokens makes.
    pub const fn rows(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => 1,
            Self::All => tokens,
        }
    }
}

/// New tokens of one sequence in a step.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// Where the first of them stands in its sequence; what stands before it is in the blocks already.
    pub position: usize,
    /// The sequence's blocks from its beginning to its last new token.
    pub blocks: &'a [BlockId],
    /// Which logits are wanted.
    pub logits: Logits,
}

/// Why a step failed.
#[derive(Debug)]
pub enum StepError {
    /// The sequences of this step cannot go on; others can.
    Batch(String),
    /// The device is gone: nothing can go on, and nothing else takes its place.
    Device(ApiError),
}

/// What the step loop needs of a model. A span's logits must not depend on the other spans of its step, nor on how many
/// tokens stand in it.
pub trait Model: Send + 'static {
    /// Entries of a row of logits.
    fn vocabulary_size(&self) -> usize;

    /// Bytes that a block takes once it is written to.
    fn block_bytes(&self) -> usize;

    /// Blocks that the memory budget allows.
    fn blocks_max(&self) -> usize;

    /// Tokens of prompts that go into one step.
    fn prefill_tokens(&self) -> usize;

    /// Copies the first `tokens` tokens of a block into another: a sequence is about to write into a block that it shares.
    fn copy_block(&mut self, from: BlockId, to: BlockId, tokens: usize) -> Result<(), StepError>;

    /// Runs one step. `logits` gets the wanted rows, in the spans' order, and nothing else.
    fn step(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<(), StepError>;
}
