//! The jobs of /v2: each is a run of its own whose events are kept, so that many readers can follow it and come back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::Stream;
use protocol::events::{End, FinishReason, Timings, TokenUsage};
use protocol::task::{DecisionView, Priority, TaskStatus, TaskView};
use protocol::{ApiError, ErrorCode, JobId, TaskEvent};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::inference::{Parts, Run};

/// Ended jobs that are kept for readers, and their events in all; the oldest go first.
const KEPT_JOBS: usize = 1000;
const KEPT_EVENTS: usize = 500_000;

/// All jobs that can be asked for.
#[derive(Clone, Default)]
pub struct Jobs {
    index: Arc<Mutex<Index>>,
    running: TaskTracker,
}

#[derive(Default)]
struct Index {
    by_id: HashMap<JobId, Arc<Job>>,
    /// Ended jobs, oldest first, each with the number of its events.
    ended: VecDeque<(JobId, usize)>,
    kept_events: usize,
}

/// One job.
pub struct Job {
    id: JobId,
    model: String,
    priority: Priority,
    created_at_ms: u64,
    /// What happened, in order; an event's id is its place. The value changes only by growing.
    log: watch::Sender<Log>,
    cancel: CancellationToken,
}

#[derive(Default)]
struct Log {
    events: Vec<TaskEvent>,
    /// Why it went where it went.
    decision: Option<DecisionView>,
    finished_at_ms: Option<u64>,
}

impl Jobs {
    /// Takes a run and follows it to its end, whoever reads.
    pub fn submit(&self, run: Run, priority: Priority) -> Arc<Job> {
        let job = Arc::new(Job {
            id: JobId::from(Uuid::new_v4().to_string()),
            model: run.model().to_owned(),
            priority,
            created_at_ms: now_ms(),
            log: watch::Sender::new(Log::default()),
            cancel: CancellationToken::new(),
        });
        self.lock().by_id.insert(job.id.clone(), job.clone());
        let (jobs, followed) = (self.clone(), job.clone());
        self.running.spawn(async move {
            followed.follow(run).await;
            jobs.retire(&followed);
        });
        job
    }

    /// The job with this id.
    pub fn get(&self, id: &JobId) -> Result<Arc<Job>, ApiError> {
        let job = self.lock().by_id.get(id).cloned();
        job.ok_or_else(|| {
            ApiError::new(ErrorCode::JobNotFound, "There is no job with this id.").with_param("job_id")
        })
    }

    /// Waits until no job runs, or until those that do are cut.
    pub async fn ended_or(&self, cut: &CancellationToken) {
        self.running.close();
        cut.run_until_cancelled(self.running.wait()).await;
    }

    fn retire(&self, job: &Job) {
        let events = job.log.borrow().events.len();
        let mut index = self.lock();
        index.ended.push_back((job.id.clone(), events));
        index.kept_events += events;
        while index.ended.len() > KEPT_JOBS || (index.kept_events > KEPT_EVENTS && index.ended.len() > 1) {
            let Some((oldest, events)) = index.ended.pop_front() else { break };
            index.kept_events -= events;
            index.by_id.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// Its id.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// Ends the job; one that has ended stays as it is. Returns when the job has ended.
    pub async fn cancel(&self) {
        self.cancel.cancel();
        // The sender lives as long as the job, so waiting cannot fail.
        let _ = self.log.subscribe().wait_for(|log| log.finished_at_ms.is_some()).await;
    }

    /// How the job stands.
    pub fn view(&self) -> TaskView {
        let log = self.log.borrow();
        let mut view = TaskView {
            job_id: self.id.clone(),
            status: TaskStatus::Queued,
            model: self.model.clone(),
            priority: self.priority,
            seed: None,
            worker_id: None,
            decision: log.decision.clone(),
            created_at_ms: self.created_at_ms,
            finished_at_ms: log.finished_at_ms,
            output: String::new(),
            reasoning: String::new(),
            tool_calls: Vec::new(),
            finish_reason: None,
            usage: None,
            error: None,
        };
        log.events.iter().for_each(|event| tell(&mut view, event));
        let mut parts = Parts::new(1);
        log.events.iter().for_each(|event| parts.take(event));
        if let Some(answer) = parts.choices.pop() {
            (view.output, view.reasoning, view.tool_calls) =
                (answer.text, answer.reasoning, answer.tool_calls);
        }
        view
    }

    /// Its events from this place on: those that happened, then live to the last.
    pub fn events(self: &Arc<Self>, from: usize) -> impl Stream<Item = (u64, TaskEvent)> + Send + use<> {
        let state = (self.log.subscribe(), from);
        futures::stream::unfold(state, async |(mut log, place)| {
            let event = log
                .wait_for(|log| log.events.len() > place || log.finished_at_ms.is_some())
                .await
                .ok()?
                .events
                .get(place)
                .cloned();
            event.map(|event| ((place as u64, event), (log, place + 1)))
        })
    }

    async fn follow(&self, mut run: Run) {
        loop {
            let event = tokio::select! {
                biased;
                () = self.cancel.cancelled() => TaskEvent::End(self.cancelled()),
                event = run.next() => match event { Some(event) => event, None => break },
            };
            if let TaskEvent::Error(envelope) = &event {
                tracing::info!(job_id = %self.id, error = %envelope.error, "a job failed");
            }
            let is_last = event.is_last();
            self.log.send_modify(|log| {
                if matches!(event, TaskEvent::Started(_)) {
                    log.decision = run.decision().cloned();
                }
                log.events.push(event);
                if is_last {
                    log.finished_at_ms = Some(now_ms());
                }
            });
            if is_last {
                break;
            }
        }
    }

    fn cancelled(&self) -> End {
        let log = self.log.borrow();
        let tokens = log.events.iter().filter(|event| matches!(event, TaskEvent::Token(_))).count() as u32;
        let prompt_tokens = log.events.iter().find_map(|event| match event {
            TaskEvent::Started(started) => Some(started.prompt_tokens),
            _ => None,
        });
        End {
            done: true,
            total_tokens: tokens,
            finish_reason: FinishReason::Cancelled,
            finish_reasons: Vec::new(),
            stop_sequences: Vec::new(),
            usage: TokenUsage {
                prompt_tokens: prompt_tokens.unwrap_or(0),
                completion_tokens: tokens,
                ..TokenUsage::default()
            },
            timings: Timings::default(),
        }
    }
}

/// Adds to a view what an event tells of the task, its answer aside.
fn tell(view: &mut TaskView, event: &TaskEvent) {
    match event {
        TaskEvent::Queued(_)
        | TaskEvent::Narration(_)
        | TaskEvent::Prompt(_)
        | TaskEvent::Token(_)
        | TaskEvent::Reasoning(_)
        | TaskEvent::ToolCall(_) => {}
        TaskEvent::Started(started) => {
            view.status = TaskStatus::Running;
            view.worker_id = Some(started.worker_id.clone());
            view.seed = Some(started.seed);
        }
        TaskEvent::End(end) => {
            let was_cancelled = end.finish_reason == FinishReason::Cancelled;
            view.status = if was_cancelled { TaskStatus::Cancelled } else { TaskStatus::Completed };
            view.finish_reason = Some(end.finish_reason);
            view.usage = Some(end.usage);
        }
        TaskEvent::Error(envelope) => {
            view.status = TaskStatus::Failed;
            view.error = Some(envelope.error.clone());
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
