//! One request for vectors or ranks on its way: a place in the queue, a slot, one call to a worker. There is nothing to stream,
//! so the way is one future; dropping it cancels in every phase.

use std::time::Duration;

use client::worker::WorkerClient;
use futures::future::BoxFuture;
use protocol::hive::ModelKind;
use protocol::task::Priority;
use protocol::vectors::{EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse};
use protocol::{ApiError, ErrorCode};
use tokio::time::Instant;
use uuid::Uuid;

use super::Inference;
use super::run::{HeldSlot, LONGEST_WAIT, MAX_ATTEMPTS, RETRY_PAUSE, may_go_elsewhere, shutting_down};
use crate::scheduler::{Demand, Lease, Ticket, TicketEvent};

/// When a caller who gave up waiting for a load may come back.
const RETRY_AFTER_LOAD_MS: u64 = 5_000;

/// One call of a worker under an execution id.
type Call<'a, T> = dyn Fn(WorkerClient, String) -> BoxFuture<'a, Result<T, client::Error>> + Sync + 'a;

/// Who asks, and how long the answer is of use.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The model as the caller names it.
    pub model: &'a str,
    /// When an answer is of no use any more.
    pub timeout: Option<Duration>,
    /// The id that logs know the request by.
    pub correlation_id: &'a str,
}

impl Inference {
    /// Makes vectors of texts.
    pub async fn embed(&self, asked: Asked<'_>, request: EmbedRequest) -> Result<EmbedResponse, ApiError> {
        let call = |worker: WorkerClient, execution_id: String| -> BoxFuture<'_, _> {
            let request = EmbedRequest { request_id: Some(execution_id), ..request.clone() };
            Box::pin(async move { worker.embed(&request, asked.correlation_id).await })
        };
        self.on_worker(asked, ModelKind::Embedding, &call).await
    }

    /// Tells how relevant documents are to a query.
    pub async fn score(&self, asked: Asked<'_>, request: ScoreRequest) -> Result<ScoreResponse, ApiError> {
        let call = |worker: WorkerClient, execution_id: String| -> BoxFuture<'_, _> {
            let request = ScoreRequest { request_id: Some(execution_id), ..request.clone() };
            Box::pin(async move { worker.score(&request, asked.correlation_id).await })
        };
        self.on_worker(asked, ModelKind::Rerank, &call).await
    }

    /// Calls a worker that has a free slot, when one has.
    async fn on_worker<T>(
        &self,
        asked: Asked<'_>,
        kind: ModelKind,
        call: &Call<'_, T>,
    ) -> Result<T, ApiError> {
        let model = self.model(asked.model, kind)?;
        let deadline = asked.timeout.map(|timeout| Instant::now() + timeout);
        let until = deadline.unwrap_or_else(|| Instant::now() + LONGEST_WAIT);
        tokio::select! {
            outcome = self.attempts(model, deadline, asked, call) => outcome,
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

    async fn attempts<T>(
        &self,
        model: &str,
        deadline: Option<Instant>,
        asked: Asked<'_>,
        call: &Call<'_, T>,
    ) -> Result<T, ApiError> {
        let demand =
            Demand { model: model.to_owned(), priority: Priority::Interactive, node: None, deadline };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let ticket = self.scheduler.acquire(demand.clone()).await?;
            let lease = self.wait_for_slot(model, ticket).await?;
            match self.call_worker(lease, call).await {
                Err(error) if attempt < MAX_ATTEMPTS && may_go_elsewhere(&error) => {
                    tracing::info!(request_id = asked.correlation_id, %error, "queueing a request again");
                    tokio::time::sleep(RETRY_PAUSE * 4_u32.pow(attempt - 1)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits for a slot; for a model that loads, not longer than the cold-start wait.
    async fn wait_for_slot(&self, model: &str, mut ticket: Ticket) -> Result<Lease, ApiError> {
        let mut loading_since = None;
        loop {
            let patience = loading_since.unwrap_or_else(Instant::now) + self.cold_start_wait;
            let event = tokio::select! {
                event = ticket.next() => event,
                () = tokio::time::sleep_until(patience), if loading_since.is_some() => {
                    let message =
                        format!("'{model}' is still loading after {} s.", self.cold_start_wait.as_secs());
                    let error = ApiError::new(ErrorCode::ModelLoading, message);
                    return Err(error.with_retry_after_ms(RETRY_AFTER_LOAD_MS));
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
        // An answer, be it an error, leaves nothing behind at the worker; nor does a connection that was never made.
        if !matches!(outcome, Err(client::Error::Broken { .. })) {
            slot.confirm_free();
        }
        outcome.map_err(|error| {
            error.into_api_error(
                ErrorCode::WorkerLost,
                "The worker could not be reached, or ended before its answer.",
            )
        })
    }
}
