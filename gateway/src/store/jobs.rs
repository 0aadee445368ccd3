//! Durable jobs: acknowledged once they are on disk, run at least once, their outcome applied exactly once.
//!
//! A job is queued → running → completed, failed or cancelled; what has ended stays as it is. A claim counts the attempt
//! up, and only who holds the attempt in force may end it or give it back: that is the fence against a queen which
//! was thought dead.

mod repeated;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::{ApiError, ErrorCode, ErrorEnvelope};
use tokio::sync::Notify;

use super::write::{Reply, Write};
use super::{Backend, Page, Paged, Store, StoreError, ask, postgres, undecodable};
use crate::clock::unix_millis;

pub(super) use repeated::{Found, compare};

/// A job whose queen died as often as this while a worker had it is not begun again: it may be what kills them.
pub(super) const RECLAIMS_MAX: i64 = 5;

/// What a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// A task of /v2.
    Task,
    /// A line of a batch.
    BatchLine,
    /// A response in the background.
    Response,
}

impl JobKind {
    /// As it is written down.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::BatchLine => "batch_line",
            Self::Response => "response",
        }
    }

    pub(super) fn parse(name: &str) -> sqlx::Result<Self> {
        match name {
            "task" => Ok(Self::Task),
            "batch_line" => Ok(Self::BatchLine),
            "response" => Ok(Self::Response),
            other => Err(undecodable(format!("a job is of the unknown kind '{other}'"))),
        }
    }
}

/// Where a job is in its life: queued → running → completed, failed or cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Waits to be claimed.
    Queued,
    /// A queen has it.
    Running,
    /// Ended as it should.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended by its owner.
    Cancelled,
}

impl JobState {
    /// As it is written down.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it stays as it is.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    pub(super) fn parse(name: &str) -> sqlx::Result<Self> {
        match name {
            "queued" => Ok(Self::Queued),
            "running" => Ok(Self::Running),
            "completed" => Ok(Self::Completed),
            "failed" => Ok(Self::Failed),
            "cancelled" => Ok(Self::Cancelled),
            other => Err(undecodable(format!("a job is in the unknown state '{other}'"))),
        }
    }
}

/// What makes a repeated request the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's Idempotency-Key.
    pub key: String,
    /// Of the body that came with it.
    pub digest: String,
}

/// A job to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Unlike all others'.
    pub id: String,
    /// What it is.
    pub kind: JobKind,
    /// The caller who alone may see it.
    pub owner: String,
    /// The model's name.
    pub model: String,
    /// Which is claimed first: 0 is the first (protocol's `Priority::band()`).
    pub band: u8,
    /// Milliseconds since 1970.
    pub created_at_ms: i64,
    /// Milliseconds since 1970.
    pub deadline_at_ms: Option<i64>,
    /// What is to be done, JSON.
    pub request: String,
    /// The caller's Idempotency-Key with a digest of the body.
    pub idempotency: Option<Idempotency>,
    /// The batch it belongs to, and its line there; unique together.
    pub group: Option<(String, u32)>,
    /// Taken by this queen at once (attempt 1), as it has room for it, or left for whoever claims it.
    pub is_claimed: bool,
}

/// What became of a job that was to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enqueued {
    /// It is on disk.
    New,
    /// It was there: the same key and digest of the same owner, the same line of the same group, or the same job again.
    Existing(Box<Job>),
    /// The key, or the id, belongs to something else.
    Conflict,
}

/// A job as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: JobKind,
    /// The caller who alone may see it.
    pub owner: String,
    /// The model's name.
    pub model: String,
    /// Which is claimed first: 0 is the first.
    pub band: u8,
    /// Milliseconds since 1970.
    pub created_at_ms: i64,
    /// Milliseconds since 1970.
    pub deadline_at_ms: Option<i64>,
    /// What is to be done, JSON; empty in lists.
    pub request: String,
    /// Where it is in its life.
    pub state: JobState,
    /// How often it was claimed.
    pub attempt: u32,
    /// When a worker began with it, in milliseconds since 1970.
    pub started_at_ms: Option<i64>,
    /// When it ended, in milliseconds since 1970.
    pub finished_at_ms: Option<i64>,
    /// The batch it belongs to, and its line there.
    pub group: Option<(String, u32)>,
    /// Why it went where it went, JSON.
    pub decision: Option<String>,
    /// What came of it, JSON; none in lists of an owner's jobs.
    pub result: Option<String>,
    /// Whether its owner wants it ended.
    pub is_cancelling: bool,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Completed, failed or cancelled.
    pub state: JobState,
    /// JSON.
    pub result: String,
    /// JSON.
    pub decision: Option<String>,
    /// What happened on the way, one JSON a line.
    pub events: String,
    /// Milliseconds since 1970.
    pub finished_at_ms: i64,
}

impl Outcome {
    /// What it counts towards the bound.
    pub(super) fn bytes(&self) -> i64 {
        (self.result.len() + self.decision.as_ref().map_or(0, String::len) + self.events.len()) as i64
    }

    /// The end of a job whose queens died over it: the result is an error envelope, and so is the one event.
    pub(super) fn worn_out(now_ms: i64) -> Self {
        let message = format!("The job was given up: the server ended {RECLAIMS_MAX} times while it ran.");
        let envelope = ErrorEnvelope::from(ApiError::new(ErrorCode::Internal, message));
        let result = serde_json::to_string(&envelope).unwrap_or_default();
        let events = format!("{{\"event\":\"error\",\"data\":{result}}}\n");
        Self { state: JobState::Failed, result, decision: None, events, finished_at_ms: now_ms }
    }
}

/// How many jobs of a group are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct GroupCounts {
    pub total: u64,
    pub queued: u64,
    pub running: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl GroupCounts {
    /// Counts so many jobs in.
    pub(super) fn add(&mut self, state: JobState, count: u64) {
        self.total += count;
        *match state {
            JobState::Queued => &mut self.queued,
            JobState::Running => &mut self.running,
            JobState::Completed => &mut self.completed,
            JobState::Failed => &mut self.failed,
            JobState::Cancelled => &mut self.cancelled,
        } += count;
    }
}

pub(super) struct Enqueue {
    pub jobs: Vec<NewJob>,
    pub reply: Reply<Vec<Enqueued>>,
}

pub(super) struct Claim {
    pub limit: u32,
    pub reply: Reply<Vec<Job>>,
}

pub(super) struct Begin {
    pub id: String,
    pub attempt: u32,
    pub now_ms: i64,
}

pub(super) struct Complete {
    pub id: String,
    pub attempt: u32,
    pub outcome: Outcome,
    pub reply: Reply<bool>,
}

pub(super) struct Release {
    pub id: String,
    pub attempt: u32,
    pub reply: Reply<bool>,
}

pub(super) struct Cancel {
    pub owner: String,
    pub id: String,
    pub outcome: Outcome,
    pub reply: Reply<Option<Job>>,
}

pub(super) struct CancelGroup {
    pub group: String,
    pub outcome: Outcome,
    pub reply: Reply<u64>,
}

pub(super) struct Forget {
    pub owner: String,
    pub id: String,
    pub reply: Reply<bool>,
}

pub(super) struct Reclaim {
    pub now_ms: i64,
    pub reply: Reply<u64>,
}

impl Store {
    /// Keeps a job to be done; returns when it is on disk. It may be repeated: the same job is not kept twice.
    pub async fn enqueue(&self, job: NewJob) -> Result<Enqueued, StoreError> {
        self.enqueue_all(vec![job]).await?.pop().ok_or(StoreError::Stopped)
    }

    /// Keeps jobs to be done, all of them or none.
    pub async fn enqueue_all(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>, StoreError> {
        self.write(|reply| Write::Enqueue(Enqueue { jobs, reply })).await
    }

    /// Takes queued jobs for this queen: best band first, then oldest; attempt + 1 each.
    pub async fn claim(&self, limit: u32) -> Result<Vec<Job>, StoreError> {
        self.write(|reply| Write::Claim(Claim { limit, reply })).await
    }

    /// Applies the outcome if this queen still holds this attempt; false if not. It may be repeated where it is not known
    /// what became of it: the same outcome of the same attempt is applied once and told twice.
    pub async fn complete(&self, id: &str, attempt: u32, outcome: Outcome) -> Result<bool, StoreError> {
        debug_assert!(outcome.state.is_ended(), "an outcome is an end");
        let id = id.to_owned();
        let is_applied =
            self.write(|reply| Write::Complete(Box::new(Complete { id, attempt, outcome, reply }))).await?;
        if !is_applied {
            self.signs.fenced.fetch_add(1, Ordering::Relaxed);
        }
        Ok(is_applied)
    }

    /// Notes that a worker has begun with a job, so that it counts against it if its queens die from now on. Nobody waits for
    /// that: where there is too much to write it is left out.
    pub fn begun(&self, id: &str, attempt: u32) {
        let begin = Begin { id: id.to_owned(), attempt, now_ms: unix_millis() };
        let _ = self.writes.try_send(Write::Begin(begin));
    }

    /// How many outcomes came too late: their attempt was another queen's by then.
    pub fn fenced(&self) -> u64 {
        self.signs.fenced.load(Ordering::Relaxed)
    }

    /// Gives a job back, to be claimed again; false if this queen does not hold this attempt.
    pub async fn release(&self, id: &str, attempt: u32) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.write(|reply| Write::Release(Release { id, attempt, reply })).await
    }

    /// Ends a queued job as cancelled; marks a running one, so that its holder ends it. The job as it stands then, `None`
    /// if the owner has none of this id.
    pub async fn cancel(
        &self,
        owner: &str,
        id: &str,
        now_ms: i64,
        outcome_if_queued: Outcome,
    ) -> Result<Option<Job>, StoreError> {
        let (owner, id) = (owner.to_owned(), id.to_owned());
        let outcome = Outcome { state: JobState::Cancelled, finished_at_ms: now_ms, ..outcome_if_queued };
        self.write(|reply| Write::Cancel(Box::new(Cancel { owner, id, outcome, reply }))).await
    }

    /// Ends or marks all unfinished jobs of a group; how many those are.
    pub async fn cancel_group(
        &self,
        group: &str,
        now_ms: i64,
        outcome_if_queued: Outcome,
    ) -> Result<u64, StoreError> {
        let group = group.to_owned();
        let outcome = Outcome { state: JobState::Cancelled, finished_at_ms: now_ms, ..outcome_if_queued };
        self.write(|reply| Write::CancelGroup(Box::new(CancelGroup { group, outcome, reply }))).await
    }

    /// Removes a job that has ended, with all that it told; false if there is none of this id.
    pub async fn forget(&self, owner: &str, id: &str) -> Result<bool, StoreError> {
        let (owner, id) = (owner.to_owned(), id.to_owned());
        self.write(|reply| Write::Forget(Forget { owner, id, reply })).await
    }

    /// Returns jobs of queens that are dead to the queue; how many. The attempt stays; the next claim counts it up.
    pub async fn reclaim(&self) -> Result<u64, StoreError> {
        let now_ms = unix_millis();
        self.write(|reply| Write::Reclaim(Reclaim { now_ms, reply })).await
    }

    /// Running jobs of this queen, and which attempt each is in.
    pub async fn held(&self) -> Result<Vec<(String, u32)>, StoreError> {
        ask!(self, jobs::held())
    }

    /// Running jobs of this queen that are to be cancelled.
    pub async fn cancelling(&self) -> Result<Vec<String>, StoreError> {
        ask!(self, jobs::cancelling())
    }

    /// One job.
    pub async fn job(&self, owner: &str, id: &str) -> Result<Option<Job>, StoreError> {
        ask!(self, jobs::job(owner, id))
    }

    /// What happened in a job that has ended, one JSON a line.
    pub async fn job_events(&self, owner: &str, id: &str) -> Result<Option<String>, StoreError> {
        ask!(self, jobs::job_events(owner, id))
    }

    /// An owner's jobs of a kind, without what was asked and what came of it. `None` if the page begins after a job that is
    /// not there.
    pub async fn jobs(
        &self,
        owner: &str,
        kind: JobKind,
        state: Option<JobState>,
        model: Option<&str>,
        page: &Page,
    ) -> Result<Option<Paged<Job>>, StoreError> {
        ask!(self, jobs::jobs(owner, kind, state, model, page))
    }

    /// The jobs of a group by their lines, whole.
    pub async fn group(
        &self,
        group: &str,
        after_line: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Job>, StoreError> {
        ask!(self, jobs::group(group, after_line, limit))
    }

    /// How many jobs of a group are where.
    pub async fn group_counts(&self, group: &str) -> Result<GroupCounts, StoreError> {
        ask!(self, jobs::group_counts(group))
    }

    /// How many jobs are queued or running, of all queens. It is counted as they come and go, and so costs next to nothing.
    pub async fn unfinished(&self) -> Result<u64, StoreError> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(self.signs.unfinished.load(Ordering::Relaxed)),
            Backend::Postgres(readers) => postgres::jobs::unfinished(readers).await,
        }
    }

    /// Wakes when there may be something to claim. One task of a queen waits on it.
    pub fn work(&self) -> Arc<Notify> {
        self.signs.work.clone()
    }
}
