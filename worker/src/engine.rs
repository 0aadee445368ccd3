//! The engine: one thread that runs all sequences, a step at a time.
//!
//! Each step is one flat batch: a token of every sequence that generates, and a chunk of one prompt. What the model is,
//! the engine does not know; it sees the [`Model`] trait. What stands behind a sequence, it does not know either: events
//! go into a bounded channel, and a receiver that is gone means that nobody wants the rest.

mod event;
mod request;
mod sequence;
mod slots;
mod step_loop;

pub use event::{Event, Finish};
pub use request::{GenerationRequest, Input};
pub use sequence::Job;
pub use slots::{SlotGuard, Slots};
pub use step_loop::Engine;

use protocol::ApiError;

/// New tokens of one sequence in a step, standing behind what its cache holds.
#[derive(Debug)]
pub struct Span<'a, C> {
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// The sequence's memory.
    pub cache: &'a mut C,
    /// Whether the logits after the last token are wanted.
    pub wants_logits: bool,
}

/// Why a step failed.
#[derive(Debug)]
pub enum StepError {
    /// The sequences of this step cannot go on; others can.
    Batch(String),
    /// The device is gone: nothing can go on, and nothing else takes its place.
    Device(ApiError),
}

/// What the step loop needs of a model. A span's logits must not depend on the other spans of its step.
pub trait Model: Send + 'static {
    /// The memory of one sequence.
    type Cache: Send;

    /// Memory for a new sequence.
    fn new_cache(&self) -> Result<Self::Cache, StepError>;

    /// Tokens of a prompt that go into one step. It is constant, so that where a prompt is cut never depends on company.
    fn prefill_rows(&self) -> usize;

    /// Runs one step; gives the logits of the spans that want them, in the spans' order.
    fn step(&self, spans: &mut [Span<'_, Self::Cache>]) -> Result<Vec<Vec<f32>>, StepError>;
}
