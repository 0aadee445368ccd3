//! A request at one worker, and at a second one where the first is slow to say anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use client::worker::{TaskEvents, WorkerClient};
use futures::future::select_ok;
use protocol::events::{End, FinishReason, Started, Timings, TokenUsage};
use protocol::task::DecisionView;
use protocol::vectors::{EmbedRequest, EmbedResponse};
use protocol::{ApiError, ErrorCode, TaskEvent, WorkerId};
use uuid::Uuid;

use super::InferenceRequest;
use crate::hives::Hives;
use crate::scheduler::{Decision, Lease, Used};

/// A worker answers a cancel within one step; one that does not is given up.
const CANCEL_WITHIN: Duration = Duration::from_secs(2);

/// A request on its way to a worker.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) hives: Hives,
    pub(super) request: Arc<InferenceRequest>,
    pub(super) correlation_id: Arc<str>,
    pub(super) attempt: u32,
}

/// A worker that took a request. Dropping it cancels.
pub(super) struct Leg {
    /// Events that were read ahead.
    told: VecDeque<TaskEvent>,
    /// The rest; nothing if all was told at once.
    pub(super) events: Option<TaskEvents>,
    pub(super) slot: HeldSlot,
    pub(super) decision: DecisionView,
}

impl Sent {
    /// Gives it to the worker of this slot.
    pub(super) async fn to(&self, lease: Lease) -> Result<Leg, ApiError> {
        let decision = self.view(&lease);
        let client = self.hives.worker_client(&lease.node, &lease.worker)?;
        let execution_id = Uuid::new_v4().to_string();
        let mut slot = HeldSlot::new(lease, client.clone(), execution_id.clone());
        let taken = match &self.request.vectors {
            None => {
                let order = self.request.to_execute(&execution_id);
                let events = client.execute(&order, &self.correlation_id).await;
                events.map(|events| (VecDeque::new(), Some(events)))
            }
            Some(vectors) => {
                let order = EmbedRequest { request_id: Some(execution_id), ..vectors.clone() };
                let answer = client.embed(&order, &self.correlation_id).await;
                answer.map(|answer| (made(answer, &self.request.model, &decision.worker_id), None))
            }
        };
        match taken {
            Ok((told, events)) => Ok(Leg { told, events, slot, decision }),
            Err(error) => {
                slot.unanswered(&error);
                tracing::debug!(%error, "a worker did not take a request");
                let error = error.into_api_error(ErrorCode::WorkerLost, "The worker could not be reached.");
                Err(self.request.in_callers_words(error))
            }
        }
    }

    /// The same, and reads on to the first event that an answer begins or ends with.
    async fn to_first_word(&self, lease: Lease) -> Result<Leg, ApiError> {
        let mut leg = self.to(lease).await?;
        let mut told = VecDeque::new();
        loop {
            match leg.next().await? {
                TaskEvent::Error(envelope) => return Err(envelope.error),
                event => {
                    let is_word = !matches!(event, TaskEvent::Started(_) | TaskEvent::Prompt(_));
                    told.push_back(event);
                    if is_word {
                        told.append(&mut leg.told);
                        return Ok(Leg { told, ..leg });
                    }
                }
            }
        }
    }

    /// Why it goes where it goes.
    pub(super) fn view(&self, lease: &Lease) -> DecisionView {
        let Decision { why, free, serving, outstanding, waited } = lease.decision;
        DecisionView {
            node: lease.node.to_string(),
            worker_id: lease.worker.id.clone(),
            why: why.as_str().to_owned(),
            candidates: free,
            serving,
            outstanding_tokens: outstanding,
            waited_ms: waited.as_millis() as u64,
            attempt: self.attempt,
        }
    }
}

/// Gives a request to a second worker, if there is one, when the first has not said a word for so long. Whoever says one first
/// goes on, and the other is told to stop.
pub(super) async fn race(
    sent: Sent,
    first: Lease,
    after: Duration,
    second: impl FnOnce() -> Option<Lease>,
) -> Result<Leg, ApiError> {
    let mut first = Box::pin(sent.to_first_word(first));
    if let Ok(outcome) = tokio::time::timeout(after, &mut first).await {
        return outcome;
    }
    let Some(second) = second() else { return first.await };
    tracing::info!(
        request_id = &*sent.correlation_id,
        worker = %second.worker.id,
        "asking a second worker, since the first has not begun to answer"
    );
    let second = Box::pin(sent.to_first_word(second));
    select_ok([first, second]).await.map(|(leg, _)| leg)
}

impl Leg {
    /// The next event; an error if the worker goes before its last one.
    pub(super) async fn next(&mut self) -> Result<TaskEvent, ApiError> {
        if let Some(event) = self.told.pop_front() {
            return Ok(event);
        }
        let Some(events) = &mut self.events else { return Err(lost("nothing follows")) };
        match events.next().await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(lost("the stream ended without a last event")),
            Err(error) => Err(lost(&error.to_string())),
        }
    }
}

/// The events of vectors, which come in one piece.
fn made(mut answer: EmbedResponse, model: &str, worker_id: &WorkerId) -> VecDeque<TaskEvent> {
    model.clone_into(&mut answer.model);
    let prompt_tokens = answer.usage.prompt_tokens;
    let started = Started { worker_id: worker_id.clone(), prompt_tokens, seed: 0 };
    let end = End {
        done: true,
        total_tokens: 0,
        finish_reason: FinishReason::Stop,
        finish_reasons: Vec::new(),
        stop_sequences: Vec::new(),
        usage: TokenUsage { prompt_tokens, ..TokenUsage::default() },
        timings: Timings::default(),
    };
    [TaskEvent::Started(started), TaskEvent::Result(answer), TaskEvent::End(end)].into()
}

fn lost(cause: &str) -> ApiError {
    tracing::warn!(cause, "a worker's stream broke");
    ApiError::new(ErrorCode::WorkerLost, "The worker ended in the middle of the answer.")
}

/// Whether the worker has given its slots to others.
fn is_busy(error: &client::Error) -> bool {
    matches!(error, client::Error::Api(error) if error.code == ErrorCode::AllSlotsBusy)
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

    pub(super) fn note_used(&mut self, used: Used) {
        if let Some(lease) = &mut self.lease {
            lease.note_used(used);
        }
    }

    pub(super) fn confirm_free(&mut self) {
        self.lease = None;
    }

    /// The worker did not take the request. An answer that is an error, and a connection that was never made, leave no sequence
    /// behind.
    pub(super) fn unanswered(&mut self, error: &client::Error) {
        if is_busy(error)
            && let Some(lease) = &mut self.lease
        {
            lease.note_refused();
        }
        if !matches!(error, client::Error::Broken { .. }) {
            self.confirm_free();
        }
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
