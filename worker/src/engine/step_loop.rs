//! The loop that runs on the engine's thread, and the handle by which others reach it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use protocol::{ApiError, ErrorCode};
use tokio::sync::oneshot;

use crate::engine::sequence::Sequence;
use crate::engine::{Event, Job, Model, StepError};
use crate::text::vocabulary::Vocabulary;

/// How often a reader is looked after while every sequence waits for its reader.
const PAUSE: Duration = Duration::from_millis(5);

enum Command {
    Start(Box<Job>),
    Stop,
}

/// The engine's handle. Dropping the last one stops the engine.
#[derive(Debug, Clone)]
pub struct Engine {
    commands: SyncSender<Command>,
}

impl Engine {
    /// Starts the engine's thread. The receiver gets the outcome when the engine ends: an error if its device failed, and
    /// nothing at all (a closed channel) if the thread panicked.
    pub fn start<M: Model>(
        model: M,
        vocabulary: Arc<Vocabulary>,
        slots_total: u32,
    ) -> std::io::Result<(Self, oneshot::Receiver<Result<(), ApiError>>)> {
        // Every job holds a slot, so there is always room for one more command.
        let (commands, receiver) = sync_channel(slots_total as usize + 2);
        let (outcome, ended) = oneshot::channel();
        let step_loop = StepLoop { model, vocabulary, commands: receiver, sequences: Vec::new(), turn: 0 };
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let result = step_loop.run();
            // Nobody waits for the outcome of an engine whose process is on its way out.
            let _ = outcome.send(result);
        })?;
        Ok((Self { commands }, ended))
    }

    /// Hands a job over. It fails only when the engine is gone.
    pub fn submit(&self, job: Job) -> Result<(), ApiError> {
        self.commands.try_send(Command::Start(Box::new(job))).map_err(|_| shutting_down())
    }

    /// Ends all sequences with an error and then the engine.
    pub fn stop(&self) {
        // An engine that is gone already is what is wanted.
        let _ = self.commands.try_send(Command::Stop);
    }
}

fn shutting_down() -> ApiError {
    ApiError::new(ErrorCode::WorkerShuttingDown, "The worker is shutting down.")
}

struct StepLoop<M: Model> {
    model: M,
    vocabulary: Arc<Vocabulary>,
    commands: Receiver<Command>,
    sequences: Vec<Sequence<M::Cache>>,
    turn: u64,
}

impl<M: Model> StepLoop<M> {
    fn run(mut self) -> Result<(), ApiError> {
        loop {
            if !self.take_commands() {
                self.fail_all(&shutting_down());
                return Ok(());
            }
            for sequence in &mut self.sequences {
                sequence.attend_to_caller();
            }
            self.sequences.retain(|sequence| !sequence.is_over());
            if let Err(error) = self.step() {
                tracing::error!(code = error.code.as_str(), "{}", error.message);
                self.fail_all(&error);
                return Err(error);
            }
            self.sequences.retain(|sequence| !sequence.is_over());
        }
    }

    /// Takes all commands that wait; waits itself while there is nothing to compute. False means stop.
    fn take_commands(&mut self) -> bool {
        if self.sequences.is_empty() {
            match self.commands.recv() {
                Ok(Command::Start(job)) => self.start(*job),
                Ok(Command::Stop) | Err(_) => return false,
            }
        } else if !self.sequences.iter().any(Sequence::is_running) {
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
        match self.model.new_cache() {
            Ok(cache) => self.sequences.push(Sequence::new(job, cache, self.vocabulary.clone())),
            Err(error) => {
                tracing::error!(?error, "no memory for a sequence");
                let error = ApiError::new(ErrorCode::InsufficientMemory, "There is no memory for another sequence.");
                // A receiver that is gone needs no answer.
                let _ = job.events.try_send(Event::Failed(error));
            }
        }
    }

    fn fail_all(&mut self, error: &ApiError) {
        for sequence in &mut self.sequences {
            sequence.fail(error.clone());
        }
    }

    /// Computes one step, if any sequence is ready for one. An error means that the device is gone.
    fn step(&mut self) -> Result<(), ApiError> {
        self.turn += 1;
        let rows = self.model.prefill_rows();
        let prefilling = self.next_to_prefill();
        let mut members = Vec::new();
        let mut spans = Vec::new();
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            if !sequence.is_running() || (sequence.is_prefilling() && prefilling != Some(index)) {
                continue;
            }
            if sequence.is_prefilling() {
                sequence.last_turn = self.turn;
            }
            if let Some(span) = sequence.span(rows) {
                members.push((index, span.wants_logits));
                spans.push(span);
            }
        }
        if spans.is_empty() {
            return Ok(());
        }
        match self.model.step(&mut spans) {
            Ok(logits) => {
                let waiting = members.iter().filter(|(_, wants_logits)| *wants_logits);
                for ((index, _), logits) in waiting.zip(&logits) {
                    self.sequences[*index].advance(logits, &self.vocabulary);
                }
                Ok(())
            }
            Err(StepError::Batch(message)) => {
                tracing::error!(message, sequences = members.len(), "a step failed");
                for (index, _) in members {
                    let text = "The model could not compute this request; the worker's log tells why.";
                    self.sequences[index].fail(ApiError::new(ErrorCode::Internal, text));
                }
                Ok(())
            }
            Err(StepError::Device(error)) => Err(error),
        }
    }

    /// The prompt whose turn it is: one a step, so that steps stay short, and each in turn, so that none waits for a
    /// longer one's end.
    fn next_to_prefill(&self) -> Option<usize> {
        let waiting = self.sequences.iter().enumerate();
        waiting
            .filter(|(_, sequence)| sequence.is_running() && sequence.is_prefilling())
            .min_by_key(|(_, sequence)| sequence.last_turn)
            .map(|(index, _)| index)
    }
}
