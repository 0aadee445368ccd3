//! One request on its way: waiting, connecting, streaming, done. Dropping it cancels in every phase.

use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder;
use client::worker::TaskEvents;
use futures::FutureExt;
use futures::future::BoxFuture;
use protocol::events::{Narration, Queued};
use protocol::task::DecisionView;
use protocol::{ApiError, ErrorCode, TaskEvent};
use tokio::time::Instant;

use super::admission::Admission;
use super::demand::task;
use super::leg::{Leg, Sent, race};
use super::{Asker, Inference, InferenceRequest};
use crate::pauses::growing;
use crate::routing::Asking;
use crate::scheduler::{Demand, Lease, TicketEvent, Used, Waiting};

/// A request without a deadline of its own waits at most this long for a slot.
pub(super) const LONGEST_WAIT: Duration = Duration::from_mins(10);
/// Before the first byte, a request is given to this many workers at most.
const MAX_ATTEMPTS: u32 = 4;
/// The pause before the second attempt, in which the fleet's news arrive; each later one is four times as long, up to the last.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A load is worth asking after again in this time.
const RETRY_AFTER_LOAD_MS: u64 = 5000;
/// A worker's stream ends right after its last event.
const END_WITHIN: Duration = Duration::from_secs(1);

/// A request that was admitted. [`Run::next`] tells its events; the last one is `End` or `Error`.
pub struct Run {
    inference: Inference,
    request: Arc<InferenceRequest>,
    demand: Demand,
    asker: Asker,
    phase: Phase,
    attempts: u32,
    decision: Option<DecisionView>,
    waits_until: Option<Instant>,
}

enum Phase {
    Waiting(Admission),
    Connecting(BoxFuture<'static, Result<Leg, ApiError>>),
    Queueing(BoxFuture<'static, Result<Admission, ApiError>>),
    Streaming(Box<Leg>),
    Done,
}

impl Run {
    pub(super) fn new(
        inference: Inference,
        request: Arc<InferenceRequest>,
        demand: Demand,
        admission: Admission,
        asker: Asker,
    ) -> Self {
        Self {
            inference,
            request,
            demand,
            asker,
            phase: Phase::Waiting(admission),
            attempts: 0,
            decision: None,
            waits_until: Some(Instant::now() + LONGEST_WAIT),
        }
    }

    /// The model that answers.
    pub fn model(&self) -> &str {
        &self.request.model
    }

    /// Why it went where it went last.
    pub fn decision(&self) -> Option<&DecisionView> {
        self.decision.as_ref()
    }

    /// Answers that it makes.
    pub fn choices(&self) -> u32 {
        self.request.choices()
    }

    /// How long a caller who gets nothing before the end waits for a model's load.
    pub fn cold_start_wait(&self) -> Duration {
        self.inference.cold_start_wait
    }

    /// Place in the queue, 0 once it has left it; and how long it waits, if that can be told.
    pub fn waiting(&self) -> (u32, Option<Duration>) {
        match &self.phase {
            Phase::Waiting(admission) => {
                let waiting = admission.waiting();
                (waiting.position, waiting.eta)
            }
            _ => (0, None),
        }
    }

    /// The same, and it waits until its deadline if it has one, and as long as it takes if it has none.
    pub fn patient(mut self) -> Self {
        self.waits_until = None;
        self
    }

    /// The next event; `None` after the last. May be cancelled without losing any.
    pub async fn next(&mut self) -> Option<TaskEvent> {
        if matches!(self.phase, Phase::Done) {
            return None;
        }
        let cut = self.inference.cut.clone();
        let is_streaming = matches!(self.phase, Phase::Streaming(_));
        let patience = self.waits_until.filter(|_| !is_streaming);
        let until = self.request.deadline.into_iter().chain(patience).min();
        let event = tokio::select! {
            event = self.step() => event,
            () = cut.cancelled() => TaskEvent::Error(shutting_down().into()),
            () = sleep_until(until) => TaskEvent::Error(self.out_of_time().into()),
        };
        if event.is_last() {
            self.finish(&event);
        }
        Some(event)
    }

    fn finish(&mut self, event: &TaskEvent) {
        let phase = std::mem::replace(&mut self.phase, Phase::Done);
        if let (Phase::Streaming(leg), TaskEvent::End(end)) = (phase, event) {
            let Leg { events, mut slot, .. } = *leg;
            let (prompt_tokens, answer_tokens) = (end.usage.prompt_tokens, end.usage.completion_tokens);
            slot.note_used(Used { prompt_tokens, answer_tokens });
            slot.confirm_free();
            let Some(events) = events else { return };
            // As a rule the end is there already, and no task is needed to wait for it.
            let mut reading = Box::pin(read_out(events));
            if (&mut reading).now_or_never().is_none() {
                tokio::spawn(reading);
            }
        }
    }

    fn out_of_time(&self) -> ApiError {
        if self.request.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Self::deadline_passed();
        }
        let message = format!("No slot became free within {} s.", LONGEST_WAIT.as_secs());
        ApiError::new(ErrorCode::Timeout, message)
    }

    /// What those are told whose deadline has passed.
    pub(super) fn deadline_passed() -> ApiError {
        ApiError::new(ErrorCode::Timeout, "The request's deadline has passed.")
    }

    /// Walks on until there is something to tell.
    async fn step(&mut self) -> TaskEvent {
        loop {
            let next = match &mut self.phase {
                Phase::Waiting(admission) => match admission.next().await {
                    TicketEvent::Waiting(waiting) => return told(waiting),
                    TicketEvent::Refused(error) => return TaskEvent::Error(error.into()),
                    TicketEvent::Granted(lease) => self.connect(lease),
                },
                Phase::Connecting(connecting) => match connecting.await {
                    Ok(leg) => {
                        self.decision = Some(leg.decision.clone());
                        Phase::Streaming(Box::new(leg))
                    }
                    Err(error) if may_go_elsewhere(&error, self.attempts) => {
                        self.attempts -= u32::from(error.code == ErrorCode::AllSlotsBusy);
                        self.queue_again(&error)
                    }
                    Err(error) => return TaskEvent::Error(error.into()),
                },
                Phase::Queueing(queueing) => match queueing.await {
                    Ok(admission) => Phase::Waiting(admission),
                    Err(error) => return TaskEvent::Error(error.into()),
                },
                Phase::Streaming(leg) => {
                    return leg.next().await.unwrap_or_else(|error| TaskEvent::Error(error.into()));
                }
                Phase::Done => std::future::pending().await,
            };
            self.phase = next;
        }
    }

    fn connect(&mut self, lease: Lease) -> Phase {
        self.attempts += 1;
        self.demand.avoid = Some(lease.worker.boot_id.clone());
        self.demand.arrival.get_or_insert(lease.ticket());
        self.asker.clock.mark_granted();
        let sent = Sent {
            hives: self.inference.hives.clone(),
            request: self.request.clone(),
            correlation_id: self.asker.correlation_id.clone(),
            attempt: self.attempts,
        };
        self.decision = Some(sent.view(&lease));
        match self.inference.hedge_after.filter(|_| self.demand.priority.is_awaited()) {
            None => Phase::Connecting(Box::pin(async move { sent.to(lease).await })),
            Some(after) => {
                let (scheduler, demand) = (self.inference.scheduler.clone(), self.demand.clone());
                Phase::Connecting(Box::pin(race(sent, lease, after, move || scheduler.hedge(&demand))))
            }
        }
    }

    fn queue_again(&self, error: &ApiError) -> Phase {
        tracing::info!(request_id = &*self.asker.correlation_id, %error, "queueing a request again");
        let (inference, request) = (self.inference.clone(), self.request.clone());
        let (demand, asker) = (self.demand.clone(), self.asker.clone());
        let pause = retry_pause(self.attempts.max(1));
        Phase::Queueing(Box::pin(async move {
            tokio::time::sleep(pause).await;
            inference.admit(&demand, || task(&demand, &request, &asker), Asking::Way, &asker)
        }))
    }
}

/// Reads a stream whose last event has come to its end, which is what lets its connection serve the next request.
async fn read_out(mut events: TaskEvents) {
    let _ = tokio::time::timeout(END_WITHIN, events.next()).await;
}

/// What those are told who waited in vain for a load, which goes on without them.
pub(super) fn still_loading(model: &str, waited: Duration) -> ApiError {
    let message = format!("'{model}' is still loading after {} s.", waited.as_secs());
    ApiError::new(ErrorCode::ModelLoading, message).with_retry_after_ms(RETRY_AFTER_LOAD_MS)
}

/// What those are told who come when the queen ends.
pub fn shutting_down() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "The server is stopping.").with_retry_after_ms(5000)
}

/// The pause after so many attempts.
pub(super) fn retry_pause(attempts: u32) -> Duration {
    let (first, last) = RETRY_PAUSES;
    growing(first, last, 4.0).build().nth(attempts as usize - 1).unwrap_or(last)
}

/// Whether a request that a worker refused before the first byte is given to another one: the refusal says something about the
/// worker and not about the request, and it was not refused too often. That others have the worker's slots is waited for, and is
/// no attempt.
pub(super) fn may_go_elsewhere(error: &ApiError, attempts: u32) -> bool {
    if error.code == ErrorCode::AllSlotsBusy {
        return true;
    }
    let is_of_worker = matches!(
        error.code,
        ErrorCode::WorkerMismatch
            | ErrorCode::WorkerShuttingDown
            | ErrorCode::ModelLoading
            | ErrorCode::WorkerLost
            | ErrorCode::HiveUnavailable
    );
    is_of_worker && attempts < MAX_ATTEMPTS
}

fn told(waiting: Waiting) -> TaskEvent {
    match waiting.narration {
        Some((message, progress)) => TaskEvent::Narration(Narration { message, progress }),
        None => TaskEvent::Queued(Queued {
            position: waiting.position,
            eta_ms: waiting.eta.map(|eta| eta.as_millis() as u64),
        }),
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
