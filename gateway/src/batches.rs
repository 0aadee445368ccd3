//! Batches: files of requests that are answered when there is time. Each request is a job; one queen sees to the batch,
//! and if she dies, another one goes on where the store says that it stands.

mod input;
pub(crate) mod line;
mod output;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::openai::batches::{
    BatchCounts, BatchError, BatchErrors, BatchObject, BatchRequest, ExpiresAfter,
};
use protocol::{ApiError, ErrorCode};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::{unix_millis, unix_seconds};
use crate::inference::{Inference, metadata};
use crate::store::{
    Batch, BatchStatus, FILE_SECONDS, GroupCounts, JobState, Order, Outcome, Page, Paged, Store,
};

/// The purpose of files that batches are made from.
pub const PURPOSE: &str = "batch";
/// The endpoints whose requests may stand in a batch.
pub const ENDPOINTS: [&str; 4] =
    ["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings"];
/// The time in which a batch is to end, and the same in seconds.
const WINDOW: &str = "24h";
const WINDOW_SECONDS: i64 = 24 * 3600;
/// How often it is looked how far a batch is, and for batches that nobody sees to.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const CLAIM_EVERY: Duration = Duration::from_secs(3);

/// All batches, and the one queen's part in them.
#[derive(Clone)]
pub struct Batches {
    store: Store,
    inference: Inference,
    /// Those that this queen sees to.
    seen_to: Arc<Mutex<HashSet<String>>>,
    stop: CancellationToken,
}

/// Why a batch is not seen to any further now.
enum Left {
    /// The queen stops, or another one sees to it.
    Off,
    /// The store cannot be used.
    Failed(ApiError),
}

impl From<crate::store::StoreError> for Left {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl Batches {
    /// Batches over this store, until `stop`.
    pub fn new(store: Store, inference: Inference, stop: CancellationToken) -> Self {
        Self { store, inference, seen_to: Arc::default(), stop }
    }

    /// Sees to batches that nobody living sees to, until told to stop.
    pub async fn run(self) {
        let mut look = tokio::time::interval(CLAIM_EVERY);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = look.tick() => {}
            }
            match self.store.claim_batches().await {
                Ok(batches) => batches.into_iter().for_each(|batch| self.see_to(batch)),
                Err(error) => tracing::warn!(%error, "no batches could be claimed"),
            }
        }
    }

    /// Makes a batch of a file.
    pub async fn create(&self, request: BatchRequest, owner: &str) -> Result<BatchObject, ApiError> {
        metadata(request.metadata.as_ref())?;
        if !ENDPOINTS.contains(&&*request.endpoint) {
            let message = format!("'endpoint' must be one of {}.", ENDPOINTS.join(", "));
            return Err(ApiError::invalid("endpoint", message));
        }
        if request.completion_window != WINDOW {
            return Err(ApiError::invalid("completion_window", "'completion_window' must be 24h."));
        }
        let output_seconds = request.output_expires_after.as_ref().map(kept_for).transpose()?;
        let file = self.store.file(owner, &request.input_file_id).await?.ok_or_else(|| {
            let message = format!("There is no file '{}'.", request.input_file_id);
            ApiError::new(ErrorCode::NotFound, message).with_param("input_file_id")
        })?;
        if file.purpose != PURPOSE {
            let message = format!("The file's purpose is '{}'; it must be '{PURPOSE}'.", file.purpose);
            return Err(ApiError::invalid("input_file_id", message));
        }
        let now = unix_seconds();
        let batch = Batch {
            id: format!("batch_{}", Uuid::new_v4().simple()),
            owner: owner.to_owned(),
            created_at: now,
            endpoint: request.endpoint,
            model: None,
            input_file_id: request.input_file_id,
            completion_window: request.completion_window,
            status: BatchStatus::Validating,
            expires_at: Some(now + WINDOW_SECONDS),
            in_progress_at: None,
            finalizing_at: None,
            completed_at: None,
            failed_at: None,
            expired_at: None,
            cancelling_at: None,
            cancelled_at: None,
            output_file_id: None,
            error_file_id: None,
            output_seconds,
            errors: None,
            metadata: request.metadata.unwrap_or_default(),
        };
        self.store.put_batch(batch.clone()).await?;
        self.see_to(batch.clone());
        Ok(object(batch, GroupCounts::default()))
    }

    /// How a batch stands.
    pub async fn get(&self, owner: &str, id: &str) -> Result<BatchObject, ApiError> {
        let batch = self.store.batch(owner, id).await?.ok_or_else(missing)?;
        let counts = self.store.group_counts(id).await?;
        Ok(object(batch, counts))
    }

    /// An owner's batches, the newest first; `None` if the page begins after one that is not there.
    pub async fn list(&self, owner: &str, page: &Page) -> Result<Option<Paged<BatchObject>>, ApiError> {
        let page = Page { order: Order::NewestFirst, ..page.clone() };
        let Some(batches) = self.store.batches(owner, &page).await? else { return Ok(None) };
        let mut entries = Vec::with_capacity(batches.entries.len());
        for batch in batches.entries {
            let counts = self.store.group_counts(&batch.id).await?;
            entries.push(object(batch, counts));
        }
        Ok(Some(Paged { entries, has_more: batches.has_more }))
    }

    /// Has a batch ended. What was answered by then is kept.
    pub async fn cancel(&self, owner: &str, id: &str) -> Result<BatchObject, ApiError> {
        let batch = self.store.cancel_batch(owner, id, unix_seconds()).await?.ok_or_else(missing)?;
        if batch.status.is_ended() && batch.status != BatchStatus::Cancelled {
            let message = format!("The batch is {}; it cannot be cancelled.", batch.status.as_str());
            return Err(ApiError::new(ErrorCode::InvalidRequest, message).with_param("batch_id"));
        }
        let counts = self.store.group_counts(id).await?;
        Ok(object(batch, counts))
    }

    fn see_to(&self, batch: Batch) {
        let is_new = self.lock().insert(batch.id.clone());
        if !is_new || self.stop.is_cancelled() {
            return;
        }
        let batches = self.clone();
        tokio::spawn(async move {
            let id = batch.id.clone();
            let mut batch = batch;
            while let Err(Left::Failed(error)) = batches.advance(&mut batch).await {
                tracing::warn!(batch = id, %error, "a batch could not be seen to; it is tried again");
                tokio::time::sleep(CLAIM_EVERY).await;
            }
            batches.lock().remove(&id);
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.seen_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a batch on until it has ended.
    async fn advance(&self, batch: &mut Batch) -> Result<(), Left> {
        loop {
            match batch.status {
                BatchStatus::Validating => self.validate(batch).await?,
                BatchStatus::InProgress => self.wait(batch).await?,
                BatchStatus::Cancelling => self.cancel_jobs(batch).await?,
                BatchStatus::Finalizing => self.finish(batch).await?,
                BatchStatus::Completed
                | BatchStatus::Failed
                | BatchStatus::Expired
                | BatchStatus::Cancelled => return Ok(()),
            }
        }
    }

    /// Puts a batch into another state. If it was put into one meanwhile that was not known here, that is taken over.
    async fn put(&self, batch: &mut Batch, next: Batch) -> Result<(), Left> {
        if self.store.update_batch(next.clone(), batch.status).await? {
            *batch = next;
            return Ok(());
        }
        match self.store.batch(&batch.owner, &batch.id).await? {
            Some(stored) if stored.status != batch.status => {
                *batch = stored;
                Ok(())
            }
            _ => Err(Left::Off),
        }
    }

    /// Makes jobs of the file's lines, or tells what is wrong with them.
    async fn validate(&self, batch: &mut Batch) -> Result<(), Left> {
        let now = unix_seconds();
        let next = match input::enqueue(&self.store, &self.inference, batch).await {
            Ok(model) => {
                Batch { status: BatchStatus::InProgress, in_progress_at: Some(now), model, ..batch.clone() }
            }
            Err(input::Refusal::Lines(data)) => {
                let errors = BatchErrors { object: "list".to_owned(), data };
                let errors = serde_json::to_string(&errors).ok();
                Batch { status: BatchStatus::Failed, failed_at: Some(now), errors, ..batch.clone() }
            }
            Err(input::Refusal::Store(error)) => return Err(Left::Failed(error)),
        };
        if next.status == BatchStatus::Failed {
            // Lines before the wrong one may be jobs already.
            self.store.cancel_group(&batch.id, unix_millis(), not_sent("batch_failed")).await?;
        }
        self.put(batch, next).await
    }

    /// Waits until all jobs have ended, or are to be ended.
    async fn wait(&self, batch: &mut Batch) -> Result<(), Left> {
        loop {
            let counts = self.store.group_counts(&batch.id).await?;
            if counts.queued + counts.running == 0 {
                let now = Some(unix_seconds());
                let next = Batch { status: BatchStatus::Finalizing, finalizing_at: now, ..batch.clone() };
                return self.put(batch, next).await;
            }
            if batch.expires_at.is_some_and(|at| at <= unix_seconds()) {
                self.store.cancel_group(&batch.id, unix_millis(), not_sent("batch_expired")).await?;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.stop.cancelled() => return Err(Left::Off),
            }
            let stored = self.store.batch(&batch.owner, &batch.id).await?.ok_or(Left::Off)?;
            if stored.status != batch.status {
                *batch = stored;
                return Ok(());
            }
        }
    }

    /// Ends what has not ended, and keeps what was answered.
    async fn cancel_jobs(&self, batch: &mut Batch) -> Result<(), Left> {
        loop {
            self.store.cancel_group(&batch.id, unix_millis(), not_sent("batch_cancelled")).await?;
            let counts = self.store.group_counts(&batch.id).await?;
            if counts.queued + counts.running == 0 {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.stop.cancelled() => return Err(Left::Off),
            }
        }
        let mut next = output::with_files(&self.store, batch).await?;
        (next.status, next.cancelled_at) = (BatchStatus::Cancelled, Some(unix_seconds()));
        self.put(batch, next).await
    }

    /// Writes the files of a batch whose jobs have ended.
    async fn finish(&self, batch: &mut Batch) -> Result<(), Left> {
        let mut next = output::with_files(&self.store, batch).await?;
        let now = Some(unix_seconds());
        let is_late = batch.expires_at <= batch.finalizing_at;
        if is_late {
            (next.status, next.expired_at) = (BatchStatus::Expired, now);
        } else {
            (next.status, next.completed_at) = (BatchStatus::Completed, now);
        }
        self.put(batch, next).await
    }
}

/// How long what a batch leaves is kept.
fn kept_for(expiry: &ExpiresAfter) -> Result<i64, ApiError> {
    let ExpiresAfter { anchor, seconds } = expiry;
    if anchor != "created_at" {
        return Err(ApiError::invalid("output_expires_after.anchor", "It must be created_at."));
    }
    if !FILE_SECONDS.contains(seconds) {
        let message = format!("It must be from {} to {}.", FILE_SECONDS.start(), FILE_SECONDS.end());
        return Err(ApiError::invalid("output_expires_after.seconds", message));
    }
    Ok(*seconds)
}

/// What comes of a job that is ended before anyone has it.
fn not_sent(code: &str) -> Outcome {
    Outcome {
        state: JobState::Cancelled,
        result: line::not_sent(code),
        decision: None,
        events: String::new(),
        finished_at_ms: unix_millis(),
    }
}

fn missing() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "There is no batch with this id.").with_param("batch_id")
}

fn object(batch: Batch, counts: GroupCounts) -> BatchObject {
    BatchObject {
        id: batch.id,
        object: "batch".to_owned(),
        endpoint: batch.endpoint,
        model: batch.model,
        errors: batch.errors.and_then(|errors| serde_json::from_str(&errors).ok()),
        input_file_id: batch.input_file_id,
        completion_window: batch.completion_window,
        status: batch.status.as_str().to_owned(),
        output_file_id: batch.output_file_id,
        error_file_id: batch.error_file_id,
        created_at: batch.created_at,
        in_progress_at: batch.in_progress_at,
        expires_at: batch.expires_at,
        finalizing_at: batch.finalizing_at,
        completed_at: batch.completed_at,
        failed_at: batch.failed_at,
        expired_at: batch.expired_at,
        cancelling_at: batch.cancelling_at,
        cancelled_at: batch.cancelled_at,
        request_counts: BatchCounts {
            total: counts.total,
            completed: counts.completed,
            failed: counts.failed,
        },
        metadata: (!batch.metadata.is_empty()).then_some(batch.metadata),
    }
}

/// One thing that is wrong with a line.
fn wrong(code: &str, line: u32, param: Option<&str>, message: String) -> BatchError {
    BatchError { code: code.to_owned(), message, param: param.map(str::to_owned), line: Some(line) }
}
