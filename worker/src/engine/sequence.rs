//! One choice of a generation: the prompt's tokens on their way in, then the answer's on their way out.

use std::collections::VecDeque;

use protocol::ApiError;
use protocol::events::FinishReason;

use crate::engine::memory::BlockTable;
use crate::engine::output::Output;
use crate::engine::{Event, Logits, Span, logprobs};
use crate::text::answer::Progress;
use crate::text::sampler::{Next, Sampler};
use crate::text::vocabulary::Vocabulary;

/// A choice's life: waiting for the prompt (all but the first) → active → ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The first choice computes the prompt; this one forks from it then.
    AwaitsPrompt,
    /// It computes when it has memory, and waits for memory when it has none.
    Active,
    /// It has ended.
    Ended(FinishReason),
}

/// What one choice is made of.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Prompt and answer.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Tokens whose keys and values are in the blocks.
    pub(super) computed: usize,
    /// Its memory; none while it waits for some.
    pub(super) table: Option<BlockTable>,
    pub(super) state: State,
    /// The step in which a part of its prompt was last computed.
    pub(super) last_turn: u64,
    max_tokens: usize,
    sampler: Sampler,
    output: Output,
}

impl Sequence {
    pub(super) fn new(
        prompt: &[u32],
        state: State,
        max_tokens: usize,
        sampler: Sampler,
        output: Output,
    ) -> Self {
        Self {
            tokens: prompt.to_vec(),
            prompt_tokens: prompt.len(),
            computed: 0,
            table: None,
            state,
            last_turn: 0,
            max_tokens,
            sampler,
            output,
        }
    }

    /// Prompt and answer so far.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of the answer.
    pub(super) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Tokens of the answer that were thought.
    pub(super) fn reasoning_tokens(&self) -> usize {
        self.output.reasoning_tokens()
    }

    /// Whether it takes part in steps, given memory.
    pub(super) fn is_active(&self) -> bool {
        self.state == State::Active
    }

    /// Whether it only waits for memory.
    pub(super) fn awaits_memory(&self) -> bool {
        self.is_active() && self.table.is_none()
    }

    /// Whether its next token follows from one more: all but the last are computed, and the prompt is through.
    pub(super) fn is_decoding(&self) -> bool {
        self.computed + 1 == self.tokens.len() && self.generated() > 0
    }

    /// Its part of the next step, up to token number `end`.
    pub(super) fn span(&self, end: usize, logits: Logits) -> Option<Span<'_>> {
        let blocks = self.table.as_ref()?.blocks();
        Some(Span { tokens: &self.tokens[self.computed..end], position: self.computed, blocks, logits })
    }

    /// Chooses the next token by the logits after the last one, and sends what it makes. After an error the answer
    /// cannot go on.
    pub(super) fn advance(
        &mut self,
        logits: &mut [f32],
        vocabulary: &Vocabulary,
        events: &mut VecDeque<Event>,
    ) -> Result<(), ApiError> {
        if self.max_tokens == 0 {
            self.end(FinishReason::Length, events);
            return Ok(());
        }
        let Next::Token(chosen) = self.sampler.next(logits)? else {
            self.end(FinishReason::Stop, events);
            return Ok(());
        };
        let logprob = chosen.logprob.map(|_| logprobs::of_chosen(&chosen, vocabulary));
        self.tokens.push(chosen.token);
        let progress = self.output.push(chosen.token, logprob, events);
        if progress == Progress::Ended || self.sampler.is_over() {
            self.end(FinishReason::Stop, events);
        } else if self.generated() == self.max_tokens {
            self.end(FinishReason::Length, events);
        }
        Ok(())
    }

    /// Why it ended; while it has not, what a cancel would make of it.
    pub(super) fn reason(&self) -> FinishReason {
        match self.state {
            State::Ended(reason) => reason,
            State::AwaitsPrompt | State::Active => FinishReason::Cancelled,
        }
    }

    /// The stop string that ended it, if one did.
    pub(super) fn stop_sequence(&self) -> Option<String> {
        self.output.stop_sequence().map(str::to_owned)
    }

    /// Ends the choice, unless it has ended, and sends what was held back.
    pub(super) fn end(&mut self, reason: FinishReason, events: &mut VecDeque<Event>) {
        if matches!(self.state, State::Ended(_)) {
            return;
        }
        self.output.finish(events);
        let called = reason == FinishReason::Stop && self.output.has_called();
        self.state = State::Ended(if called { FinishReason::ToolCalls } else { reason });
    }
}
