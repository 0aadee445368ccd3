//! What happens to the jobs that this queen holds: they are claimed, run, tried again where the fault was ours, and
//! settled or given back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use protocol::events::Narration;
use protocol::{ApiError, ErrorCode, JobId, TaskEvent};
use tokio::time::Instant;
use uuid::Uuid;

use super::live::Live;
use super::{HELD, Jobs, record};
use crate::batches::line;
use crate::clock::unix_millis;
use crate::inference::{Asker, Clock, Run};
use crate::pauses::doubling;
use crate::store::{Job, JobKind, JobState, Outcome};

/// A job whose worker failed is run so often in all by one queen.
const TRIES: usize = 5;
/// Pauses before a job is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(16);
/// A job without a deadline that nothing can serve is kept waiting so long.
const UNSERVED_MAX: Duration = Duration::from_hours(1);
/// Jobs to claim and to cancel are looked for this often, whether or not anyone tells of them.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Jobs that were lost on their way are looked for this often.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Jobs are claimed in portions, so that several queens share them.
const CLAIMED_AT_ONCE: usize = 128;

/// What became of a run.
enum End {
    /// By its last event.
    Event(TaskEvent),
    /// This queen ends; the job does not.
    Left,
}

impl Jobs {
    /// Claims jobs as long as there is room for them, and ends those that were cancelled elsewhere, until told to stop.
    pub async fn run(self) {
        let stop = self.shared.stop.clone();
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        let mut strays = HashSet::new();
        let work = self.shared.store.work();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => self.end_cancelled().await,
                _ = sweep.tick() => strays = self.give_back_strays(&strays).await,
                () = work.notified() => {}
                () = self.shared.room.notified() => {}
            }
            self.claim().await;
        }
    }

    async fn claim(&self) {
        loop {
            let room = HELD.saturating_sub(self.lock().len()).min(CLAIMED_AT_ONCE);
            if room == 0 || self.shared.stop.is_cancelled() {
                return;
            }
            let jobs = match self.shared.store.claim(room as u32).await {
                Ok(jobs) => jobs,
                Err(error) => return tracing::warn!(%error, "no jobs could be claimed"),
            };
            let is_all = jobs.len() < room;
            for job in jobs {
                self.hold(job, None);
            }
            if is_all {
                return;
            }
        }
    }

    /// Gives back jobs that the store takes this queen to hold and that she knows nothing of, since the commit that gave them to her was
    /// lost on its way back; those that were so the last time as well. Returns those that are so now.
    async fn give_back_strays(&self, before: &HashSet<(String, u32)>) -> HashSet<(String, u32)> {
        let held = match self.shared.store.held().await {
            Ok(held) => held.into_iter(),
            Err(error) => {
                tracing::warn!(%error, "it is not known which jobs this queen holds");
                return HashSet::new();
            }
        };
        let strays: HashSet<_> =
            held.filter(|(id, _)| self.held(&JobId::from(id.as_str())).is_none()).collect();
        for (id, attempt) in strays.intersection(before) {
            tracing::warn!(job_id = id, "a job was lost on its way to this queen; it is queued again");
            if let Err(error) = self.shared.store.release(id, *attempt).await {
                tracing::warn!(job_id = id, %error, "a job could not be given back");
            }
        }
        strays
    }

    async fn end_cancelled(&self) {
        match self.shared.store.cancelling().await {
            Ok(ids) => {
                for id in ids {
                    if let Some(live) = self.held(&JobId::from(id)) {
                        live.cancel.cancel();
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "it is not known which jobs to cancel"),
        }
    }

    /// Runs a job that this queen has claimed.
    pub(super) fn hold(&self, job: Job, run: Option<Run>) {
        let live = Arc::new(Live::new(JobId::from(job.id.as_str()), job.attempt));
        self.lock().insert(live.id.clone(), live.clone());
        let jobs = self.clone();
        let mut work = Box::pin(async move {
            if job.kind == JobKind::BatchLine {
                jobs.answer_line(&job, &live).await;
            } else {
                match jobs.end_of(&job, &live, run).await {
                    End::Event(event) => jobs.settle(&job, &live, event).await,
                    End::Left => jobs.give_back(&live).await,
                }
            }
            // Who asks from now on is told by the record; who reads goes on with it.
            jobs.lock().remove(&live.id);
            live.close();
            jobs.shared.room.notify_one();
        });
        // Its first step is taken here, so that jobs which are claimed together come to the queue in their order.
        if (&mut work).now_or_never().is_none() {
            self.shared.running.spawn(work);
        }
    }

    /// Runs a job until it has an end, be it a bad one.
    async fn end_of(&self, job: &Job, live: &Live, mut run: Option<Run>) -> End {
        let mut pauses = doubling(FIRST_PAUSE, LAST_PAUSE);
        let mut unserved_since = None;
        let mut tries = 0;
        loop {
            let begun = match run.take() {
                Some(run) => Ok(run),
                None => self.begin_again(job),
            };
            let error = match begun {
                Ok(run) => {
                    unserved_since = None;
                    tries += 1;
                    match self.follow(live, run).await {
                        End::Event(TaskEvent::Error(envelope))
                            if is_ours(&envelope.error) && tries < TRIES =>
                        {
                            envelope.error
                        }
                        end => return end,
                    }
                }
                Err(error) => {
                    let since = *unserved_since.get_or_insert_with(Instant::now);
                    let is_late = job.deadline_at_ms.is_some_and(|at| at <= unix_millis());
                    if is_late || !may_be_served_later(&error) || since.elapsed() > UNSERVED_MAX {
                        return End::Event(TaskEvent::Error(error.into()));
                    }
                    error
                }
            };
            let pause = pauses.next();
            tracing::info!(job_id = %live.id, %error, ?pause, "a job is tried again");
            let message = format!("Trying again in {:.0} s: {}", pause.as_secs_f64().ceil(), error.message);
            live.tell(TaskEvent::Narration(Narration { message, progress: None }), None);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = live.cancel.cancelled() => return End::Event(live.cancelled()),
                () = self.shared.stop.cancelled() => return End::Left,
            }
        }
    }

    /// Answers a request of a batch.
    async fn answer_line(&self, job: &Job, live: &Live) {
        let asker = asker(&job.id, &job.owner);
        let mut pauses = doubling(FIRST_PAUSE, LAST_PAUSE);
        let mut tries = 0;
        let answer = loop {
            self.shared.store.begun(&job.id, job.attempt);
            let answer = tokio::select! {
                answer = line::answer(&self.shared.inference, &self.shared.store, job, &asker) => answer,
                () = live.cancel.cancelled() => break None,
            };
            match answer {
                Err(error) if error.code == ErrorCode::ShuttingDown => return self.give_back(live).await,
                // Nobody waits: what is not ready now is asked for again.
                Err(error) if may_be_served_later(&error) || error.code == ErrorCode::Timeout => {
                    tries += usize::from(error.code == ErrorCode::WorkerLost);
                    if tries >= TRIES {
                        break Some(Err(error));
                    }
                }
                answer => break Some(answer),
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next()) => {}
                () = live.cancel.cancelled() => break None,
                () = self.shared.stop.cancelled() => return self.give_back(live).await,
            }
        };
        let (state, result) = match &answer {
            Some(Ok(_)) => (JobState::Completed, line::answered(job, answer.as_ref())),
            Some(Err(_)) => (JobState::Failed, line::answered(job, answer.as_ref())),
            None => (JobState::Cancelled, line::answered(job, None)),
        };
        let finished_at_ms = unix_millis();
        let outcome = Outcome { state, result, decision: None, events: String::new(), finished_at_ms };
        self.complete(job, live, &outcome, None).await;
    }

    fn begin_again(&self, job: &Job) -> Result<Run, ApiError> {
        let request = self.request_of(job)?;
        self.shared.inference.run(request, &asker(&job.id, &job.owner)).map(Run::patient)
    }

    /// Follows a run to its last event, which is not told yet.
    async fn follow(&self, live: &Live, mut run: Run) -> End {
        let mut has_started = false;
        loop {
            let event = tokio::select! {
                biased;
                () = live.cancel.cancelled() => return End::Event(live.cancelled()),
                // What runs has a grace; what waits does as well elsewhere, or later.
                () = self.shared.stop.cancelled(), if !has_started => return End::Left,
                event = run.next() => event,
            };
            match event {
                None => return End::Left,
                Some(TaskEvent::Error(envelope)) if envelope.error.code == ErrorCode::ShuttingDown => {
                    return End::Left;
                }
                Some(event) if event.is_last() => return End::Event(event),
                Some(event) => {
                    if matches!(event, TaskEvent::Started(_)) {
                        has_started = true;
                        self.shared.store.begun(live.id.as_str(), live.attempt);
                    }
                    live.tell(event, run.decision());
                }
            }
        }
    }

    /// Keeps what came of a job, and then tells it: what readers were told stays true.
    async fn settle(&self, job: &Job, live: &Live, last: TaskEvent) {
        if let TaskEvent::Error(envelope) = &last {
            tracing::info!(job_id = %live.id, error = %envelope.error, "a job failed");
        }
        let outcome = outcome(job, live, &last);
        if self.complete(job, live, &outcome, Some(&last)).await {
            live.tell(last, None);
        }
    }

    /// Keeps what came of a job, and before that what others may ask for by its last event; whether it was taken.
    async fn complete(&self, job: &Job, live: &Live, outcome: &Outcome, last: Option<&TaskEvent>) -> bool {
        let complete = async || {
            if let Some(last) = last {
                self.put_away(job, live, last).await?;
            }
            let completed = self.shared.store.complete(&job.id, live.attempt, outcome.clone());
            completed.await.map_err(ApiError::from)
        };
        let mut pauses = doubling(FIRST_PAUSE, LAST_PAUSE);
        loop {
            match complete().await {
                Ok(true) => return true,
                Ok(false) => {
                    let attempt = live.attempt;
                    tracing::warn!(job_id = %live.id, attempt, "a job's end came too late: it is another's");
                    return false;
                }
                Err(error) => tracing::warn!(job_id = %live.id, %error, "a job's end could not be kept yet"),
            }
            // What was made is held until it can be kept. A queen who ends before that leaves the job to the next one.
            tokio::select! {
                () = tokio::time::sleep(pauses.next()) => {}
                () = self.shared.stop.cancelled() => return false,
            }
        }
    }

    async fn give_back(&self, live: &Live) {
        if let Err(error) = self.shared.store.release(live.id.as_str(), live.attempt).await {
            tracing::warn!(job_id = %live.id, %error, "a job could not be given back");
        }
    }
}

/// Who asks for a job: its owner, long after the request that brought it.
pub(super) fn asker(job_id: &str, owner: &str) -> Asker {
    let correlation_id = if job_id.is_empty() { Uuid::new_v4().to_string() } else { job_id.to_owned() };
    Asker {
        correlation_id: correlation_id.into(),
        caller: owner.into(),
        may_share: false,
        was_admitted: true,
        clock: Clock::start(),
    }
}

/// What comes of a job by the events of this attempt and its last one.
pub(super) fn outcome(job: &Job, live: &Live, last: &TaskEvent) -> Outcome {
    let mut view = record::blank(job);
    record::add_events(&mut view, live, Some(last));
    view.finished_at_ms = Some(unix_millis() as u64);
    record::outcome(&view, live, last)
}

/// Whether a run that failed so says something about our machines and not about the job.
fn is_ours(error: &ApiError) -> bool {
    matches!(
        error.code,
        ErrorCode::WorkerLost
            | ErrorCode::WorkerMismatch
            | ErrorCode::WorkerShuttingDown
            | ErrorCode::HiveUnavailable
            | ErrorCode::ModelLoading
            | ErrorCode::AllSlotsBusy
    )
}

/// Whether what cannot be served now may be later.
fn may_be_served_later(error: &ApiError) -> bool {
    is_ours(error) || matches!(error.code, ErrorCode::QueueFull | ErrorCode::NoWorkerAvailable)
}
