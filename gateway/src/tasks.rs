//! The jobs of /v2: durable work. A job is kept before it is acknowledged, and is run by whichever queen holds it: by
//! the one that took it in, if she has room, or by one that claims it later. Its result is applied once, whoever dies
//! meanwhile; its events are there for as many readers as like to follow it, and for those who come back.

mod drive;
mod follow;
mod live;
mod record;
mod work;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use protocol::config::DEFAULT_CHAT_MODEL;
use protocol::hive::ModelKind;
use protocol::openai::responses::Response;
use protocol::queen::TaskCounts;
use protocol::task::{JobDecision, Priority, TaskPreview, TaskRequest, TaskStatus, TaskSummary, TaskView};
use protocol::{ApiError, ErrorCode, JobId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::follow::Reader;
use self::live::{Live, ended_by_owner};
use self::work::Work;
use crate::clock::unix_millis;
use crate::inference::{Asker, Inference, InferenceRequest, Run, task_request};
use crate::responses::Background;
use crate::scheduler::Preview;
use crate::store::{Enqueued, Idempotency, Job, JobKind, JobState, NewJob, Page, Paged, Store};

pub use self::live::{EventId, Told};

/// Jobs that one queen holds at most, and those of them that nobody waits for in person.
const HELD: usize = 512;
const HELD_OF_BATCHES: usize = 384;
/// Jobs that are not ended, in all; more are refused.
const UNFINISHED_MAX: u64 = 200_000;
/// Whether a job that another queen holds has ended is looked for this often by who cancels it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A job that another queen holds ends within this time when it is cancelled, or is told of as it stands.
const CANCELLED_WITHIN: Duration = Duration::from_secs(5);

/// All jobs, and those that this queen holds.
#[derive(Clone)]
pub struct Jobs {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    inference: Inference,
    held: Mutex<HashMap<JobId, Arc<Live>>>,
    /// Wakes who claims when there is room.
    room: Notify,
    running: TaskTracker,
    /// Cancelled when no more is begun.
    stop: CancellationToken,
}

/// A task that was taken in, or had been.
pub struct Submitted {
    pub job_id: JobId,
    /// Place in the queue.
    pub position: u32,
    pub eta: Option<Duration>,
    pub is_new: IsNew,
}

/// Whether a submission made a job, or its key had made one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsNew {
    Yes,
    No,
}

/// Whether what has ended counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsEnded {
    No,
    Either,
}

/// Which jobs are listed.
#[derive(Debug, Default)]
pub struct Filter {
    pub status: Option<TaskStatus>,
    pub model: Option<String>,
}

impl Jobs {
    /// Jobs over this store, run by these machines, until `stop`.
    pub fn new(store: Store, inference: Inference, stop: CancellationToken) -> Self {
        let shared = Shared {
            store,
            inference,
            held: Mutex::default(),
            room: Notify::new(),
            running: TaskTracker::new(),
            stop,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes in a task. It is kept when this returns.
    pub async fn submit(
        &self,
        mut body: TaskRequest,
        asker: &Asker,
        key: Option<Idempotency>,
    ) -> Result<Submitted, ApiError> {
        let request = self.request(body.clone())?;
        if request.kind() == ModelKind::TextGen {
            // Chosen here, so that another attempt says the same.
            body.seed.get_or_insert_with(|| rand::random::<u64>() >> 11);
        }
        let now = unix_millis();
        let id = JobId::from(Uuid::new_v4().to_string());
        let deadline = body.deadline_ms.map(|deadline| deadline.min(i64::MAX as u64 / 4));
        let job = NewJob {
            id: id.to_string(),
            kind: JobKind::Task,
            owner: asker.caller.to_string(),
            model: self.shared.inference.names.shown(&request.model),
            band: body.priority.band(),
            created_at_ms: now,
            deadline_at_ms: deadline.map(|deadline| now.saturating_add_unsigned(deadline)),
            request: serde_json::to_string(&body).unwrap_or_default(),
            idempotency: key,
            group: None,
            is_claimed: false,
        };
        let mut request = request;
        request.order.seed = body.seed;
        self.take_in(job, request).await
    }

    /// Takes in a response that is to be made in the background.
    pub async fn submit_response(&self, background: Background, owner: &str) -> Result<(), ApiError> {
        let job = NewJob {
            id: background.draft.id.clone(),
            kind: JobKind::Response,
            owner: owner.to_owned(),
            model: background.draft.model.clone(),
            band: background.priority().band(),
            created_at_ms: unix_millis(),
            deadline_at_ms: None,
            request: serde_json::to_string(&background).unwrap_or_default(),
            idempotency: None,
            group: None,
            is_claimed: false,
        };
        self.take_in(job, background.request()).await.map(drop)
    }

    /// A response that is made in the background and has not ended, as far as it is made.
    pub async fn response(&self, owner: &str, id: &str) -> Result<Option<Response>, ApiError> {
        let Some(background) = self.background(owner, id, IsEnded::No).await? else { return Ok(None) };
        Ok(Some(match self.held(&JobId::from(id)) {
            Some(live) => background.after(live.log().events.iter()),
            None => background.draft,
        }))
    }

    /// What a response is made from that is or was made in the background.
    pub async fn background(
        &self,
        owner: &str,
        id: &str,
        is_ended: IsEnded,
    ) -> Result<Option<Background>, ApiError> {
        let Some(job) = self.shared.store.job(owner, id).await? else { return Ok(None) };
        if is_ended == IsEnded::No && job.state.is_ended() {
            return Ok(None);
        }
        match Work::read(&job)? {
            Work::Response(background) => Ok(Some(*background)),
            Work::Task(_) | Work::Line => Ok(None),
        }
    }

    /// Gives a job a place in the queue or leaves it for later, and keeps it.
    async fn take_in(&self, mut job: NewJob, request: InferenceRequest) -> Result<Submitted, ApiError> {
        let run = self.begin(&job, request).await?;
        job.is_claimed = run.is_some();
        let (position, eta) = run.as_ref().map_or((0, None), Run::waiting);
        match self.shared.store.enqueue(job.clone()).await? {
            Enqueued::New => {
                let job_id = JobId::from(job.id.as_str());
                if let Some(run) = run {
                    self.hold(claimed(job), Some(run));
                }
                Ok(Submitted { job_id, position, eta, is_new: IsNew::Yes })
            }
            Enqueued::Existing(job) => Ok(existing(&job)),
            Enqueued::Conflict => Err(key_conflict()),
        }
    }

    /// Whether a task could be served, and when; nothing is queued.
    pub fn preview(&self, body: TaskRequest, asker: &Asker) -> Result<TaskPreview, ApiError> {
        let request = self.request(body)?;
        Ok(match self.shared.inference.preview(&request, asker) {
            Ok(Preview { worker, why, position, eta }) => {
                let (node, worker_id) = worker.unzip();
                TaskPreview {
                    feasible: true,
                    reason: why.to_owned(),
                    node: node.map(|node| node.to_string()),
                    worker_id,
                    queue_position: position,
                    eta_ms: eta.map(|eta| eta.as_millis() as u64),
                    error: None,
                }
            }
            Err(error) => TaskPreview {
                feasible: false,
                reason: error.message.clone(),
                node: None,
                worker_id: None,
                queue_position: 0,
                eta_ms: None,
                error: Some(error),
            },
        })
    }

    /// How a job stands.
    pub async fn view(&self, owner: &str, id: &JobId) -> Result<TaskView, ApiError> {
        let job = self.job(owner, id).await?;
        record::view(&job, self.held(id).as_deref())
    }

    /// Why a job went where it went.
    pub async fn decision(&self, owner: &str, id: &JobId) -> Result<JobDecision, ApiError> {
        let job = self.job(owner, id).await?;
        let live = self.held(id).and_then(|live| live.log().decision.clone());
        let decision = live.or_else(|| record::decision(&job)).ok_or_else(|| {
            let message = "The task waits; nothing was decided yet.";
            ApiError::new(ErrorCode::NotFound, message).with_param("job_id")
        })?;
        Ok(JobDecision { job_id: id.to_string(), decision })
    }

    /// The jobs of an owner; `None` if the page begins after one that is not there.
    pub async fn list(
        &self,
        owner: &str,
        filter: &Filter,
        page: &Page,
    ) -> Result<Option<Paged<TaskSummary>>, ApiError> {
        let store = &self.shared.store;
        let state = filter.status.and_then(state);
        let (mut entries, mut page) = (Vec::new(), page.clone());
        let wanted = page.limit;
        loop {
            let jobs = store.jobs(owner, JobKind::Task, state, filter.model.as_deref(), &page).await?;
            let Some(Paged { entries: jobs, has_more }) = jobs else { return Ok(None) };
            page.after = jobs.last().map(|job| job.id.clone());
            let held = |job: &Job| self.held(&JobId::from(job.id.as_str()));
            let summaries = jobs.iter().map(|job| record::summary(job, held(job).as_deref()));
            // The record of a job that is held does not tell whether it has a slot yet.
            entries
                .extend(summaries.filter(|entry| filter.status.is_none_or(|status| status == entry.status)));
            if !has_more || entries.len() > wanted {
                let has_more = has_more || entries.len() > wanted;
                entries.truncate(wanted);
                return Ok(Some(Paged { entries, has_more }));
            }
            if entries.len() == wanted {
                return Ok(Some(Paged { entries, has_more }));
            }
        }
    }

    /// Ends a job; one that has ended stays as it is.
    pub async fn cancel(&self, owner: &str, id: &JobId) -> Result<TaskView, ApiError> {
        let job = self.job(owner, id).await?;
        if let Some(live) = self.held(id) {
            live.cancel.cancel();
            live.over().await;
        } else if !job.state.is_ended() {
            self.cancel_unheld(&job).await?;
            let ended = async {
                while !self.job(owner, id).await?.state.is_ended() {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Ok::<_, ApiError>(())
            };
            let _ = tokio::time::timeout(CANCELLED_WITHIN, ended).await;
        }
        self.view(owner, id).await
    }

    /// Ends a job that waits for a queen, or has the one end it who has it.
    async fn cancel_unheld(&self, job: &Job) -> Result<(), ApiError> {
        let (live, end) = (Live::new(JobId::from(job.id.as_str()), job.attempt), ended_by_owner(0, 0));
        let outcome = drive::outcome(job, &live, &end);
        let cancelled = self.shared.store.cancel(&job.owner, &job.id, unix_millis(), outcome).await?;
        if cancelled.is_some_and(|job| job.state == JobState::Cancelled) {
            self.put_away(job, &live, &end).await?;
        }
        Ok(())
    }

    /// A job's events, from its first or after the one that was seen last, to its end. The events of an attempt that
    /// was given up are followed by those of the next one.
    pub async fn events(
        &self,
        owner: &str,
        id: &JobId,
        last_seen: Option<EventId>,
    ) -> Result<impl Stream<Item = Told> + Send + use<>, ApiError> {
        self.job(owner, id).await?;
        let reader = Reader::new(self.clone(), owner.to_owned(), id.clone(), last_seen);
        Ok(futures::stream::unfold(reader, async |mut reader| reader.next().await.map(|told| (told, reader))))
    }

    /// How the jobs stand, in numbers.
    pub async fn counts(&self) -> Result<TaskCounts, ApiError> {
        let store = &self.shared.store;
        let unfinished = store.unfinished().await?;
        Ok(TaskCounts { unfinished, held: self.lock().len() as u64, fenced: store.fenced() })
    }

    /// Waits until what this queen holds has ended or is given back.
    pub async fn drained(&self) {
        self.shared.running.close();
        self.shared.running.wait().await;
    }

    fn request(&self, body: TaskRequest) -> Result<InferenceRequest, ApiError> {
        let names = &self.shared.inference.names;
        task_request(body, names.default_model().unwrap_or(DEFAULT_CHAT_MODEL))
    }

    /// Gives a new job a place in this queen's queue if she has room for it; else checks that it can be served at all.
    async fn begin(&self, job: &NewJob, request: InferenceRequest) -> Result<Option<Run>, ApiError> {
        let asker = Asker { was_admitted: false, ..drive::asker(&job.id, &job.owner) };
        if self.has_room(request.priority) {
            return self.shared.inference.run(request, &asker).map(Run::patient).map(Some);
        }
        let unfinished = self.shared.store.unfinished().await?;
        if unfinished >= UNFINISHED_MAX {
            let message = format!("The queue is full (tasks): {unfinished} tasks are not ended.");
            return Err(ApiError::new(ErrorCode::QueueFull, message)
                .with_retry_after_ms(5000)
                .with_detail("policy_label", "tasks"));
        }
        match self.shared.inference.preview(&request, &asker) {
            Err(error) if error.code != ErrorCode::QueueFull => Err(error),
            _ => Ok(None),
        }
    }

    fn has_room(&self, priority: Priority) -> bool {
        let most = if priority.band() >= Priority::Batch.band() { HELD_OF_BATCHES } else { HELD };
        self.lock().len() < most && !self.shared.stop.is_cancelled()
    }

    /// The record of an owner's job.
    async fn job(&self, owner: &str, id: &JobId) -> Result<Job, ApiError> {
        self.shared.store.job(owner, id.as_str()).await?.ok_or_else(|| {
            ApiError::new(ErrorCode::JobNotFound, "There is no job with this id.").with_param("job_id")
        })
    }

    fn held(&self, id: &JobId) -> Option<Arc<Live>> {
        self.lock().get(id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Live>>> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of a record that a status stands for; one that waits may be held or not.
const fn state(status: TaskStatus) -> Option<JobState> {
    match status {
        TaskStatus::Queued => None,
        TaskStatus::Dispatched | TaskStatus::Running => Some(JobState::Running),
        TaskStatus::Completed => Some(JobState::Completed),
        TaskStatus::Failed => Some(JobState::Failed),
        TaskStatus::Cancelled => Some(JobState::Cancelled),
    }
}

/// A new job as it is once it is kept and this queen has it.
fn claimed(new: NewJob) -> Job {
    Job {
        id: new.id,
        kind: new.kind,
        owner: new.owner,
        model: new.model,
        band: new.band,
        created_at_ms: new.created_at_ms,
        deadline_at_ms: new.deadline_at_ms,
        request: new.request,
        state: JobState::Running,
        attempt: 1,
        started_at_ms: None,
        finished_at_ms: None,
        group: new.group,
        decision: None,
        result: None,
        is_cancelling: false,
    }
}

/// What those are told who use a key for something else.
pub fn key_conflict() -> ApiError {
    let message = "This Idempotency-Key was used for a request with another body.";
    ApiError::new(ErrorCode::IdempotencyConflict, message).with_param("Idempotency-Key")
}

fn existing(job: &Job) -> Submitted {
    Submitted { job_id: JobId::from(job.id.as_str()), position: 0, eta: None, is_new: IsNew::No }
}
