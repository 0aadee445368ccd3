//! Scripted routing: a script may keep requests out, and may choose who serves them. It is asked before the queue is, on
//! what the queue knows, and never under the queue's lock. `script` reads and calls it, `lists` and `facts` are what it
//! sees, `record` remembers what it decided.

mod call;
mod engine;
mod facts;
mod lists;
mod record;
mod reload;
mod rules;
mod script;
#[cfg(test)]
mod tests;
mod trial;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use protocol::routing::{
    RoutingCounts, RoutingFailure, RoutingMode, RoutingOutcome, RoutingTask, RoutingView, ScriptFault,
    Verdict,
};
use protocol::{ApiError, ErrorCode, WorkerId};

use crate::breaker::{Breaker, BreakerPolicy};
use crate::scheduler::{Demand, Mode, Placement, Scheduler};
use facts::{Providers, Task, Workers};
use record::Recorder;
use reload::Source;
use script::{Answer, Answered, Question, Script};

pub use record::Record;
pub use trial::{Unsimulated, validate};

/// A script that fails so often in a row is left alone for a while.
const FAILING: BreakerPolicy = BreakerPolicy {
    failures: 5,
    first_pause: Duration::from_secs(10),
    longest_pause: Duration::from_mins(10),
};
/// A request that was not admitted is worth asking again after this time.
const RETRY_AFTER_MS: u64 = 1000;

/// Where a script is, and what it counts for.
#[derive(Debug, Clone, Default)]
pub struct RoutingSettings {
    /// Its file; none if there is no script.
    pub file: Option<PathBuf>,
    /// Whether it decides.
    pub mode: RoutingMode,
    /// What decides when it fails.
    pub on_failure: RoutingFailure,
}

/// Asks the script, if there is one.
#[derive(Clone, Default)]
pub struct Router(Option<Arc<Loaded>>);

struct Loaded {
    settings: RoutingSettings,
    source: RwLock<Source>,
    breaker: Breaker,
    counts: Counts,
    recorder: Recorder,
}

#[derive(Default)]
struct Counts {
    routed: AtomicU64,
    left_to_queue: AtomicU64,
    refused: AtomicU64,
    not_admitted: AtomicU64,
    failed: AtomicU64,
    suspended: AtomicU64,
}

/// What a request asks the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Whether it is let in, and where it goes.
    All,
    /// Where it goes: it was let in before.
    Way,
    /// Where it goes by now, for one that waits; not recorded.
    Again,
    /// Both, for someone who only wants to know; not recorded.
    Preview,
}

impl Asking {
    fn wants_in(self) -> bool {
        matches!(self, Self::All | Self::Preview)
    }

    fn is_recorded(self) -> bool {
        matches!(self, Self::All | Self::Way)
    }
}

/// What the script decided for a request that is let in.
#[derive(Default)]
pub struct Decided {
    /// Where it goes, if that was decided.
    pub placement: Option<Placement>,
    /// The decision, if it was recorded.
    pub record: Option<Arc<Record>>,
}

impl Router {
    /// Reads the script; one that cannot be read is an error.
    pub fn load(settings: RoutingSettings) -> anyhow::Result<Self> {
        let Some(file) = &settings.file else { return Ok(Self::default()) };
        let source = Source::read(file)?;
        tracing::info!(file = %file.display(), mode = settings.mode.as_str(), "a routing script is in force");
        Ok(Self(Some(Arc::new(Loaded {
            settings,
            source: RwLock::new(source),
            breaker: Breaker::new(FAILING),
            counts: Counts::default(),
            recorder: Recorder::default(),
        }))))
    }

    /// Whether there is a script.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a script decides where requests go.
    pub fn is_enforced(&self) -> bool {
        let is_enforced =
            |loaded: &Arc<Loaded>| loaded.settings.mode == RoutingMode::Enforce && loaded.script().routes();
        self.0.as_ref().is_some_and(is_enforced)
    }

    /// Asks the script about a request; one that it keeps out is an error.
    pub fn decide(
        &self,
        scheduler: &Scheduler,
        demand: &Demand,
        task: RoutingTask,
        asking: Asking,
    ) -> Result<Decided, ApiError> {
        let Some(loaded) = &self.0 else { return Ok(Decided::default()) };
        let task = Arc::new(task);
        let Some(permit) = loaded.breaker.permit(Instant::now()) else {
            loaded.counts.suspended.fetch_add(1, Ordering::Relaxed);
            let message = "The script has failed too often, and is left alone for a while.";
            return loaded.failed(&task, message).map(|()| Decided::default());
        };
        let script = loaded.script();
        let question = question(scheduler, demand, task.clone(), !asking.is_recorded());
        let began = Instant::now();
        let is_pinned = demand.placement.mode == Mode::Pin;
        let (answered, trace) = ask(&script, &question, asking.wants_in(), !is_pinned);
        let took = began.elapsed();
        match &answered {
            Ok(_) => permit.succeeded(),
            Err(fault) => {
                tracing::warn!(request_id = task.id, %fault, "the routing script failed");
                permit.failed(Instant::now());
            }
        }
        let outcome = outcome(&answered, &question.workers);
        let record = asking.is_recorded().then(|| {
            loaded.counts.note(outcome.verdict);
            loaded.recorder.note(loaded.settings.mode, &script, &question, &outcome, trace, took)
        });
        if loaded.settings.mode == RoutingMode::Shadow {
            return Ok(Decided { placement: None, record });
        }
        let placement = loaded.act(&task, answered, &question.workers)?;
        Ok(Decided { placement, record })
    }

    /// How it stands.
    pub fn view(&self) -> RoutingView {
        let Some(loaded) = &self.0 else {
            return RoutingView {
                file: None,
                mode: RoutingMode::default(),
                on_failure: RoutingFailure::default(),
                hooks: Vec::new(),
                script: None,
                loaded_at_ms: None,
                fault: None,
                counts: RoutingCounts::default(),
                suspended_for_ms: None,
            };
        };
        let source = loaded.source.read().unwrap_or_else(PoisonError::into_inner);
        RoutingView {
            file: loaded.settings.file.as_ref().map(|file| file.display().to_string()),
            mode: loaded.settings.mode,
            on_failure: loaded.settings.on_failure,
            hooks: source.script.hooks(),
            script: Some(source.script.digest.clone()),
            loaded_at_ms: Some(source.loaded_at_ms),
            fault: source.fault.clone(),
            counts: loaded.counts.view(),
            suspended_for_ms: loaded.breaker.open_for(Instant::now()).map(|left| left.as_millis() as u64),
        }
    }

    /// The latest decisions, the last one first.
    pub fn records(&self, most: usize) -> Vec<Arc<Record>> {
        self.0.as_ref().map_or_else(Vec::new, |loaded| loaded.recorder.latest(most))
    }

    /// The latest decision on this request.
    pub fn record(&self, id: &str) -> Option<Arc<Record>> {
        self.0.as_ref()?.recorder.find(id)
    }
}

impl Loaded {
    fn script(&self) -> Arc<Script> {
        self.source.read().unwrap_or_else(PoisonError::into_inner).script.clone()
    }

    /// Does what the script decided.
    fn act(
        &self,
        task: &RoutingTask,
        answered: Result<Answer, ScriptFault>,
        workers: &Workers,
    ) -> Result<Option<Placement>, ApiError> {
        let candidates = |left: &[u32]| -> Vec<_> {
            left.iter().filter_map(|at| workers.candidate(*at as usize)).collect()
        };
        match answered {
            Ok(Answer::Worker { at, left }) => {
                let winner = workers.candidate(at as usize);
                Ok(Some(Placement::chosen(winner, &candidates(&left))))
            }
            Ok(Answer::Any { left }) => Ok(Some(Placement::chosen(None, &candidates(&left)))),
            Ok(Answer::Queue | Answer::Admitted) => Ok(None),
            Ok(Answer::NotAdmitted) => {
                Err(not_admitted("The server's routing script does not admit the request now."))
            }
            Ok(Answer::Kept(reason)) => Err(not_admitted(&reason)),
            Ok(Answer::Refused(reason)) => Err(ApiError::new(ErrorCode::NoWorkerAvailable, reason)
                .with_detail("policy_label", "route_task")
                .with_retry_after_ms(RETRY_AFTER_MS)),
            Ok(Answer::Provider { .. }) => {
                let message =
                    "The script chose a provider of the marketplace, which this version does not serve from.";
                self.failed(task, message).map(|()| None)
            }
            Err(fault) => self.failed(task, &fault.to_string()).map(|()| None),
        }
    }

    /// What becomes of a request about which the script could not tell.
    fn failed(&self, task: &RoutingTask, message: &str) -> Result<(), ApiError> {
        if self.settings.mode == RoutingMode::Shadow {
            return Ok(());
        }
        // Rules that a task is under are kept by the script alone.
        if self.settings.on_failure == RoutingFailure::BuiltIn && task.compliance.is_none() {
            return Ok(());
        }
        let message = format!("The server's routing script failed: {message}");
        Err(ApiError::new(ErrorCode::RoutingFailed, message).with_retry_after_ms(RETRY_AFTER_MS))
    }
}

fn not_admitted(message: &str) -> ApiError {
    ApiError::new(ErrorCode::AdmissionRejected, message)
        .with_detail("policy_label", "should_admit")
        .with_retry_after_ms(RETRY_AFTER_MS)
}

impl Counts {
    fn note(&self, verdict: Verdict) {
        let count = match verdict {
            Verdict::Worker | Verdict::Start | Verdict::Any | Verdict::Provider => &self.routed,
            Verdict::Queue => &self.left_to_queue,
            Verdict::Refused => &self.refused,
            Verdict::NotAdmitted => &self.not_admitted,
            Verdict::Failed => &self.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn view(&self) -> RoutingCounts {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RoutingCounts {
            routed: count(&self.routed),
            left_to_queue: count(&self.left_to_queue),
            refused: count(&self.refused),
            not_admitted: count(&self.not_admitted),
            failed: count(&self.failed),
            suspended: count(&self.suspended),
        }
    }
}

/// What a script is asked about a request, as all stands now.
fn question(scheduler: &Scheduler, demand: &Demand, task: Arc<RoutingTask>, is_trial: bool) -> Question {
    let candidates = scheduler.candidates(demand);
    Question {
        task: Task { facts: task, readers: candidates.readers.into() },
        queue_depth: candidates.queue_depth,
        workers: Arc::new(Workers::Live { all: candidates.all, waiting: candidates.waiting }),
        providers: Arc::new(Providers::default()),
        is_trial,
    }
}

/// Asks what is wanted and what the script can tell.
fn ask(script: &Script, question: &Question, wants_in: bool, wants_way: bool) -> Answered {
    let mut before = None;
    if wants_in && script.admits() {
        match script.admit(question) {
            (Ok(Answer::Admitted), trace) => before = Some(trace),
            other => return other,
        }
    }
    if !wants_way || !script.routes() {
        return (Ok(Answer::Queue), before.unwrap_or_default());
    }
    let (answer, trace) = script.route(question);
    (answer, before.unwrap_or_default().then(trace))
}

/// What was decided, in words.
fn outcome(answered: &Result<Answer, ScriptFault>, workers: &Workers) -> RoutingOutcome {
    let mut outcome = RoutingOutcome {
        verdict: Verdict::Queue,
        worker_id: None,
        node: None,
        provider_id: None,
        left: 0,
        reason: None,
        fault: None,
    };
    match answered {
        Ok(Answer::Worker { at, left }) => {
            let (id, node) = workers.name(*at as usize);
            outcome.verdict = if id.is_empty() { Verdict::Start } else { Verdict::Worker };
            outcome.worker_id = (!id.is_empty()).then(|| WorkerId::from(id));
            outcome.node = Some(node.to_owned());
            outcome.left = left.len() as u32;
        }
        Ok(Answer::Any { left }) => {
            outcome.verdict = Verdict::Any;
            outcome.left = left.len() as u32;
        }
        Ok(Answer::Provider { id }) => {
            outcome.verdict = Verdict::Provider;
            outcome.provider_id = Some(id.clone());
        }
        Ok(Answer::Queue | Answer::Admitted) => {}
        Ok(Answer::NotAdmitted) => outcome.verdict = Verdict::NotAdmitted,
        Ok(Answer::Kept(reason)) => {
            outcome.verdict = Verdict::NotAdmitted;
            outcome.reason = Some(reason.clone());
        }
        Ok(Answer::Refused(reason)) => {
            outcome.verdict = Verdict::Refused;
            outcome.reason = Some(reason.clone());
        }
        Err(fault) => {
            outcome.verdict = Verdict::Failed;
            outcome.fault = Some(fault.clone());
        }
    }
    outcome
}
