//! The loop that runs on the engine's thread, and the handle by which others reach it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use protocol::{ApiError, ErrorCode};
use tokio::sync::oneshot;

use crate::engine::sequence::Sequence;
use crate::engine::{BLOCK_TOKENS, BlockPool, Event, Job, Logits, Model, StepError, blocks_for};
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
    tokens_max: usize,
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
        let blocks = BlockPool::new(model.blocks_max());
        let tokens_max = model.blocks_max() * BLOCK_TOKENS;
        let step_loop = StepLoop {
            model,
            vocabulary,
            commands: receiver,
            sequences: Vec::new(),
            blocks,
            logits: Vec::new(),
            turn: 0,
        };
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let result = step_loop.run();
            // Nobody waits for the outcome of an engine whose process is on its way out.
            let _ = outcome.send(result);
        })?;
        Ok((Self { commands, tokens_max }, ended))
    }

    /// Tokens of a sequence that the memory for keys and values could hold if it were alone.
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
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
    sequences: Vec<Sequence>,
    blocks: BlockPool,
    logits: Vec<f32>,
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
            self.let_go();
            if let Err(error) = self.step() {
                tracing::error!(code = error.code.as_str(), "{}", error.message);
                self.fail_all(&error);
                return Err(error);
            }
            self.let_go();
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
        let needed = blocks_for(job.prompt.len() + job.max_tokens);
        if needed > self.blocks.available() {
            let message = "There is no memory for another sequence.";
            // A receiver that is gone needs no answer.
            let _ = job.events.try_send(Event::Failed(ApiError::new(ErrorCode::InsufficientMemory, message)));
            return;
        }
        let blocks = (0..needed).filter_map(|_| self.blocks.take()).collect();
        self.sequences.push(Sequence::new(job, blocks, self.vocabulary.clone()));
    }

    fn let_go(&mut self) {
        for sequence in &mut self.sequences {
            for block in sequence.take_blocks() {
                self.blocks.release(block);
            }
        }
        self.sequences.retain(|sequence| !sequence.is_over());
    }

    fn fail_all(&mut self, error: &ApiError) {
        for sequence in &mut self.sequences {
            sequence.fail(error.clone());
        }
    }

    /// Computes one step, if any sequence is ready for one. An error means that the device is gone.
    fn step(&mut self) -> Result<(), ApiError> {
        self.turn += 1;
        let rows = self.model.prefill_tokens();
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
                members.push((index, span.logits != Logits::None));
                spans.push(span);
            }
        }
        if spans.is_empty() {
            return Ok(());
        }
        match self.model.step(&spans, &mut self.logits) {
            Ok(()) => {
                let waiting = members.iter().filter(|(_, wants_logits)| *wants_logits);
                for ((index, _), logits) in
                    waiting.zip(self.logits.chunks_exact_mut(self.model.vocabulary_size()))
                {
                    self.sequences[*index].advance(logits);
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use candle_core::quantized::gguf_file::Value;
    use protocol::events::FinishReason;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::engine::{BlockId, Finish, Slots, Span};
    use crate::file::gguf::Header;
    use crate::file::gguf::tests::with_pairs;
    use crate::text::sampler::Sampling;

    /// Continues with the next letter of the alphabet, and fails on a prompt with an exclamation mark.
    struct Alphabet;

    impl Model for Alphabet {
        fn vocabulary_size(&self) -> usize {
            128
        }

        fn block_bytes(&self) -> usize {
            1
        }

        fn blocks_max(&self) -> usize {
            16
        }

        fn prefill_tokens(&self) -> usize {
            3
        }

        fn copy_block(&mut self, _: BlockId, _: BlockId, _: usize) -> Result<(), StepError> {
            Ok(())
        }

        fn step(&mut self, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
            let prefills = spans.iter().filter(|span| span.tokens.len() > 1 || span.logits == Logits::None);
            assert!(prefills.count() <= 1, "one chunk of one prompt a step");
            logits.clear();
            for span in spans {
                if span.tokens.contains(&u32::from(b'!')) {
                    return Err(StepError::Batch("an exclamation mark".to_owned()));
                }
                if span.logits == Logits::Last {
                    let mut row = [0f32; 128];
                    row[span.tokens.last().copied().unwrap_or(0) as usize + 1] = 1.0;
                    logits.extend(row);
                }
            }
            Ok(())
        }
    }

    fn vocabulary() -> Arc<Vocabulary> {
        let tokens = (0..128u8).map(|byte| Value::String(char::from(byte).to_string())).collect();
        let file = with_pairs(&[
            ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
            ("tokenizer.ggml.tokens", Value::Array(tokens)),
            ("tokenizer.ggml.eos_token_id", Value::U32(u32::from(b'z'))),
        ]);
        Arc::new(Vocabulary::read(Header::read(&file).unwrap().metadata(&file)).unwrap())
    }

    struct Bench {
        engine: Engine,
        slots: Slots,
        ended: oneshot::Receiver<Result<(), ApiError>>,
    }

    impl Bench {
        fn new() -> Self {
            let (engine, ended) = Engine::start(Alphabet, vocabulary(), 4).unwrap();
            Self { engine, slots: Slots::new(4), ended }
        }

        fn start(
            &self,
            prompt: &str,
            max_tokens: usize,
            room: usize,
        ) -> (mpsc::Receiver<Event>, CancellationToken) {
            let (events, receiver) = mpsc::channel(room);
            let cancel = CancellationToken::new();
            let job = Job {
                prompt: prompt.bytes().map(u32::from).collect(),
                max_tokens,
                sampling: Sampling { temperature: 0.0, ..Sampling::default() },
                grammar: None,
                stop: Vec::new(),
                events,
                cancel: cancel.clone(),
                slot: self.slots.take().unwrap(),
                accepted: Instant::now(),
            };
            self.engine.submit(job).unwrap();
            (receiver, cancel)
        }
    }

    fn drain(receiver: &mut mpsc::Receiver<Event>) -> (String, Event) {
        let mut text = String::new();
        loop {
            match receiver.blocking_recv().unwrap() {
                Event::Token { text: part, .. } => text.push_str(&part),
                last => return (text, last),
            }
        }
    }

    fn reason(event: &Event) -> FinishReason {
        match event {
            Event::Finished(Finish { reason, .. }) => *reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_ends_at_the_limit_or_at_the_end_token() {
        let bench = Bench::new();
        let (text, last) = drain(&mut bench.start("hello, a", 3, 16).0);
        assert_eq!((text.as_str(), reason(&last)), ("bcd", FinishReason::Length));
        let (text, last) = drain(&mut bench.start("w", 9, 16).0);
        assert_eq!((text.as_str(), reason(&last)), ("xy", FinishReason::Stop));
        let Event::Finished(finish) = last else { unreachable!() };
        assert_eq!((finish.usage.prompt_tokens, finish.usage.completion_tokens), (1, 2));
        assert_eq!(bench.slots.available(), 4);
    }

    #[test]
    fn a_slow_reader_loses_nothing_and_holds_up_nobody() {
        let bench = Bench::new();
        let (mut slow, _) = bench.start("a", 20, 1);
        let (text, _) = drain(&mut bench.start("a", 20, 64).0);
        assert_eq!(text, "bcdefghijklmnopqrstu");
        assert_eq!(drain(&mut slow).0, text);
    }

    #[test]
    fn cancelling_and_leaving_free_the_slot() {
        let bench = Bench::new();
        let (mut receiver, cancel) = bench.start("a", 20, 1);
        cancel.cancel();
        assert_eq!(reason(&drain(&mut receiver).1), FinishReason::Cancelled);
        let (receiver, _) = bench.start("a", 20, 1);
        drop(receiver);
        while bench.slots.available() < 4 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_failed_step_ends_its_sequences_and_not_the_engine() {
        let bench = Bench::new();
        let (_, last) = drain(&mut bench.start("oh!", 20, 16).0);
        assert!(matches!(last, Event::Failed(error) if error.code == ErrorCode::Internal));
        assert_eq!(drain(&mut bench.start("a", 1, 16).0).0, "b");
    }

    #[test]
    fn stopping_fails_what_runs() {
        let bench = Bench::new();
        let (mut receiver, _) = bench.start("a", 20, 1);
        bench.engine.stop();
        assert!(bench.ended.blocking_recv().unwrap().is_ok());
        while let Some(event) = receiver.blocking_recv() {
            if let Event::Failed(error) = event {
                assert_eq!(error.code, ErrorCode::WorkerShuttingDown);
            }
        }
    }
}
