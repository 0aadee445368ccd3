//! The file of a batch: its lines are checked and become jobs. A queen that dies over it is followed by one who does the
//! same again: a line is one job, however often it is kept.

use std::collections::HashSet;

use protocol::openai::batches::{BatchError, BatchLine};
use protocol::task::Priority;
use protocol::{ApiError, ErrorCode};
use uuid::Uuid;

use super::{line, wrong};
use crate::clock::unix_millis;
use crate::inference::Inference;
use crate::store::{Batch, FILE_CHUNK, JobKind, NewJob, Store};

/// Lines of a batch at most, and bytes of each.
const LINES_MAX: usize = 50_000;
const LINE_BYTES_MAX: usize = 4 << 20;
/// Things that are wrong and are told; with more, nothing is read any further.
const ERRORS_MAX: usize = 100;
/// Jobs that are kept at once.
const AT_ONCE: usize = 500;

/// Why there are no jobs.
pub(super) enum Refusal {
    Lines(Vec<BatchError>),
    Store(ApiError),
}

impl From<crate::store::StoreError> for Refusal {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Store(error.into())
    }
}

/// Makes jobs of all lines; the model, if all have the same.
pub(super) async fn enqueue(
    store: &Store,
    inference: &Inference,
    batch: &Batch,
) -> Result<Option<String>, Refusal> {
    // Once to see whether all are sound, and once more to keep them: what is wrong is told before anything is begun.
    let mut reading = Reading {
        store,
        inference,
        batch,
        custom_ids: HashSet::new(),
        errors: Vec::new(),
        models: HashSet::new(),
    };
    let mut jobs = Vec::new();
    for is_kept in [false, true] {
        let mut lines = Lines::new(store, batch).await?;
        reading.custom_ids.clear();
        while let Some((number, text)) = lines.next().await? {
            let Some(job) = reading.read(number, &text).await else { continue };
            if is_kept {
                jobs.push(job);
                if jobs.len() == AT_ONCE {
                    store.enqueue_all(std::mem::take(&mut jobs)).await?;
                }
            }
            if reading.errors.len() >= ERRORS_MAX {
                break;
            }
        }
        if reading.custom_ids.is_empty() && reading.errors.is_empty() {
            reading.errors.push(BatchError {
                code: "empty_file".to_owned(),
                message: "The file has no lines.".to_owned(),
                param: None,
                line: None,
            });
        }
        if !reading.errors.is_empty() {
            return Err(Refusal::Lines(reading.errors));
        }
    }
    store.enqueue_all(jobs).await?;
    let is_one_model = reading.models.len() == 1;
    Ok(reading.models.into_iter().next().filter(|_| is_one_model))
}

struct Reading<'a> {
    store: &'a Store,
    inference: &'a Inference,
    batch: &'a Batch,
    custom_ids: HashSet<String>,
    errors: Vec<BatchError>,
    models: HashSet<String>,
}

impl Reading<'_> {
    /// The job of a line; what is wrong with it is noted.
    async fn read(&mut self, number: u32, text: &[u8]) -> Option<NewJob> {
        match self.checked(number, text).await {
            Ok(job) => Some(job),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    async fn checked(&mut self, number: u32, text: &[u8]) -> Result<NewJob, BatchError> {
        if number as usize > LINES_MAX {
            let message = format!("The file has more than {LINES_MAX} lines.");
            return Err(wrong("too_many_tasks", number, None, message));
        }
        if text.len() > LINE_BYTES_MAX {
            let message = format!("The line has more than {LINE_BYTES_MAX} bytes.");
            return Err(wrong("line_too_large", number, None, message));
        }
        let parsed: BatchLine = serde_json::from_slice(text).map_err(|error| {
            wrong("invalid_json_line", number, None, format!("The line is not a request as JSON: {error}."))
        })?;
        if parsed.method != "POST" {
            let message = "'method' must be POST.".to_owned();
            return Err(wrong("invalid_method", number, Some("method"), message));
        }
        if parsed.url != self.batch.endpoint {
            let message = format!("'url' must be the batch's endpoint, {}.", self.batch.endpoint);
            return Err(wrong("mismatched_url", number, Some("url"), message));
        }
        if !self.custom_ids.insert(parsed.custom_id.clone()) {
            let message = format!("'{}' is the custom_id of another line as well.", parsed.custom_id);
            return Err(wrong("duplicate_custom_id", number, Some("custom_id"), message));
        }
        let Self { store, inference, batch, .. } = self;
        let checked = line::check(inference, store, &batch.owner, &parsed.url, &parsed.body).await;
        let model = checked.map_err(|error| {
            let param =
                error.param.as_ref().map_or_else(|| "body".to_owned(), |param| format!("body.{param}"));
            let code =
                if error.code == ErrorCode::ModelNotFound { "model_not_found" } else { "invalid_request" };
            wrong(code, number, Some(&param), error.message)
        })?;
        self.models.insert(model.clone());
        Ok(NewJob {
            id: format!("batch_req_{}", Uuid::new_v4().simple()),
            kind: JobKind::BatchLine,
            owner: self.batch.owner.clone(),
            model,
            band: Priority::Batch.band(),
            created_at_ms: unix_millis(),
            deadline_at_ms: None,
            request: String::from_utf8_lossy(text).into_owned(),
            idempotency: None,
            group: Some((self.batch.id.clone(), number)),
            is_claimed: false,
        })
    }
}

/// The lines of a file, with their numbers from 1; empty ones are passed over.
struct Lines<'a> {
    store: &'a Store,
    batch: &'a Batch,
    chunk: u32,
    /// Bytes of the file that are not read yet.
    unread: u64,
    rest: Vec<u8>,
    /// Where in the rest the next line begins.
    begin: usize,
    number: u32,
}

impl<'a> Lines<'a> {
    async fn new(store: &'a Store, batch: &'a Batch) -> Result<Self, Refusal> {
        let file = store.file(&batch.owner, &batch.input_file_id).await?.ok_or_else(|| gone(1))?;
        Ok(Self { store, batch, chunk: 0, unread: file.bytes, rest: Vec::new(), begin: 0, number: 0 })
    }

    async fn next(&mut self) -> Result<Option<(u32, Vec<u8>)>, Refusal> {
        loop {
            let left = &self.rest[self.begin..];
            let end = left.iter().position(|byte| *byte == b'\n');
            let is_last = self.unread == 0;
            let Some(end) = end.or_else(|| (is_last && !left.is_empty()).then_some(left.len())) else {
                if is_last {
                    return Ok(None);
                }
                self.read_on().await?;
                continue;
            };
            let line = left[..end].trim_ascii().to_vec();
            self.begin = (self.begin + end + 1).min(self.rest.len());
            self.number += 1;
            if !line.is_empty() {
                return Ok(Some((self.number, line)));
            }
        }
    }

    async fn read_on(&mut self) -> Result<(), Refusal> {
        if self.rest.len() - self.begin > LINE_BYTES_MAX + FILE_CHUNK {
            let message = format!("A line has more than {LINE_BYTES_MAX} bytes.");
            return Err(Refusal::Lines(vec![wrong("line_too_large", self.number + 1, None, message)]));
        }
        self.rest.drain(..self.begin);
        self.begin = 0;
        let Batch { owner, input_file_id, .. } = self.batch;
        let data = self.store.file_chunk(owner, input_file_id, self.chunk).await?;
        let data = data.filter(|data| !data.is_empty()).ok_or_else(|| gone(self.number + 1))?;
        self.chunk += 1;
        self.unread = self.unread.saturating_sub(data.len() as u64);
        self.rest.extend(data);
        Ok(())
    }
}

/// What is told of a file that was deleted while it was read.
fn gone(line: u32) -> Refusal {
    let message = "The file was deleted, or has expired, before all of its lines were read.".to_owned();
    Refusal::Lines(vec![wrong("input_file_deleted", line, None, message)])
}
