//! The handle by which others reach the engine's thread.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use protocol::worker::KvHealth;
use protocol::{ApiError, ErrorCode};
use tokio::sync::oneshot;

use crate::engine::board::Board;
use crate::engine::step_loop::StepLoop;
use crate::engine::{BLOCK_TOKENS, Job, Model};
use crate::text::vocabulary::Vocabulary;

/// What the engine's thread is told.
#[derive(Debug)]
pub(super) enum Command {
    Start(Box<Job>),
    Stop,
}

/// The engine's handle. Dropping the last one stops the engine.
#[derive(Debug, Clone)]
pub struct Engine {
    commands: SyncSender<Command>,
    board: Arc<Board>,
    tokens_max: usize,
}

impl Engine {
    /// Starts the engine's thread. The receiver gets the outcome when the engine ends: an error if its device failed, and
    /// nothing at all (a closed channel) if the thread panicked.
    pub fn start<M: Model>(
        model: M,
        vocabulary: Arc<Vocabulary>,
        slots_total: u32,
        prefix_cache_bytes: u64,
    ) -> std::io::Result<(Self, oneshot::Receiver<Result<(), ApiError>>)> {
        // Every job holds a slot, so there is always room for one more command.
        let (commands, receiver) = sync_channel(slots_total as usize + 2);
        let (outcome, ended) = oneshot::channel();
        let board = Arc::new(Board::default());
        let tokens_max = model.blocks_max() * BLOCK_TOKENS;
        let step_loop =
            StepLoop::new(model, vocabulary, receiver, slots_total, prefix_cache_bytes, board.clone());
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let result = step_loop.run();
            // Nobody waits for the outcome of an engine whose process is on its way out.
            let _ = outcome.send(result);
        })?;
        Ok((Self { commands, board, tokens_max }, ended))
    }

    /// Tokens of a sequence that the memory for keys and values could hold if it were alone.
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// How the memory for keys and values is used.
    pub fn kv_health(&self) -> KvHealth {
        self.board.health()
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

pub(super) fn shutting_down() -> ApiError {
    ApiError::new(ErrorCode::WorkerShuttingDown, "The worker is shutting down.")
}
