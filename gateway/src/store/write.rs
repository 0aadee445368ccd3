//! What is on its way to a writer. Each write carries who waits for it; the answer is told when it is committed.

use std::time::Duration;

use tokio::sync::oneshot;

use super::batches::{CancelBatch, ClaimBatches, PutBatch, UpdateBatch};
use super::files::{AppendFile, BeginFile, DeleteFile, FinishFile};
use super::jobs::{Begin, Cancel, CancelGroup, Claim, Complete, Enqueue, Forget, Reclaim, Release};
use super::objects::{Delete, Put, SetMetadata};
use super::{Store, StoreError};

/// What a slow server may take for each job that is put, and for a group of which nobody knows how large it is.
const EACH_JOB: Duration = Duration::from_millis(2);
const MANY_JOBS: Duration = Duration::from_mins(1);

/// One write.
pub(super) enum Write {
    Put(Box<Put>),
    SetMetadata(SetMetadata),
    Delete(Delete),
    Enqueue(Enqueue),
    Claim(Claim),
    Begin(Begin),
    Complete(Box<Complete>),
    Release(Release),
    Cancel(Box<Cancel>),
    CancelGroup(Box<CancelGroup>),
    Forget(Forget),
    Reclaim(Reclaim),
    BeginFile(Box<BeginFile>),
    AppendFile(AppendFile),
    FinishFile(FinishFile),
    DeleteFile(DeleteFile),
    PutBatch(Box<PutBatch>),
    UpdateBatch(Box<UpdateBatch>),
    CancelBatch(Box<CancelBatch>),
    ClaimBatches(ClaimBatches),
}

/// Who waits, and what will be told once it is true.
pub(super) struct Reply<T> {
    answer: Option<T>,
    waiting: oneshot::Sender<Result<T, StoreError>>,
}

impl<T> Reply<T> {
    /// Holds the answer until the commit.
    pub fn set(&mut self, answer: T) {
        self.answer = Some(answer);
    }

    fn tell(self, committed: &Result<(), StoreError>) {
        let outcome = match committed {
            Ok(()) => self.answer.ok_or(StoreError::Stopped),
            Err(error) => Err(error.clone()),
        };
        // Who does not wait any more need not be told.
        let _ = self.waiting.send(outcome);
    }
}

impl Write {
    /// Tells who waits.
    pub fn tell(self, committed: &Result<(), StoreError>) {
        match self {
            Self::Put(write) => write.reply.tell(committed),
            Self::SetMetadata(write) => write.reply.tell(committed),
            Self::Delete(write) => write.reply.tell(committed),
            Self::Enqueue(write) => write.reply.tell(committed),
            Self::Claim(write) => write.reply.tell(committed),
            Self::Begin(_) => {}
            Self::Complete(write) => write.reply.tell(committed),
            Self::Release(write) => write.reply.tell(committed),
            Self::Cancel(write) => write.reply.tell(committed),
            Self::CancelGroup(write) => write.reply.tell(committed),
            Self::Forget(write) => write.reply.tell(committed),
            Self::Reclaim(write) => write.reply.tell(committed),
            Self::BeginFile(write) => write.reply.tell(committed),
            Self::AppendFile(write) => write.reply.tell(committed),
            Self::FinishFile(write) => write.reply.tell(committed),
            Self::DeleteFile(write) => write.reply.tell(committed),
            Self::PutBatch(write) => write.reply.tell(committed),
            Self::UpdateBatch(write) => write.reply.tell(committed),
            Self::CancelBatch(write) => write.reply.tell(committed),
            Self::ClaimBatches(write) => write.reply.tell(committed),
        }
    }

    /// Whether it must have outlived a crash of the machine before it is told.
    pub const fn is_durable(&self) -> bool {
        !matches!(self, Self::Put(_) | Self::SetMetadata(_) | Self::Delete(_) | Self::Begin(_))
    }

    /// Whether it came too late, which may be because this queen was thought dead.
    pub const fn is_fenced(&self) -> bool {
        matches!(self, Self::Complete(complete) if matches!(complete.reply.answer, Some(false)))
    }

    /// How much longer than others it may take, as it is about many jobs.
    pub fn takes(&self) -> Duration {
        match self {
            Self::Enqueue(enqueue) => EACH_JOB * enqueue.jobs.len() as u32,
            Self::CancelGroup(_) | Self::Reclaim(_) => MANY_JOBS,
            _ => Duration::ZERO,
        }
    }

    /// Whether there may be something to claim after it.
    pub fn brings_work(&self) -> bool {
        match self {
            Self::Enqueue(enqueue) => enqueue.jobs.iter().any(|job| !job.is_claimed),
            Self::Release(_) | Self::Reclaim(_) => true,
            _ => false,
        }
    }
}

impl Store {
    /// Has something written and waits for the commit.
    pub(super) async fn write<T>(&self, write: impl FnOnce(Reply<T>) -> Write) -> Result<T, StoreError> {
        let (waiting, told) = oneshot::channel();
        let write = write(Reply { answer: None, waiting });
        self.writes.send(write).await.map_err(|_| StoreError::Stopped)?;
        told.await.map_err(|_| StoreError::Stopped)?
    }
}
