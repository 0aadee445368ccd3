//! The loop that runs on the engine's thread: who takes part in a step, and what becomes of its results.
//!
//! Sequences get memory in the order in which their requests came. One that generates takes a block when it needs one; if
//! there is none, the youngest sequence gives its memory up, waits, and computes its tokens again later (what the prefix
//! cache still has of them is not computed again). The oldest is never made to wait, so that something always ends. A
//! sequence whose reader is slow gives its memory up before all others do.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use protocol::{ApiError, ErrorCode};

use crate::engine::board::Board;
use crate::engine::generation::{Generation, Job};
use crate::engine::handle::{Command, shutting_down};
use crate::engine::memory::{Extended, Memory};
use crate::engine::schedule::{self, Prompt};
use crate::engine::sequence::{Sequence, State};
use crate::engine::{BLOCK_TOKENS, Logits, Model, Span, StepError};
use crate::text::vocabulary::Vocabulary;

/// Sequences that compute together at most, for each slot: a request may want many answers, and each has a row of logits
/// in every step. The first answer of each request is always among them.
const SEQUENCES_PER_SLOT: usize = 4;
/// How often a reader is looked after while every sequence waits for its reader.
const PAUSE: Duration = Duration::from_millis(5);
/// Tokens of a prompt in a step that all want logits: these are rows of a whole vocabulary.
const ALL_LOGITS_TOKENS: usize = BLOCK_TOKENS;

/// A sequence, by the number of its generation among those that run and its own among its choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    generation: usize,
    choice: usize,
}

/// A sequence's part in a step.
#[derive(Debug, Clone, Copy)]
struct Member {
    seat: Seat,
    /// Its tokens that are computed after the step.
    end: usize,
    logits: Logits,
}

/// The engine's thread.
pub(super) struct StepLoop<M: Model> {
    model: M,
    vocabulary: Arc<Vocabulary>,
    commands: Receiver<Command>,
    /// What runs, in the order of arrival.
    generations: Vec<Generation>,
    memory: Memory,
    /// Sequences that may have memory, first answers aside.
    sequences_max: usize,
    board: Arc<Board>,
    turn: u64,
    // What a step needs, kept for the next one's use.
    prompts: Vec<Prompt>,
    members: Vec<Member>,
    spans: Vec<Span<'static>>,
    logits: Vec<f32>,
    row: Vec<f32>,
}

impl<M: Model> StepLoop<M> {
    /// A loop that keeps at most `prefix_cache_bytes` of keys and values for their content alone.
    pub(super) fn new(
        model: M,
        vocabulary: Arc<Vocabulary>,
        commands: Receiver<Command>,
        slots_total: u32,
        prefix_cache_bytes: u64,
        board: Arc<Board>,
    ) -> Self {
        let idle_max = prefix_cache_bytes / model.block_bytes().max(1) as u64;
        let step_loop = Self {
            memory: Memory::new(model.blocks_max(), idle_max as usize),
            sequences_max: slots_total as usize * SEQUENCES_PER_SLOT,
            model,
            vocabulary,
            commands,
            generations: Vec::new(),
            board,
            turn: 0,
            prompts: Vec::new(),
            members: Vec::new(),
            spans: Vec::new(),
            logits: Vec::new(),
            row: Vec::new(),
        };
        step_loop.board.publish(&step_loop.memory);
        step_loop
    }

    /// Runs until told to stop. An error means that the device is gone.
    pub(super) fn run(mut self) -> Result<(), ApiError> {
        loop {
            if !self.take_commands() {
                self.fail_all(&shutting_down());
                return Ok(());
            }
            if let Err(error) = self.turn() {
                tracing::error!(code = error.code.as_str(), "{}", error.message);
                self.fail_all(&error);
                return Err(error);
            }
        }
    }

    /// Takes all commands that wait; waits itself while there is nothing to compute. False means stop.
    fn take_commands(&mut self) -> bool {
        if self.generations.is_empty() {
            match self.commands.recv() {
                Ok(Command::Start(job)) => self.start(*job),
                Ok(Command::Stop) | Err(_) => return false,
            }
        } else if !self.generations.iter().any(Generation::is_running) {
            match self.commands.recv_timeout(PAUSE) {
                Ok(Command::Start(job)) => self.start(*job),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(Command::Start(job)) => self.start(*job),
                Err(TryRecvError::Empty) => return true,
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn start(&mut self, job: Job) {
        self.generations.push(Generation::new(job, &self.vocabulary));
    }

    fn fail_all(&mut self, error: &ApiError) {
        for generation in &mut self.generations {
            generation.fail(error.clone());
        }
    }

    /// One round: looks after callers and memory, and computes a step if any sequence is ready for one.
    fn turn(&mut self) -> Result<(), ApiError> {
        self.turn += 1;
        for generation in &mut self.generations {
            generation.attend_to_caller();
        }
        self.sweep();
        self.admit();
        self.make_places()?;
        self.gather();
        self.compute()?;
        for generation in &mut self.generations {
            generation.settle();
        }
        self.sweep();
        self.board.publish(&self.memory);
        Ok(())
    }

    /// Takes the memory of those that have ended, and forgets generations that are over.
    fn sweep(&mut self) {
        for generation in &mut self.generations {
            let is_over = generation.is_over();
            for choice in &mut generation.choices {
                if is_over || matches!(choice.state, State::Ended(_)) {
                    choice.table.take().into_iter().for_each(|table| self.memory.close(table));
                }
            }
        }
        self.generations.retain(|generation| !generation.is_over());
    }

    fn seats(&self) -> impl DoubleEndedIterator<Item = Seat> + use<'_, M> {
        self.generations.iter().enumerate().flat_map(|(generation, running)| {
            (0..running.choices.len()).map(move |choice| Seat { generation, choice })
        })
    }

    fn sequence(&mut self, seat: Seat) -> &mut Sequence {
        &mut self.generations[seat.generation].choices[seat.choice]
    }

    /// Sequences that have memory.
    fn holders(&self) -> usize {
        self.seats().filter(|seat| self.has_memory(*seat)).count()
    }

    fn has_memory(&self, seat: Seat) -> bool {
        self.generations[seat.generation].choices[seat.choice].table.is_some()
    }

    /// Gives memory to those that wait for it, the oldest first; if one has to wait on, so have all after it.
    fn admit(&mut self) {
        let mut holders = self.holders();
        for generation in 0..self.generations.len() {
            for choice in 0..self.generations[generation].choices.len() {
                let running = &self.generations[generation];
                let waits = running.is_running() && running.choices[choice].awaits_memory();
                if waits && (choice == 0 || holders < self.sequences_max) {
                    if !self.admit_one(Seat { generation, choice }) {
                        return;
                    }
                    holders += 1;
                }
            }
        }
    }

    fn admit_one(&mut self, seat: Seat) -> bool {
        loop {
            // Each of those that run may need a block soon; to take it from under them would be no gain.
            let spare = self.holders();
            let generation = &mut self.generations[seat.generation];
            let reuse = generation.reuse();
            let tokens = generation.choices[seat.choice].tokens();
            if let Some((table, cached)) = self.memory.open(tokens, reuse, spare) {
                generation.note_cached(cached);
                let sequence = &mut generation.choices[seat.choice];
                self.board.note_prompt(sequence.tokens().len(), cached);
                sequence.table = Some(table);
                sequence.computed = cached;
                return true;
            }
            let Some(victim) = self.victim(seat, Victims::Paused) else { return false };
            self.preempt(victim);
        }
    }

    /// Whose memory is given up for this sequence's sake: one that pauses, else the youngest.
    fn victim(&self, needy: Seat, victims: Victims) -> Option<Seat> {
        let holders = || self.seats().rev().filter(|seat| *seat != needy && self.has_memory(*seat));
        let pauses = |seat: &Seat| !self.generations[seat.generation].is_running();
        holders().find(pauses).or_else(|| match victims {
            Victims::Paused => None,
            Victims::PausedOrYounger => holders().next().filter(|youngest| *youngest > needy),
        })
    }

    /// Takes a sequence's memory; it waits for some again, and goes on as if nothing had been.
    fn preempt(&mut self, seat: Seat) {
        let sequence = self.sequence(seat);
        sequence.computed = 0;
        if let Some(table) = sequence.table.take() {
            self.memory.close(table);
            self.board.note_preemption();
        }
    }

    /// Sees to it that each sequence that generates has a place of its own for the next token.
    fn make_places(&mut self) -> Result<(), ApiError> {
        for generation in 0..self.generations.len() {
            for choice in 0..self.generations[generation].choices.len() {
                let running = &self.generations[generation];
                if running.is_running() && running.choices[choice].is_decoding() {
                    self.make_place(Seat { generation, choice })?;
                }
            }
        }
        Ok(())
    }

    fn make_place(&mut self, seat: Seat) -> Result<(), ApiError> {
        loop {
            let sequence = &mut self.generations[seat.generation].choices[seat.choice];
            let position = sequence.computed;
            let Some(table) = &mut sequence.table else { return Ok(()) };
            match self.memory.extend(table, position) {
                Extended::Ready => return Ok(()),
                Extended::Copy { from, to, tokens } => {
                    let copied = self.model.copy_block(from, to, tokens);
                    return copied.or_else(|error| self.fail_members(error, &[seat]));
                }
                Extended::NoBlock => {
                    let victim = self.victim(seat, Victims::PausedOrYounger).unwrap_or(seat);
                    self.preempt(victim);
                }
            }
        }
    }

    /// Chooses the step's members: a token of all that generate, and parts of prompts.
    fn gather(&mut self) {
        let mut members = std::mem::take(&mut self.members);
        members.clear();
        self.prompts.clear();
        let mut is_awaited = false;
        for (number, generation) in self.generations.iter().enumerate().filter(|(_, one)| one.is_running()) {
            for (choice, sequence) in generation.choices.iter().enumerate() {
                if !sequence.is_active() || sequence.table.is_none() {
                    continue;
                }
                is_awaited |= !generation.is_patient;
                let end = sequence.tokens().len();
                let all = generation.wants_all_logits(choice);
                if !sequence.is_decoding() {
                    self.prompts.push(Prompt {
                        member: members.len(),
                        computed: sequence.computed,
                        end,
                        limit: if all { ALL_LOGITS_TOKENS } else { usize::MAX },
                        last_turn: sequence.last_turn,
                        is_patient: generation.is_patient,
                        planned: sequence.computed,
                    });
                }
                let logits = if all { Logits::All } else { Logits::Last };
                members.push(Member { seat: Seat { generation: number, choice }, end, logits });
            }
        }
        let budget = self.model.prefill_tokens();
        let decodes = members.len() - self.prompts.len();
        let part = budget.clamp(1, BLOCK_TOKENS);
        schedule::plan(&mut self.prompts, budget.saturating_sub(decodes), part, is_awaited);
        for prompt in &self.prompts {
            let member = &mut members[prompt.member];
            if prompt.planned < member.end && member.logits == Logits::Last {
                member.logits = Logits::None;
            }
            member.end = prompt.planned;
            if prompt.planned > prompt.computed {
                let Seat { generation, choice } = member.seat;
                self.generations[generation].choices[choice].last_turn = self.turn;
            }
        }
        members.retain(|Member { seat, end, .. }| *end > self.sequence(*seat).computed);
        self.members = members;
    }

    fn compute(&mut self) -> Result<(), ApiError> {
        if self.members.is_empty() {
            return Ok(());
        }
        let mut spans = emptied(std::mem::take(&mut self.spans));
        spans.extend(self.members.iter().filter_map(|Member { seat, end, logits }| {
            self.generations[seat.generation].choices[seat.choice].span(*end, *logits)
        }));
        let outcome = self.model.step(&spans, &mut self.logits);
        self.spans = emptied(spans);
        let members = std::mem::take(&mut self.members);
        let result = match outcome {
            Ok(()) => {
                self.take_results(&members);
                Ok(())
            }
            Err(error) => {
                let seats: Vec<Seat> = members.iter().map(|member| member.seat).collect();
                self.fail_members(error, &seats)
            }
        };
        self.members = members;
        result
    }

    fn fail_members(&mut self, error: StepError, seats: &[Seat]) -> Result<(), ApiError> {
        let message = match error {
            StepError::Device(error) => return Err(error),
            StepError::Batch(message) => message,
        };
        tracing::error!(message, sequences = seats.len(), "a step failed");
        for seat in seats {
            let text = "The model could not compute this request; the worker's log tells why.";
            self.generations[seat.generation].fail(ApiError::new(ErrorCode::Internal, text));
        }
        Ok(())
    }

    fn take_results(&mut self, members: &[Member]) {
        let width = self.model.vocabulary_size();
        let mut logits = std::mem::take(&mut self.logits);
        let mut rest = &mut logits[..];
        for Member { seat, end, logits } in members {
            let sequence = &mut self.generations[seat.generation].choices[seat.choice];
            let begin = std::mem::replace(&mut sequence.computed, *end);
            let is_through = *end == sequence.tokens().len();
            if let Some(mut table) = sequence.table.take() {
                self.memory.remember(&mut table, sequence.tokens(), *end);
                sequence.table = Some(table);
            }
            let (rows, others) = rest.split_at_mut(logits.rows(end - begin) * width);
            rest = others;
            if *logits == Logits::All {
                self.generations[seat.generation].note_prompt_logits(begin, rows, &self.vocabulary);
            }
            if is_through && let Some(row) = rows.len().checked_sub(width) {
                self.advance(*seat, &mut rows[row..]);
            }
        }
        self.logits = logits;
    }

    /// Lets a sequence choose its next token; with a prompt's first one, the other choices fork off and choose theirs.
    fn advance(&mut self, seat: Seat, row: &mut [f32]) {
        let awaits = |choice: &Sequence| choice.state == State::AwaitsPrompt;
        if seat.choice == 0 && self.generations[seat.generation].choices.iter().any(awaits) {
            self.fork(seat.generation, row);
        }
        let generation = &mut self.generations[seat.generation];
        if generation.choices[seat.choice].is_active() {
            generation.advance(seat.choice, row, &self.vocabulary);
        }
    }

    /// Lets the choices that await the prompt fork off the first one, as many with memory as there is room for.
    fn fork(&mut self, generation: usize, row: &[f32]) {
        let mut holders = self.holders();
        let generation = &mut self.generations[generation];
        for choice in 1..generation.choices.len() {
            if generation.choices[choice].state != State::AwaitsPrompt {
                continue;
            }
            let first = &generation.choices[0];
            // One that has to wait finds most of the prompt in the prefix cache later.
            let has_room = holders < self.sequences_max;
            let table = first.table.as_ref().filter(|_| has_room).map(|table| self.memory.fork(table));
            let computed = if table.is_some() { first.computed } else { 0 };
            holders += usize::from(table.is_some());
            let fork = &mut generation.choices[choice];
            (fork.state, fork.computed, fork.table) = (State::Active, computed, table);
            self.row.clear();
            self.row.extend_from_slice(row);
            generation.advance(choice, &mut self.row, &self.vocabulary);
        }
    }
}

/// Who may be made to wait for another one's sake.
#[derive(Debug, Clone, Copy)]
enum Victims {
    /// Those whose readers are slow.
    Paused,
    /// Those, and else those that came later.
    PausedOrYounger,
}

/// An empty vector with the memory of one whose elements' lifetime is over.
fn emptied<'a>(mut spans: Vec<Span<'_>>) -> Vec<Span<'a>> {
    spans.clear();
    spans.into_iter().map_while(|_| None).collect()
}

#[cfg(test)]
mod tests;
