//! One call of a worker on its way: a place in the queue, a slot, the call. There is nothing to stream, so the way is one
//! future; dropping it cancels in every phase.

use std::sync::Arc;
use std::time::Duration;

use client::worker::WorkerClient;
use futures::future::BoxFuture;
use protocol::task::{Priority, TaskKind};
use protocol::{ApiError, ErrorCode};
use tokio::time::Instant;
use uuid::Uuid;

use super::admission::Admission;
use super::demand::task_of;
use super::leg::HeldSlot;
use super::run::{LONGEST_WAIT, may_go_elsewhere, retry_pause, shutting_down, still_loading};
use super::{Asker, Inference};
use crate::routing::Asking;
use crate::scheduler::{Demand, Lease, Placement, TicketEvent};

/// One call of a worker under an execution id.
pub(super) type Call<'a, T> =
    dyn Fn(WorkerClient, String) -> BoxFuture<'a, Result<T, client::Error>> + Sync + 'a;

/// Who asks, and how long the answer is of use.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The model as the caller names it.
    pub model: &'a str,
    /// When an answer is of no use any more.
    pub timeout: Option<Duration>,
    /// Who asks.
    pub asker: &'a Asker,
    /// The band it waits in.
    pub priority: Priority,
}

impl<'a> Asked<'a> {
    /// Asked by somebody who waits for the answer.
    pub fn in_person(model: &'a str, timeout: Option<Duration>, asker: &'a Asker) -> Self {
        Self { model, timeout, asker, priority: Priority::Interactive }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timeout.map(|timeout| Instant::now() + timeout)
    }
}

impl Inference {
    /// Does the work unless its time is over first.
    pub(super) async fn in_time<T>(
        &self,
        asked: Asked<'_>,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let until = asked.deadline().unwrap_or_else(|| Instant::now() + LONGEST_WAIT);
        tokio::select! {
            outcome = work => outcome,
            () = self.cut.cancelled() => Err(shutting_down()),
            () = tokio::time::sleep_until(until) => {
                let message = match asked.timeout {
                    Some(timeout) => format!("The request's {} ms have passed.", timeout.as_millis()),
                    None => format!("No answer came within {} s.", LONGEST_WAIT.as_secs()),
                };
                Err(ApiError::new(ErrorCode::Timeout, message))
            }
        }
    }

    /// Calls a worker of this model that has a free slot, when one has.
    pub(super) async fn on_slot<T>(
        &self,
        model: &str,
        asked: Asked<'_>,
        call: &Call<'_, T>,
    ) -> Result<T, ApiError> {
        let mut demand = Demand {
            model: model.to_owned(),
            priority: asked.priority,
            key: asked.asker.caller.clone(),
            placement: Placement::default(),
            deadline: asked.deadline(),
            prompt_tokens: 0,
            answer_tokens_max: Some(0),
            bytes: 0,
            beginnings: Arc::default(),
            avoid: None,
            arrival: None,
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let asking = if attempt == 1 && !asked.asker.was_admitted { Asking::All } else { Asking::Way };
            let task = || task_of(&demand, TaskKind::Embedding, asked.asker);
            let admission = self.admit(&demand, task, asking, asked.asker)?;
            asked.asker.clock.mark_routed();
            let lease = self.wait_for_slot(model, admission).await?;
            asked.asker.clock.mark_granted();
            demand.arrival.get_or_insert(lease.ticket());
            match self.call_worker(lease, call).await {
                Err(error) if may_go_elsewhere(&error, attempt) => {
                    attempt -= u32::from(error.code == ErrorCode::AllSlotsBusy);
                    tracing::info!(request_id = &*asked.asker.correlation_id, %error, "queueing a request again");
                    tokio::time::sleep(retry_pause(attempt.max(1))).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits for a slot; for a model that loads, not longer than the cold-start wait.
    async fn wait_for_slot(&self, model: &str, mut admission: Admission) -> Result<Lease, ApiError> {
        let mut loading_since = None;
        loop {
            let patience = loading_since.unwrap_or_else(Instant::now) + self.cold_start_wait;
            let event = tokio::select! {
                event = admission.next() => event,
                () = tokio::time::sleep_until(patience), if loading_since.is_some() => {
                    return Err(still_loading(model, self.cold_start_wait));
                }
            };
            match event {
                TicketEvent::Granted(lease) => return Ok(lease),
                TicketEvent::Refused(error) => return Err(error),
                TicketEvent::Waiting(waiting) if waiting.narration.is_some() => {
                    loading_since.get_or_insert_with(Instant::now);
                }
                TicketEvent::Waiting(_) => loading_since = None,
            }
        }
    }

    async fn call_worker<T>(&self, lease: Lease, call: &Call<'_, T>) -> Result<T, ApiError> {
        let client = self.hives.worker_client(&lease.node, &lease.worker)?;
        let execution_id = Uuid::new_v4().to_string();
        let mut slot = HeldSlot::new(lease, client.clone(), execution_id.clone());
        let outcome = call(client, execution_id).await;
        match &outcome {
            Ok(_) => slot.confirm_free(),
            Err(error) => slot.unanswered(error),
        }
        outcome.map_err(unanswered)
    }
}

/// A call's failure as a caller of ours may see it.
pub(super) fn unanswered(error: client::Error) -> ApiError {
    let message = "The worker could not be reached, or ended before its answer.";
    error.into_api_error(ErrorCode::WorkerLost, message)
}
