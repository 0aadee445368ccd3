//! One sequence: a prompt on its way in, then tokens on their way out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use protocol::ApiError;
use protocol::events::{FinishReason, Timings, TokenUsage};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use crate::engine::{BlockId, Event, Finish, Logits, SlotGuard, Span};
use crate::text::constraint::Grammar;
use crate::text::output::{Emitted, TextOutput};
use crate::text::sampler::{Next, Sampler, Sampling};
use crate::text::vocabulary::Vocabulary;

/// A request on its way to the engine.
#[derive(Debug)]
pub struct Job {
    /// The prompt, at least one token; it and `max_tokens` fit the context together.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What the answer must be.
    pub grammar: Option<Arc<Grammar>>,
    /// Generation ends before any of these.
    pub stop: Vec<String>,
    /// Where the events go. A closed channel cancels; a full one makes this sequence wait, and no other.
    pub events: mpsc::Sender<Event>,
    /// Cancels within one step.
    pub cancel: CancellationToken,
    /// The slot that the sequence holds until it ends.
    pub slot: SlotGuard,
    /// When the request came.
    pub accepted: Instant,
}

/// A running sequence.
pub(super) struct Sequence {
    prompt: Vec<u32>,
    max_tokens: usize,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
    accepted: Instant,
    /// What it occupies; nothing once it has ended, although its last events may still wait for a slow reader.
    seat: Option<Seat>,
    /// The blocks of an ended sequence until the pool has them back.
    released: Vec<BlockId>,
    fed: usize,
    last: [u32; 1],
    generated: usize,
    sampler: Sampler,
    output: TextOutput,
    emitted: u32,
    first_token: Option<Instant>,
    outbox: VecDeque<Event>,
    /// The step in which a chunk of this prompt was last computed.
    pub(super) last_turn: u64,
}

/// What a sequence occupies while it runs.
struct Seat {
    blocks: Vec<BlockId>,
    _slot: SlotGuard,
}

impl Sequence {
    pub(super) fn new(job: Job, blocks: Vec<BlockId>, vocabulary: Arc<Vocabulary>) -> Self {
        let guide = job.grammar.map(|grammar| grammar.guide());
        let mut sequence = Self {
            sampler: Sampler::new(job.sampling, 0, &job.prompt, vocabulary.ends(), guide),
            prompt: job.prompt,
            max_tokens: job.max_tokens,
            events: job.events,
            cancel: job.cancel,
            accepted: job.accepted,
            seat: Some(Seat { blocks, _slot: job.slot }),
            released: Vec::new(),
            fed: 0,
            last: [0],
            generated: 0,
            output: TextOutput::new(vocabulary, job.stop),
            emitted: 0,
            first_token: None,
            outbox: VecDeque::new(),
            last_turn: 0,
        };
        if sequence.max_tokens == 0 {
            sequence.finish(FinishReason::Length);
        }
        sequence
    }

    /// Whether the sequence takes part in steps: it has not ended, and its reader keeps up.
    pub(super) fn is_running(&self) -> bool {
        self.seat.is_some() && self.outbox.is_empty()
    }

    pub(super) fn is_prefilling(&self) -> bool {
        self.fed < self.prompt.len()
    }

    /// Whether nothing is left to do for it.
    pub(super) fn is_over(&self) -> bool {
        self.events.is_closed() || (self.seat.is_none() && self.outbox.is_empty())
    }

    /// Ends the sequence if its caller asked for that, and delivers what waits for a slow reader.
    pub(super) fn attend_to_caller(&mut self) {
        if self.cancel.is_cancelled() && self.seat.is_some() {
            self.finish(FinishReason::Cancelled);
        }
        self.flush();
    }

    /// Its part of the next step: a chunk of the prompt, or the last token.
    pub(super) fn span(&mut self, prefill_tokens: usize) -> Option<Span<'_>> {
        let blocks = &self.seat.as_ref()?.blocks;
        if self.fed == self.prompt.len() {
            let position = self.prompt.len() + self.generated - 1;
            return Some(Span { tokens: &self.last, position, blocks, logits: Logits::Last });
        }
        let position = self.fed;
        let end = (self.fed + prefill_tokens).min(self.prompt.len());
        self.fed = end;
        let logits = if end == self.prompt.len() { Logits::Last } else { Logits::None };
        Some(Span { tokens: &self.prompt[position..end], position, blocks, logits })
    }

    /// The blocks of a sequence that has ended, for good.
    pub(super) fn take_blocks(&mut self) -> Vec<BlockId> {
        if self.seat.is_some() { Vec::new() } else { std::mem::take(&mut self.released) }
    }

    /// Takes the logits that a step gave, and sends what they make.
    pub(super) fn advance(&mut self, logits: &mut [f32]) {
        let next = self.sampler.next(logits);
        self.first_token.get_or_insert_with(Instant::now);
        let token = match next {
            Ok(Next::Token(chosen)) => chosen.token,
            Ok(Next::End) => return self.finish(FinishReason::Stop),
            Err(error) => return self.fail(error),
        };
        self.last = [token];
        self.generated += 1;
        match self.output.push(token) {
            Emitted::Stopped(text) => {
                self.emit(text);
                self.finish(FinishReason::Stop);
            }
            Emitted::Text(text) => {
                self.emit(text);
                if self.sampler.is_over() {
                    self.finish(FinishReason::Stop);
                } else if self.generated == self.max_tokens {
                    self.finish(FinishReason::Length);
                }
            }
        }
        self.flush();
    }

    fn emit(&mut self, text: String) {
        if !text.is_empty() {
            self.outbox.push_back(Event::Token { text, index: self.emitted });
            self.emitted += 1;
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        let rest = self.output.finish();
        self.emit(rest);
        let now = Instant::now();
        let first_token = self.first_token.unwrap_or(now);
        let finish = Finish {
            reason,
            usage: TokenUsage {
                prompt_tokens: self.prompt.len() as u32,
                completion_tokens: self.generated as u32,
                ..TokenUsage::default()
            },
            timings: Timings {
                prefill_ms: (first_token - self.accepted).as_secs_f64() * 1e3,
                decode_ms: (now - first_token).as_secs_f64() * 1e3,
            },
        };
        self.end_with(Event::Finished(finish));
    }

    /// Ends the sequence with an error.
    pub(super) fn fail(&mut self, error: ApiError) {
        if self.seat.is_some() {
            self.end_with(Event::Failed(error));
        }
    }

    fn end_with(&mut self, event: Event) {
        self.outbox.push_back(event);
        // Before the event goes out: whoever reads it may send the next request at once.
        self.released = self.seat.take().map(|seat| seat.blocks).unwrap_or_default();
        self.flush();
    }

    /// Sends what the reader has room for. Events of a reader that is gone are dropped with the sequence.
    fn flush(&mut self) {
        while let Some(event) = self.outbox.pop_front() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.outbox.push_front(event);
                return;
            }
        }
    }
}
