//! What the worker does for a caller, apart from how the caller asks: take a request, run it, cancel it, tell the state.
//! What only models that make vectors do is in `vectors`, tokens without an execution are in `tokens`.

mod prompt;
mod tokens;
mod vectors;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use protocol::hive::ModelKind;
use protocol::worker::{Health, Ready, WorkerState};
use protocol::{ApiError, ErrorCode};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::embedding::engine::VectorEngine;
use crate::embedding::model::Reader;
use crate::engine::{Engine, Event, GenerationRequest, Job, SlotGuard, Slots};
use crate::lifecycle::Lifecycle;
use crate::text::language::Language;
use prompt::Prompt;

/// Events that wait for a reader before its sequence pauses.
const EVENTS_WAITING_MAX: usize = 64;
/// A cancelled sequence has left its slot after this time, or never will.
const FREE_WITHIN: Duration = Duration::from_secs(5);
/// When a caller that found no free slot may try again: a few tokens' time.
const BUSY_RETRY_MS: u64 = 250;

/// The worker behind its door.
#[derive(Debug)]
pub struct Service {
    /// What it was started with.
    pub config: Config,
    /// Where it is in its life.
    pub lifecycle: Lifecycle,
    /// Cancelled when the worker is to stop.
    pub stop: CancellationToken,
    slots: Slots,
    /// Texts that may be tokenised without an execution at once.
    tokenizing: Arc<Semaphore>,
    serving: OnceLock<Serving>,
    running: Arc<Running>,
    started: Instant,
}

/// A model that runs, with what its requests are read by.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Serving {
    Text(Loaded),
    Vectors { engine: VectorEngine, reader: Arc<Reader> },
}

impl Serving {
    fn kind(&self) -> ModelKind {
        match self {
            Self::Text(_) => ModelKind::TextGen,
            Self::Vectors { reader, .. } => reader.kind,
        }
    }

    /// Tokens that a request may have.
    fn context_limit(&self) -> usize {
        match self {
            Self::Text(loaded) => loaded.context_limit(),
            Self::Vectors { reader, .. } => reader.tokenizer.limit(),
        }
    }
}

/// What is told to who asks a model of this kind for something else.
fn wrong_kind(kind: ModelKind) -> ApiError {
    let what = match kind {
        ModelKind::TextGen => "generates text: use POST /v1/execute",
        ModelKind::Embedding => "makes vectors: use POST /v1/embed",
        ModelKind::Rerank => "ranks documents: use POST /v1/rerank",
    };
    ApiError::new(ErrorCode::UnsupportedModel, format!("This worker's model {what}."))
}

/// A model that generates text.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Loaded {
    pub engine: Engine,
    pub language: Arc<Language>,
}

impl Loaded {
    /// Tokens that prompt and answer may hold together.
    fn context_limit(&self) -> usize {
        self.language.context_limit.min(self.engine.tokens_max())
    }
}

/// Executions by their id, each until its slot is free.
#[derive(Debug, Default)]
struct Running(Mutex<HashMap<String, Ending>>);

/// How one execution is ended, and how it is known that it has.
#[derive(Debug, Clone)]
struct Ending {
    cancel: CancellationToken,
    freed: CancellationToken,
}

impl Ending {
    fn is_running(&self) -> bool {
        !self.freed.is_cancelled()
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Ending>> {
        // The map is whole after any panic: no operation on it has a middle.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running execution. Dropping it cancels it.
#[derive(Debug)]
pub struct Execution {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The seed in force.
    pub seed: u64,
    /// Answers that it makes.
    pub choices: u32,
    /// Its events; a finish or a failure is the last.
    pub events: mpsc::Receiver<Event>,
    cancel: CancellationToken,
    stop: CancellationToken,
}

impl Execution {
    /// Why the events ended without a last one: the engine is no more, and the process is about to follow.
    pub fn cut_off(&self) -> ApiError {
        if self.stop.is_cancelled() {
            return ApiError::new(ErrorCode::WorkerShuttingDown, "The worker is shutting down.");
        }
        ApiError::new(ErrorCode::Internal, "The worker's engine ended unexpectedly.")
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Service {
    /// A worker that is about to load.
    pub fn new(config: Config, stop: CancellationToken) -> Self {
        Self {
            lifecycle: Lifecycle::new(),
            slots: Slots::new(config.slots),
            tokenizing: Arc::new(Semaphore::new(tokens::AT_ONCE_MAX)),
            serving: OnceLock::new(),
            running: Arc::new(Running::default()),
            started: Instant::now(),
            stop,
            config,
        }
    }

    /// The slots, all of them free at first.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Begins to take requests.
    pub fn open(&self, serving: Serving) {
        // There is one load in a process's life, so the place is empty.
        let _ = self.serving.set(serving);
        self.lifecycle.serving();
    }

    /// Stops to take requests and ends the running ones with an error.
    pub fn close(&self) {
        self.lifecycle.stopping();
        match self.serving.get() {
            Some(Serving::Text(loaded)) => loaded.engine.stop(),
            Some(Serving::Vectors { engine, .. }) => engine.stop(),
            None => {}
        }
    }

    /// Starts an execution under the request's own id, or else under `default_id`.
    pub async fn execute(
        &self,
        request: GenerationRequest,
        default_id: String,
    ) -> Result<Execution, ApiError> {
        let accepted = Instant::now();
        let serving = self.serving()?;
        let Serving::Text(loaded) = serving else { return Err(wrong_kind(serving.kind())) };
        let slot = self.take_slot()?;
        request.check_vocabulary(loaded.language.vocabulary.size())?;
        let sampling = request.sampling.clone();
        let (request_id, choices, echo) = (request.request_id.clone(), request.choices, request.echo);
        let (wanted, field) = (request.max_tokens, request.input.field());
        let (cut_to_context, is_patient) = (request.cut_to_context, request.is_patient);
        let Prompt { tokens: prompt, prepared } =
            prompt::of_execution(loaded.language.clone(), request).await?;
        let grammar = loaded.language.grammar(&prepared).await?;
        // An answer that may be cut needs room for one token, like one without a number of its own.
        let room = loaded.context_limit().saturating_sub(prompt.len()).max(1) as u32;
        let wanted = wanted.map(|wanted| if cut_to_context { wanted.min(room) } else { wanted });
        let max_tokens = fit(prompt.len(), wanted, loaded.context_limit(), field)?;
        let prompt_tokens = prompt.len() as u32;
        let cancel = CancellationToken::new();
        self.register(request_id, default_id, Ending { cancel: cancel.clone(), freed: slot.freed() })?;
        let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let seed = sampling.seed;
        let (stop, own_cancel) = (self.stop.clone(), cancel.clone());
        let execution = Execution { prompt_tokens, seed, choices, events, cancel: own_cancel, stop };
        loaded.engine.submit(Job {
            prompt,
            choices,
            max_tokens,
            sampling,
            grammar,
            echo: echo.then_some(prepared.prompt),
            plan: Arc::new(prepared.plan),
            events: sender,
            cancel,
            is_patient,
            slot,
            accepted,
        })?;
        Ok(execution)
    }

    /// The model, if requests are taken.
    fn serving(&self) -> Result<&Serving, ApiError> {
        if let Some(refusal) = self.lifecycle.status().refusal() {
            return Err(refusal);
        }
        self.serving.get().ok_or_else(|| ApiError::new(ErrorCode::ModelLoading, "No model is loaded."))
    }

    fn take_slot(&self) -> Result<SlotGuard, ApiError> {
        self.slots.take().ok_or_else(|| {
            let message = format!("All {} slots of this worker are taken.", self.slots.total());
            ApiError::new(ErrorCode::AllSlotsBusy, message).with_retry_after_ms(BUSY_RETRY_MS)
        })
    }

    fn register(&self, wanted: Option<String>, default_id: String, ending: Ending) -> Result<(), ApiError> {
        let chosen_by_caller = wanted.is_some();
        let mut id = wanted.unwrap_or(default_id);
        let freed = ending.freed.clone();
        let mut running = self.running.lock();
        if running.get(&id).is_some_and(Ending::is_running) {
            if chosen_by_caller {
                return Err(ApiError::invalid(
                    "request_id",
                    "An execution with this 'request_id' is running.",
                ));
            }
            id = uuid::Uuid::new_v4().to_string();
        }
        running.insert(id.clone(), ending);
        drop(running);
        let running = self.running.clone();
        tokio::spawn(async move {
            freed.cancelled().await;
            let mut running = running.lock();
            // A newer execution may have taken the id over; it is not free yet.
            if running.get(&id).is_some_and(|ending| !ending.is_running()) {
                running.remove(&id);
            }
        });
        Ok(())
    }

    /// Cancels an execution and waits until its slot is free; false if there is none of this id.
    pub async fn cancel(&self, request_id: &str) -> bool {
        let Some(ending) = self.running.lock().get(request_id).filter(|ending| ending.is_running()).cloned()
        else {
            return false;
        };
        ending.cancel.cancel();
        // A step is short; only an engine that hangs does not free the slot, and its process is watched by the hive.
        let _ = tokio::time::timeout(FREE_WITHIN, ending.freed.cancelled()).await;
        true
    }

    /// The state on the wire.
    pub fn state(&self) -> WorkerState {
        self.lifecycle.status().state(self.slots.available() < self.slots.total())
    }

    /// Whether requests are taken, and how far the load is.
    pub fn ready(&self) -> Ready {
        let status = self.lifecycle.status();
        let state = status.state(self.slots.available() < self.slots.total());
        Ready { ready: state.takes_requests(), state, loading: status.loading }
    }

    /// Who this is and how it does.
    pub fn health(&self) -> Health {
        let context_length = self.serving.get().map_or(0, |serving| serving.context_limit() as u32);
        let on_gpu = self.config.model.backend != protocol::worker::Backend::Cpu;
        Health {
            status: "healthy".to_owned(),
            worker_id: self.config.worker_id.clone(),
            boot_id: self.config.boot_id.clone(),
            model: self.config.model_ref.clone(),
            kind: self.serving.get().map(Serving::kind),
            backend: self.config.model.backend,
            device: on_gpu.then_some(self.config.model.gpu),
            state: self.state(),
            slots_total: self.slots.total(),
            slots_available: self.slots.available(),
            context_length,
            kv: match self.serving.get() {
                Some(Serving::Text(loaded)) => Some(loaded.engine.kv_health()),
                Some(Serving::Vectors { .. }) | None => None,
            },
            idle_ms: self.slots.unchanged_ms(),
            uptime_seconds: self.started.elapsed().as_secs(),
        }
    }
}

/// How many tokens may be generated, if prompt and answer fit the context together.
fn fit(prompt_tokens: usize, max_tokens: Option<u32>, limit: usize, field: &str) -> Result<usize, ApiError> {
    // Without a number of its own, a request needs room for one token at least.
    let wanted = max_tokens.map_or(1, |tokens| tokens as usize);
    let needed = prompt_tokens.saturating_add(wanted);
    if needed <= limit {
        return Ok(max_tokens.map_or(limit - prompt_tokens, |tokens| tokens as usize));
    }
    let message = format!(
        "This model's context holds {limit} tokens; the request needs {needed} ({prompt_tokens} of the prompt and \
         {wanted} to generate)."
    );
    Err(ApiError::new(ErrorCode::ContextLengthExceeded, message)
        .with_param(if prompt_tokens >= limit { field } else { "max_tokens" })
        .with_detail("context_length", limit)
        .with_detail("requested_tokens", needed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_and_answer_must_fit_together() {
        assert_eq!(fit(10, Some(6), 16, "prompt").unwrap(), 6);
        assert_eq!(fit(10, None, 16, "prompt").unwrap(), 6);
        assert_eq!(fit(16, Some(0), 16, "prompt").unwrap(), 0);
        for (prompt, max_tokens, param) in [
            (10, Some(7), "max_tokens"),
            (16, None, "prompt"),
            (17, Some(0), "prompt"),
            (1, Some(u32::MAX), "max_tokens"),
        ] {
            let error = fit(prompt, max_tokens, 16, "prompt").unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param));
            assert_eq!(error.code, ErrorCode::ContextLengthExceeded);
            assert_eq!(error.details["context_length"], 16);
        }
    }
}
