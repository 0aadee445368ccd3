//! What scripts decided lately, with what they knew.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use protocol::WorkerId;
use protocol::routing::{RoutingDecision, RoutingMode, RoutingOutcome};

use super::call::Trace;
use super::facts::Facts;
use super::script::{Question, Script};
use crate::clock::unix_millis;

/// Decisions that are kept; the oldest are forgotten first.
const KEPT: usize = 1000;
/// Of what there was to choose from, so many are kept.
pub(super) const WORKERS_KEPT: usize = 100;
/// A header has so many bytes of it at most.
const HEADER_BYTES: usize = 200;

/// One decision.
#[derive(Debug)]
pub struct Record {
    decision: RoutingDecision,
    served_by: OnceLock<WorkerId>,
}

impl Record {
    /// Notes the worker that got the request.
    pub fn note_served(&self, worker: &WorkerId) {
        // Of several attempts, the first is what came of this decision.
        let _ = self.served_by.set(worker.clone());
    }

    /// All that is known of it.
    pub fn view(&self) -> RoutingDecision {
        RoutingDecision { served_by: self.served_by.get().cloned(), ..self.decision.clone() }
    }

    /// The same without what there was to choose from.
    pub fn summary(&self) -> RoutingDecision {
        let workers = Vec::new();
        RoutingDecision {
            served_by: self.served_by.get().cloned(),
            workers,
            task: self.decision.task.clone(),
            outcome: self.decision.outcome.clone(),
            steps: self.decision.steps.clone(),
            notes: self.decision.notes.clone(),
            id: self.decision.id.clone(),
            script: self.decision.script.clone(),
            ..self.decision
        }
    }

    /// The decision as it was made.
    pub fn decision(&self) -> &RoutingDecision {
        &self.decision
    }

    /// In a header's words, such as `worker; id=w-1; left=2/5; us=80; script=0a1b2c3d`.
    pub fn header(&self) -> String {
        let RoutingDecision { outcome, mode, candidates, took_us, script, .. } = &self.decision;
        let mut words = vec![outcome.verdict.as_str().to_owned()];
        if *mode == RoutingMode::Shadow {
            words.push("shadow".to_owned());
        }
        words.extend(outcome.worker_id.as_ref().map(|id| format!("id={id}")));
        if outcome.worker_id.is_none() {
            words.extend(outcome.node.as_ref().map(|node| format!("node={node}")));
        }
        if outcome.left > 0 {
            words.push(format!("left={}/{candidates}", outcome.left));
        }
        words.push(format!("us={took_us}"));
        words.push(format!("script={}", script.get(..8).unwrap_or_default()));
        words.extend(outcome.fault.as_ref().map(|fault| format!("fault={fault}")));
        let header = words.join("; ");
        header
            .chars()
            .map(|sign| if matches!(sign, ' '..='~') { sign } else { '?' })
            .take(HEADER_BYTES)
            .collect()
    }
}

/// The latest decisions.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<VecDeque<Arc<Record>>>);

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Record>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(
        &self,
        mode: RoutingMode,
        script: &Script,
        question: &Question,
        outcome: &RoutingOutcome,
        trace: Trace,
        took: Duration,
    ) -> Arc<Record> {
        let decision = decision(mode, script, question, outcome, trace, took);
        let record = Arc::new(Record { decision, served_by: OnceLock::new() });
        let forgotten = {
            let mut records = self.lock();
            records.push_back(record.clone());
            (records.len() > KEPT).then(|| records.pop_front())
        };
        drop(forgotten);
        record
    }

    pub(super) fn latest(&self, most: usize) -> Vec<Arc<Record>> {
        self.lock().iter().rev().take(most).cloned().collect()
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Record>> {
        self.lock().iter().rev().find(|record| record.decision.id == id).cloned()
    }
}

/// A decision with all that is needed to understand it.
pub(super) fn decision(
    mode: RoutingMode,
    script: &Script,
    question: &Question,
    outcome: &RoutingOutcome,
    trace: Trace,
    took: Duration,
) -> RoutingDecision {
    RoutingDecision {
        id: question.task.facts.id.clone(),
        at_ms: unix_millis() as u64,
        mode,
        script: script.digest.clone(),
        task: (*question.task.facts).clone(),
        queue_depth: question.queue_depth,
        candidates: question.workers.count() as u32,
        outcome: outcome.clone(),
        steps: trace.steps,
        notes: trace.notes,
        took_us: took.as_micros() as u64,
        served_by: None,
        workers: question.workers.told(&question.task.readers, WORKERS_KEPT),
    }
}
