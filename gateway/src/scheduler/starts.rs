//! Workers that are being started: once for all who wait for the model, and where memory is short, after an idle worker has
//! made room.

use std::collections::HashMap;
use std::time::Duration;

use protocol::hive::WorkerInfo;
use protocol::worker::WorkerState;
use protocol::{ApiError, ErrorCode, WorkerId};
use tokio::time::Instant;

use super::policy::{Start, start, victim};
use super::roster::Roster;
use super::{Demand, Effect, Mode, StartPolicy, Started};
use crate::hives::NodeName;

/// A new worker's event follows the answer to its start within this time, or the worker is not there any more.
const EVENT_WITHIN: Duration = Duration::from_secs(5);
/// A worker that is told to end is gone within this time, or the next one is asked.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// Whom a start is for: all who wait for this model, on this machine if they want a certain one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) model: String,
    pub(super) node: Option<NodeName>,
}

impl Wanted {
    pub(super) fn of(demand: &Demand) -> Self {
        let node = demand.placement.node.clone().filter(|_| demand.placement.mode == Mode::Pin);
        Self { model: demand.model.clone(), node }
    }
}

enum State {
    /// To be ordered.
    Due(Start),
    /// Ordered; the hive has not answered.
    Ordered(Start),
    /// The hive has answered; the worker loads.
    Loading { worker: WorkerId, since: Instant },
    /// A worker must go first; it was told then.
    Evicting { start: Start, victim: WorkerId, since: Option<Instant> },
}

struct Attempt {
    state: State,
    /// Machines where it was tried in vain.
    tried: Vec<NodeName>,
    /// Workers that were told to end and did not.
    kept: Vec<WorkerId>,
}

impl Attempt {
    fn new(start: Start) -> Self {
        Self { state: State::Due(start), tried: Vec::new(), kept: Vec::new() }
    }
}

#[derive(Default)]
pub(super) struct Starts {
    under_way: HashMap<Wanted, Attempt>,
}

impl Starts {
    pub(super) fn is_for(&self, wanted: &Wanted) -> bool {
        self.under_way.contains_key(wanted)
    }

    pub(super) fn is_under_way(&self, model: &str) -> bool {
        self.under_way.keys().any(|wanted| wanted.model == model)
    }

    /// Whether a worker could be started, or is being started.
    pub(super) fn possible(
        &self,
        wanted: &Wanted,
        roster: &Roster,
        policy: &StartPolicy,
    ) -> Result<(), ApiError> {
        if self.is_for(wanted) {
            return Ok(());
        }
        start(&wanted.model, wanted.node.as_ref(), &[], roster.fleet(), policy).map(drop)
    }

    /// Has a worker started, unless one is being started.
    pub(super) fn want(
        &mut self,
        wanted: Wanted,
        roster: &Roster,
        policy: &StartPolicy,
    ) -> Result<(), ApiError> {
        if self.is_for(&wanted) {
            return Ok(());
        }
        let start = start(&wanted.model, wanted.node.as_ref(), &[], roster.fleet(), policy)?;
        self.under_way.insert(wanted, Attempt::new(start));
        Ok(())
    }

    /// Workers that must go now. They get nothing to do from here on.
    pub(super) fn evictions(&mut self, roster: &mut Roster, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        for attempt in self.under_way.values_mut() {
            let State::Evicting { start, victim, since: since @ None } = &mut attempt.state else { continue };
            *since = Some(now);
            if let Some((id, _)) = roster.worker(victim) {
                roster.send_away(id);
            }
            effects.push(Effect::Evict { node: start.node.clone(), worker: victim.clone() });
        }
        effects
    }

    /// Workers that must be started now.
    pub(super) fn orders(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (wanted, attempt) in &mut self.under_way {
            let State::Due(start) = &attempt.state else { continue };
            let start = start.clone();
            attempt.state = State::Ordered(start.clone());
            effects.push(Effect::Start { wanted: wanted.clone(), start });
        }
        effects
    }

    /// Takes in a hive's answer. What comes back is for whom there will be no worker, and why.
    pub(super) fn answered(
        &mut self,
        started: Started,
        roster: &Roster,
        policy: &StartPolicy,
        now: Instant,
    ) -> Option<(Wanted, ApiError)> {
        let Started { wanted, outcome } = started;
        let attempt = self.under_way.get_mut(&wanted)?;
        let State::Ordered(ordered) = &attempt.state else { return None };
        let error = match outcome {
            Ok(WorkerInfo { id, .. }) => {
                attempt.state = State::Loading { worker: id, since: now };
                return None;
            }
            Err(error) => error,
        };
        if error.code == ErrorCode::InsufficientMemory
            && let Some(victim) = victim(&ordered.node, roster, &policy.pinned, &attempt.kept)
            && let Some(seat) = roster.seat(victim)
        {
            let victim = seat.worker.id.clone();
            attempt.state = State::Evicting { start: ordered.clone(), victim, since: None };
            return None;
        }
        if may_go_elsewhere(&error) {
            attempt.tried.push(ordered.node.clone());
            let elsewhere =
                start(&wanted.model, wanted.node.as_ref(), &attempt.tried, roster.fleet(), policy);
            if let Ok(start) = elsewhere {
                attempt.state = State::Due(start);
                return None;
            }
        }
        self.under_way.remove(&wanted);
        Some((wanted, error))
    }

    /// A start has ended when its worker takes requests, has failed, or is gone. What comes back is for whom there will be no
    /// worker, and why.
    pub(super) fn settle(&mut self, roster: &mut Roster, now: Instant) -> Vec<(Wanted, ApiError)> {
        let mut failures = Vec::new();
        self.under_way.retain(|wanted, attempt| match &attempt.state {
            State::Due(_) | State::Ordered(_) => true,
            State::Evicting { start, victim, since } => {
                let staying =
                    roster.worker(victim).filter(|(_, seat)| seat.worker.state != WorkerState::Stopped);
                let staying = staying.map(|(id, _)| id);
                let is_late = since.is_some_and(|since| now.saturating_duration_since(since) >= GONE_WITHIN);
                if let Some(id) = staying.filter(|_| is_late) {
                    // Another queen has given it something to do, say.
                    roster.call_back(id);
                    attempt.kept.push(victim.clone());
                }
                if staying.is_none() || is_late {
                    attempt.state = State::Due(start.clone());
                }
                true
            }
            State::Loading { worker, since } => match roster.worker(worker) {
                Some((_, seat)) if seat.worker.state.takes_requests() => false,
                Some((_, seat)) if seat.worker.state == WorkerState::Stopped => {
                    let error = seat.worker.error.clone().unwrap_or_else(|| {
                        let message = format!("The worker for '{}' ended while it loaded.", wanted.model);
                        ApiError::new(ErrorCode::ModelLoadFailed, message)
                    });
                    failures.push((wanted.clone(), error));
                    false
                }
                Some(_) => true,
                // The hive's answer may come before its event does; a hive that died forgets the worker.
                None => now.saturating_duration_since(*since) < EVENT_WITHIN,
            },
        });
        failures
    }
}

/// Whether another machine may do what this one could not.
fn may_go_elsewhere(error: &ApiError) -> bool {
    matches!(
        error.code,
        ErrorCode::InsufficientMemory
            | ErrorCode::InsufficientDisk
            | ErrorCode::HiveUnavailable
            | ErrorCode::CudaDeviceFailed
            | ErrorCode::MetalDeviceFailed
    )
}
