//! Batches: files of requests, of which each line is a job.
//!
//! One queen sees to a batch. She moves it on from the state that she knows it in, so that nothing is overwritten that was
//! asked for meanwhile; if she dies, another one takes it.

use protocol::openai::metadata::Metadata;

use super::write::{Reply, Write};
use super::{Page, Paged, Store, StoreError, ask, undecodable};

/// Where a batch is in its life: validating → in progress → finalizing → completed; or failed, expired, or cancelling →
/// cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are OpenAI's and say it")]
pub enum BatchStatus {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl BatchStatus {
    /// As it is written down, and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it stays as it is.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Expired | Self::Cancelled)
    }

    pub(super) fn parse(name: &str) -> sqlx::Result<Self> {
        match name {
            "validating" => Ok(Self::Validating),
            "failed" => Ok(Self::Failed),
            "in_progress" => Ok(Self::InProgress),
            "finalizing" => Ok(Self::Finalizing),
            "completed" => Ok(Self::Completed),
            "expired" => Ok(Self::Expired),
            "cancelling" => Ok(Self::Cancelling),
            "cancelled" => Ok(Self::Cancelled),
            other => Err(undecodable(format!("a batch is in the unknown state '{other}'"))),
        }
    }
}

/// A batch. All times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of times are those of the states")]
pub struct Batch {
    /// Its id, which is its jobs' group.
    pub id: String,
    /// The caller who alone may see it.
    pub owner: String,
    pub created_at: i64,
    /// Which endpoint its lines are for.
    pub endpoint: String,
    /// The model of its lines.
    pub model: Option<String>,
    /// Where its lines come from.
    pub input_file_id: String,
    /// Within which time it is to end, as the caller wrote it.
    pub completion_window: String,
    /// Where it is in its life.
    pub status: BatchStatus,
    pub expires_at: Option<i64>,
    pub in_progress_at: Option<i64>,
    pub finalizing_at: Option<i64>,
    pub completed_at: Option<i64>,
    pub failed_at: Option<i64>,
    pub expired_at: Option<i64>,
    pub cancelling_at: Option<i64>,
    pub cancelled_at: Option<i64>,
    /// What came of lines that went well.
    pub output_file_id: Option<String>,
    /// What came of those that did not.
    pub error_file_id: Option<String>,
    /// How long both are kept, in seconds; until they are deleted if none.
    pub output_seconds: Option<i64>,
    /// Why it failed, JSON.
    pub errors: Option<String>,
    /// The caller's own pairs.
    pub metadata: Metadata,
}

pub(super) struct PutBatch {
    pub batch: Batch,
    pub reply: Reply<bool>,
}

pub(super) struct UpdateBatch {
    pub batch: Batch,
    pub from: BatchStatus,
    pub reply: Reply<bool>,
}

pub(super) struct CancelBatch {
    pub owner: String,
    pub id: String,
    pub now: i64,
    pub reply: Reply<Option<Batch>>,
}

pub(super) struct ClaimBatches {
    pub reply: Reply<Vec<Batch>>,
}

impl Store {
    /// Keeps a batch that this queen sees to; false if there is one of its id.
    pub async fn put_batch(&self, batch: Batch) -> Result<bool, StoreError> {
        self.write(|reply| Write::PutBatch(Box::new(PutBatch { batch, reply }))).await
    }

    /// Moves a batch on from a state; false if it is in another one, or another queen sees to it.
    pub async fn update_batch(&self, batch: Batch, from: BatchStatus) -> Result<bool, StoreError> {
        self.write(|reply| Write::UpdateBatch(Box::new(UpdateBatch { batch, from, reply }))).await
    }

    /// Marks a batch that is validated or in progress as to be cancelled by whoever sees to it. The batch as it stands then,
    /// `None` if the owner has none of this id.
    pub async fn cancel_batch(&self, owner: &str, id: &str, now: i64) -> Result<Option<Batch>, StoreError> {
        let (owner, id) = (owner.to_owned(), id.to_owned());
        self.write(|reply| Write::CancelBatch(Box::new(CancelBatch { owner, id, now, reply }))).await
    }

    /// Takes the unfinished batches that no living queen sees to, the oldest first.
    pub async fn claim_batches(&self) -> Result<Vec<Batch>, StoreError> {
        self.write(|reply| Write::ClaimBatches(ClaimBatches { reply })).await
    }

    /// One batch.
    pub async fn batch(&self, owner: &str, id: &str) -> Result<Option<Batch>, StoreError> {
        ask!(self, batches::batch(owner, id))
    }

    /// An owner's batches. `None` if the page begins after a batch that is not there.
    pub async fn batches(&self, owner: &str, page: &Page) -> Result<Option<Paged<Batch>>, StoreError> {
        ask!(self, batches::batches(owner, page))
    }
}
