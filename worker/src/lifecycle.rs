//! The worker's life: loading → idle ⇄ busy → stopping → stopped.
//!
//! The supervisor in `lib.rs` is the only writer. Idle and busy are not written at all: which of the two it is follows
//! from the slots. Stopped is the end of the process and is seen by nobody but the operating system.

use protocol::worker::{LoadProgress, LoadStage, WorkerState};
use protocol::{ApiError, ErrorCode};
use tokio::sync::watch;

/// What the process is doing as a whole.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// The model is being read. Goes to serving, failed or stopping.
    Loading,
    /// Requests are taken. Goes to stopping.
    Serving,
    /// The load failed, for this reason; the process ends with exit code 1.
    Failed(ApiError),
    /// Told to stop; running requests end.
    Stopping,
}

/// The phase, and how far the load has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The phase.
    pub phase: Phase,
    /// How far the load has come, or came.
    pub loading: LoadProgress,
}

impl Status {
    /// The wire's name of this state, given whether any slot is taken.
    pub fn state(&self, any_slot_taken: bool) -> WorkerState {
        match self.phase {
            Phase::Loading => WorkerState::Loading,
            Phase::Serving if any_slot_taken => WorkerState::Busy,
            Phase::Serving => WorkerState::Idle,
            Phase::Failed(_) | Phase::Stopping => WorkerState::Stopping,
        }
    }

    /// Why no request is taken now, if none is.
    pub fn refusal(&self) -> Option<ApiError> {
        match &self.phase {
            Phase::Serving => None,
            Phase::Loading => {
                let percent = (self.loading.progress * 100.0).round();
                let message = format!("The model is still loading; {percent} % is done.");
                let error = ApiError::new(ErrorCode::ModelLoading, message).with_retry_after_ms(1_000);
                Some(error.with_detail("progress", f64::from(self.loading.progress)))
            }
            Phase::Failed(error) => Some(error.clone()),
            Phase::Stopping => {
                Some(ApiError::new(ErrorCode::WorkerShuttingDown, "The worker is shutting down."))
            }
        }
    }
}

/// The writer's end.
#[derive(Debug)]
pub struct Lifecycle(watch::Sender<Status>);

impl Lifecycle {
    /// A worker that has not begun to load.
    pub fn new() -> Self {
        let loading =
            LoadProgress { stage: LoadStage::Starting, progress: 0.0, bytes_loaded: 0, bytes_total: 0 };
        Self(watch::Sender::new(Status { phase: Phase::Loading, loading }))
    }

    /// A reader.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    /// The state now.
    pub fn status(&self) -> Status {
        self.0.borrow().clone()
    }

    /// The part of the writer that the load's own thread gets.
    pub fn reporter(&self) -> LoadReporter {
        LoadReporter(self.0.clone())
    }

    /// The model is loaded and warm.
    pub fn serving(&self) {
        self.end_load(Phase::Serving, LoadStage::Ready);
    }

    /// The load failed.
    pub fn failed(&self, error: ApiError) {
        self.end_load(Phase::Failed(error), LoadStage::Failed);
    }

    /// The worker was told to stop.
    pub fn stopping(&self) {
        self.0.send_modify(|status| status.phase = Phase::Stopping);
    }

    fn end_load(&self, phase: Phase, stage: LoadStage) {
        self.0.send_if_modified(|status| {
            let loading = status.phase == Phase::Loading;
            if loading {
                status.phase = phase;
                status.loading.stage = stage;
                if stage == LoadStage::Ready {
                    status.loading.progress = 1.0;
                }
            }
            loading
        });
    }
}

/// Tells how far the load has come, and nothing else.
#[derive(Debug)]
pub struct LoadReporter(watch::Sender<Status>);

impl LoadReporter {
    /// The load has come so far.
    pub fn progress(&self, loading: LoadProgress) {
        self.0.send_modify(|status| status.loading = loading);
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_busy_follow_the_slots_once_loaded() {
        let lifecycle = Lifecycle::new();
        assert_eq!(lifecycle.status().state(false), WorkerState::Loading);
        assert_eq!(lifecycle.status().refusal().unwrap().code, ErrorCode::ModelLoading);
        lifecycle.serving();
        assert_eq!(lifecycle.status().state(false), WorkerState::Idle);
        assert_eq!(lifecycle.status().state(true), WorkerState::Busy);
        assert!(lifecycle.status().refusal().is_none());
        assert!(lifecycle.status().loading.progress >= 1.0);
    }

    #[test]
    fn a_load_that_ends_after_the_order_to_stop_does_not_bring_the_worker_back() {
        let lifecycle = Lifecycle::new();
        lifecycle.stopping();
        lifecycle.serving();
        assert_eq!(lifecycle.status().state(false), WorkerState::Stopping);
        assert_eq!(lifecycle.status().refusal().unwrap().code, ErrorCode::WorkerShuttingDown);
    }
}
