//! One request on its way: waiting, connecting, streaming, done. Dropping it cancels in every phase.

use std::sync::Arc;
use std::time::Duration;

use client::worker::{TaskEvents, WorkerClient};
use futures::FutureExt;
use futures::future::BoxFuture;
use protocol::events::{Narration, Queued};
use protocol::task::DecisionView;
use protocol::{ApiError, ErrorCode, TaskEvent};
use tokio::time::Instant;
use uuid::Uuid;

use super::admission::Admission;
use super::demand::task;
use super::{Asker, Inference, InferenceRequest};
use crate::routing::Asking;
use crate::scheduler::{Decision, Demand, Lease, TicketEvent, Used, Waiting};

/// A request without a deadline of its own waits at most this long for a slot.
pub(super) const LONGEST_WAIT: Duration = Duration::from_mins(10);
/// Before the first byte, a request is given to this many workers at most.
pub(super) const MAX_ATTEMPTS: u32 = 4;
/// The pause before the second attempt, in which the fleet's news arrive; each later one is four times as long.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// A load is worth asking after again in this time.
const RETRY_AFTER_LOAD_MS: u64 = 5000;
/// A worker's stream ends right after its last event.
const END_WITHIN: Duration = Duration::from_secs(1);
/// A worker answers a cancel within one step; one that does not is given up.
const CANCEL_WITHIN: Duration = Duration::from_secs(2);

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
    Connecting(BoxFuture<'static, Result<(TaskEvents, HeldSlot), ApiError>>),
    Queueing(BoxFuture<'static, Result<Admission, ApiError>>),
    Streaming(Box<(TaskEvents, HeldSlot)>),
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
        if let (Phase::Streaming(stream), TaskEvent::End(end)) = (phase, event) {
            let (events, mut slot) = *stream;
            let (prompt_tokens, answer_tokens) = (end.usage.prompt_tokens, end.usage.completion_tokens);
            slot.note_used(Used { prompt_tokens, answer_tokens });
            slot.confirm_free();
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
                    Ok(stream) => Phase::Streaming(Box::new(stream)),
                    Err(error) if self.attempts < MAX_ATTEMPTS && may_go_elsewhere(&error) => {
                        self.queue_again(&error)
                    }
                    Err(error) => return TaskEvent::Error(error.into()),
                },
                Phase::Queueing(queueing) => match queueing.await {
                    Ok(admission) => Phase::Waiting(admission),
                    Err(error) => return TaskEvent::Error(error.into()),
                },
                Phase::Streaming(stream) => match stream.0.next().await {
                    Ok(Some(event)) => return event,
                    Ok(None) => return lost("the stream ended without a last event"),
                    Err(error) => return lost(&error.to_string()),
                },
                Phase::Done => std::future::pending().await,
            };
            self.phase = next;
        }
    }

    fn connect(&mut self, lease: Lease) -> Phase {
        self.attempts += 1;
        self.demand.avoid = Some(lease.worker.boot_id.clone());
        self.decision = Some(view(&lease, self.attempts));
        self.asker.clock.mark_granted();
        let client = match self.inference.hives.worker_client(&lease.node, &lease.worker) {
            Ok(client) => client,
            Err(error) => return Phase::Connecting(std::future::ready(Err(error)).boxed()),
        };
        let execution_id = Uuid::new_v4().to_string();
        let order = self.request.to_execute(&execution_id);
        let (request, correlation_id) = (self.request.clone(), self.asker.correlation_id.clone());
        let slot = HeldSlot::new(lease, client.clone(), execution_id);
        Phase::Connecting(Box::pin(async move {
            let mut slot = slot;
            match client.execute(&order, &correlation_id).await {
                Ok(events) => Ok((events, slot)),
                Err(error) => {
                    // An answer that is an error, and a connection that was never made, leave no sequence behind.
                    if !matches!(error, client::Error::Broken { .. }) {
                        slot.confirm_free();
                    }
                    tracing::debug!(%error, "a worker did not take a request");
                    let error =
                        error.into_api_error(ErrorCode::WorkerLost, "The worker could not be reached.");
                    Err(request.in_callers_words(error))
                }
            }
        }))
    }

    fn queue_again(&self, error: &ApiError) -> Phase {
        tracing::info!(request_id = &*self.asker.correlation_id, %error, "queueing a request again");
        let (inference, request) = (self.inference.clone(), self.request.clone());
        let (demand, asker) = (self.demand.clone(), self.asker.clone());
        let pause = RETRY_PAUSE * 4_u32.pow(self.attempts - 1);
        Phase::Queueing(Box::pin(async move {
            tokio::time::sleep(pause).await;
            inference.admit(&demand, || task(&demand, &request, &asker), Asking::Way, &asker)
        }))
    }
}

fn view(lease: &Lease, attempt: u32) -> DecisionView {
    let Decision { why, free, serving, outstanding, waited } = lease.decision;
    DecisionView {
        node: lease.node.to_string(),
        worker_id: lease.worker.id.clone(),
        why: why.as_str().to_owned(),
        candidates: free,
        serving,
        outstanding_tokens: outstanding,
        waited_ms: waited.as_millis() as u64,
        attempt,
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

/// Whether a refusal before the first byte says something about the worker and not about the request.
pub(super) fn may_go_elsewhere(error: &ApiError) -> bool {
    matches!(
        error.code,
        ErrorCode::AllSlotsBusy
            | ErrorCode::WorkerMismatch
            | ErrorCode::WorkerShuttingDown
            | ErrorCode::ModelLoading
            | ErrorCode::WorkerLost
            | ErrorCode::HiveUnavailable
    )
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

fn lost(cause: &str) -> TaskEvent {
    tracing::warn!(cause, "a worker's stream broke");
    TaskEvent::Error(
        ApiError::new(ErrorCode::WorkerLost, "The worker ended in the middle of the answer.").into(),
    )
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// A slot in use. It goes back to the scheduler when the worker has confirmed that the sequence is gone: by its last
/// event, or by its answer to a cancel.
pub(super) struct HeldSlot {
    lease: Option<Lease>,
    client: WorkerClient,
    execution_id: String,
}

impl HeldSlot {
    pub(super) fn new(lease: Lease, client: WorkerClient, execution_id: String) -> Self {
        Self { lease: Some(lease), client, execution_id }
    }

    fn note_used(&mut self, used: Used) {
        if let Some(lease) = &mut self.lease {
            lease.note_used(used);
        }
    }

    pub(super) fn confirm_free(&mut self) {
        self.lease = None;
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let (client, execution_id) = (self.client.clone(), std::mem::take(&mut self.execution_id));
        tokio::spawn(async move {
            let outcome = tokio::time::timeout(CANCEL_WITHIN, client.cancel(&execution_id)).await;
            tracing::debug!(?outcome, "cancelled an execution");
            drop(lease);
        });
    }
}
