//! Scripts tried out: read, asked about a case that is made up, asked again about what was decided.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::routing::{
    Replay, ReplayedDecision, RoutingDecision, RoutingMode, RoutingTask, ScriptFault, SimulateRequest,
    Validated,
};

use super::facts::{Providers, Task, Workers};
use super::record::{WORKERS_KEPT, decision};
use super::script::{Question, Script};
use super::{Router, ask, outcome, question};
use crate::scheduler::{Demand, Placement, Scheduler};

/// Reads a script and tells what is wrong with it, if anything is.
pub fn validate(text: &str) -> Validated {
    match Script::read(text) {
        Ok(script) => Validated { valid: true, hooks: script.hooks(), fault: None },
        Err(fault) => Validated { valid: false, hooks: Vec::new(), fault: Some(fault) },
    }
}

/// A replay of a script that is slow ends after this time, with what it has.
const REPLAY_TIME: Duration = Duration::from_secs(10);

/// Why a case could not be tried.
pub enum Unsimulated {
    /// There is no script in force, and none was given.
    NoScript,
    /// The script that was given cannot be read.
    Fault(ScriptFault),
}

/// What a task that is made up asks of the queue.
fn demand(task: &RoutingTask) -> Demand {
    Demand {
        model: task.model.clone(),
        priority: task.priority,
        key: task.key.as_str().into(),
        placement: Placement::default(),
        deadline: None,
        prompt_tokens: task.prompt_tokens,
        answer_tokens_max: task.max_tokens,
        bytes: 0,
        beginnings: Arc::default(),
        avoid: None,
        arrival: None,
    }
}

impl Router {
    /// What a script would decide; nothing is queued, counted or recorded.
    pub fn simulate(
        &self,
        scheduler: &Scheduler,
        case: SimulateRequest,
    ) -> Result<RoutingDecision, Unsimulated> {
        let script = match (&case.script, &self.0) {
            (Some(text), _) => Arc::new(Script::read(text).map_err(Unsimulated::Fault)?),
            (None, Some(loaded)) => loaded.script(),
            (None, None) => return Err(Unsimulated::NoScript),
        };
        let demand = demand(&case.task);
        let mut question = question(scheduler, &demand, Arc::new(case.task), true);
        if let Some(workers) = case.workers {
            question.workers = Arc::new(Workers::Told(workers));
        }
        question.providers = Arc::new(Providers(case.marketplace_providers));
        question.queue_depth = case.queue_depth.unwrap_or(question.queue_depth);
        let began = Instant::now();
        let (answered, trace) = ask(&script, &question, true, true);
        let took = began.elapsed();
        let outcome = outcome(&answered, &question.workers);
        Ok(decision(RoutingMode::Shadow, &script, &question, &outcome, trace, took))
    }

    /// What a script would have decided for what was recorded.
    pub fn replay(&self, text: &str) -> Result<Replay, ScriptFault> {
        let script = Script::read(text)?;
        let mut replay = Replay { replayed: 0, same: 0, changed: Vec::new() };
        let until = Instant::now() + REPLAY_TIME;
        for record in self.records(usize::MAX) {
            if Instant::now() >= until {
                break;
            }
            let then = record.decision();
            let question = Question {
                task: Task { facts: Arc::new(then.task.clone()), readers: Arc::default() },
                queue_depth: then.queue_depth,
                workers: Arc::new(Workers::Told(then.workers.clone())),
                providers: Arc::default(),
                is_trial: true,
            };
            let (answered, _) = ask(&script, &question, true, true);
            let now = outcome(&answered, &question.workers);
            replay.replayed += 1;
            if now == then.outcome {
                replay.same += 1;
                continue;
            }
            replay.changed.push(ReplayedDecision {
                id: then.id.clone(),
                then: then.outcome.clone(),
                now,
                is_partial: then.candidates as usize > WORKERS_KEPT,
            });
        }
        Ok(replay)
    }
}
