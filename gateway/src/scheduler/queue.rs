//! The queue's state: who waits, which slots are given out, which workers are being started.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::hive::WorkerInfo;
use protocol::worker::{LoadStage, WorkerState};
use protocol::{ApiError, ErrorCode, WorkerId};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::pace::Pace;
use super::policy::{Decision, Start, Taken, decide};
use super::{Demand, Load, StartPolicy, TicketId, Waiting, stopping};
use crate::hives::{Fleet, NodeName};

/// A full queue empties at the pace of answers; a second is short for a caller and long for a slot.
const FULL_QUEUE_RETRY_MS: u64 = 1000;

/// A new worker's event follows the answer to its start within this time, or the worker is not there any more.
const EVENT_WITHIN: Duration = Duration::from_secs(5);

/// A hive that is started anew, or a link that broke, is there again within this time, or is taken for gone.
const BACK_WITHIN: Duration = Duration::from_secs(15);

struct Waiter {
    id: TicketId,
    demand: Demand,
    waiting: watch::Sender<Waiting>,
    outcome: oneshot::Sender<Outcome>,
}

/// A slot of this worker, or why there is none.
pub(super) type Outcome = Result<(NodeName, Arc<WorkerInfo>), ApiError>;

/// What became of a demand at once.
pub(super) enum Admitted {
    /// It has a slot.
    Served { id: TicketId, node: NodeName, worker: Arc<WorkerInfo> },
    /// It waits for one.
    Waits { id: TicketId, waiting: watch::Receiver<Waiting>, outcome: oneshot::Receiver<Outcome> },
}

/// A start that was ordered. The worker's id is known once the hive has answered.
enum Starting {
    Ordered,
    Loading { worker: WorkerId, since: Instant },
}

/// A slot that was given out.
struct Granted {
    worker: Arc<WorkerInfo>,
    since: Instant,
}

pub(super) struct Queue {
    policy: StartPolicy,
    is_closed: bool,
    last_id: TicketId,
    /// In the order of service: by band, then by arrival.
    waiters: Vec<Waiter>,
    taken: Taken,
    leases: HashMap<TicketId, Granted>,
    pace: Pace,
    /// By model: all that wait for one share its load.
    starting: HashMap<String, Starting>,
    /// When the last link to a hive broke, while there is none.
    disconnected_since: Option<Instant>,
}

impl Queue {
    pub(super) fn new(policy: StartPolicy) -> Self {
        Self {
            policy,
            is_closed: false,
            last_id: 0,
            waiters: Vec::new(),
            taken: Taken::new(),
            leases: HashMap::new(),
            pace: Pace::default(),
            starting: HashMap::new(),
            disconnected_since: None,
        }
    }

    /// Requests that wait.
    pub(super) fn depth(&self) -> u32 {
        self.waiters.len() as u32
    }

    /// Who waits and what is given out.
    pub(super) fn load(&self) -> Load {
        Load { depth: self.depth(), taken: self.taken.clone() }
    }

    /// Ends it: who waits learns so, and nobody else is let in.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.waiters.clear();
    }

    /// Takes in a demand. One that must wait is looked at with the next dispatch.
    pub(super) fn admit(&mut self, demand: Demand, fleet: &Fleet) -> Result<Admitted, ApiError> {
        if self.is_closed {
            return Err(stopping());
        }
        if self.waiters.len() >= self.policy.queue_limit {
            let message = format!("The queue is full: {} requests are waiting.", self.waiters.len());
            return Err(ApiError::new(ErrorCode::QueueFull, message).with_retry_after_ms(FULL_QUEUE_RETRY_MS));
        }
        let position =
            self.waiters.partition_point(|waiter| waiter.demand.priority.band() <= demand.priority.band());
        let ahead = self.waiters[..position].iter().filter(|waiter| waiter.demand.model == demand.model);
        let ahead = ahead.count() as u32;
        match self.decide(&demand, fleet) {
            Decision::Refuse(error) => return Err(error),
            // A slot that has just become free is for those who wait for it.
            Decision::Place(node, worker) if ahead == 0 => {
                self.last_id += 1;
                self.grant(self.last_id, worker.clone());
                return Ok(Admitted::Served { id: self.last_id, node, worker });
            }
            Decision::Place(..) | Decision::Start(_) | Decision::Wait => {}
        }
        let eta = self.pace.wait(&demand.model, ahead + 1, slots(fleet, &demand.model));
        in_time(eta, demand.deadline)?;
        self.last_id += 1;
        let id = self.last_id;
        let (waiting_sender, waiting) = watch::channel(Waiting::default());
        // Whoever waits is told so, even if the place never changes.
        waiting_sender.send_replace(Waiting { position: position as u32 + 1, eta, narration: None });
        let (outcome_sender, outcome) = oneshot::channel();
        self.waiters
            .insert(position, Waiter { id, demand, waiting: waiting_sender, outcome: outcome_sender });
        Ok(Admitted::Waits { id, waiting, outcome })
    }

    /// Takes in what came of an order to start a worker.
    pub(super) fn started(&mut self, model: String, outcome: Result<WorkerInfo, ApiError>) {
        match outcome {
            Ok(worker) => {
                let loading = Starting::Loading { worker: worker.id, since: Instant::now() };
                self.starting.insert(model, loading);
            }
            Err(error) => self.start_failed(&model, &error),
        }
    }

    fn decide(&self, demand: &Demand, fleet: &Fleet) -> Decision {
        decide(demand, fleet, &self.taken, self.starting.contains_key(&demand.model), &self.policy)
    }

    /// Takes back a slot, or a place in the queue.
    pub(super) fn give_back(&mut self, id: TicketId) {
        let Some(granted) = self.leases.remove(&id) else {
            self.waiters.retain(|waiter| waiter.id != id);
            return;
        };
        self.pace.note(&granted.worker.model_ref, granted.since.elapsed());
        let run = &granted.worker.boot_id;
        if let Some(count) = self.taken.get_mut(run) {
            *count -= 1;
            if *count == 0 {
                self.taken.remove(run);
            }
        }
    }

    fn start_failed(&mut self, model: &str, error: &ApiError) {
        tracing::warn!(model, %error, "a worker could not be started");
        self.starting.remove(model);
        // Callers learn what went wrong; the worker's log is for those who may list the workers.
        let mut error = error.clone();
        error.details.remove("log_tail");
        for waiter in self.waiters.extract_if(.., |waiter| waiter.demand.model == model) {
            let _ = waiter.outcome.send(Err(error.clone()));
        }
    }

    /// Gives out what can be given, and returns the workers that must be started.
    pub(super) fn dispatch(&mut self, fleet: &Fleet) -> Vec<Start> {
        self.settle_starts(fleet);
        if fleet.nodes().any(|(_, node)| node.connected) {
            self.disconnected_since = None;
        } else {
            self.disconnected_since.get_or_insert_with(Instant::now);
        }
        let mut starts = Vec::new();
        let mut index = 0;
        while let Some(waiter) = self.waiters.get(index) {
            match self.decide(&waiter.demand, fleet) {
                Decision::Wait => index += 1,
                Decision::Start(start) => {
                    self.starting.insert(start.request.model.clone(), Starting::Ordered);
                    starts.push(start);
                    index += 1;
                }
                Decision::Place(node, worker) => {
                    let waiter = self.waiters.remove(index);
                    self.grant(waiter.id, worker.clone());
                    // A caller that goes now gives the slot back with its ticket.
                    let _ = waiter.outcome.send(Ok((node, worker)));
                }
                // A link that broke is back in a moment, as a rule, and who waits already can wait for it.
                Decision::Refuse(error)
                    if error.code == ErrorCode::HiveUnavailable && self.is_recent_break() =>
                {
                    index += 1;
                }
                Decision::Refuse(error) => {
                    let waiter = self.waiters.remove(index);
                    let _ = waiter.outcome.send(Err(error));
                }
            }
        }
        self.tell_places(fleet);
        starts
    }

    /// A start has ended when its worker takes requests, has failed, or is gone.
    fn settle_starts(&mut self, fleet: &Fleet) {
        let mut failures = Vec::new();
        self.starting.retain(|model, starting| {
            let Starting::Loading { worker: id, since } = starting else { return true };
            match fleet.reachable_workers().find(|(_, worker)| worker.id == *id) {
                Some((_, worker)) if worker.state.takes_requests() => false,
                Some((_, worker)) if worker.state == WorkerState::Stopped => {
                    let error = worker.error.clone().unwrap_or_else(|| {
                        ApiError::new(
                            ErrorCode::ModelLoadFailed,
                            format!("The worker for '{model}' ended while it loaded."),
                        )
                    });
                    failures.push((model.clone(), error));
                    false
                }
                Some(_) => true,
                // The hive's answer may come before its event does; a hive that died forgets the worker.
                None => since.elapsed() < EVENT_WITHIN,
            }
        });
        for (model, error) in failures {
            self.start_failed(&model, &error);
        }
    }

    fn is_recent_break(&self) -> bool {
        self.disconnected_since.is_some_and(|since| since.elapsed() < BACK_WITHIN)
    }

    fn grant(&mut self, id: TicketId, worker: Arc<WorkerInfo>) {
        *self.taken.entry(worker.boot_id.clone()).or_default() += 1;
        self.leases.insert(id, Granted { worker, since: Instant::now() });
    }

    fn tell_places(&self, fleet: &Fleet) {
        let mut ahead = HashMap::<&str, (u32, u32)>::new();
        for (index, waiter) in self.waiters.iter().enumerate() {
            let model = &waiter.demand.model;
            let (place, slots) = ahead.entry(model).or_insert_with(|| (0, slots(fleet, model)));
            *place += 1;
            let eta = self.pace.wait(model, *place, *slots);
            let ordered = || {
                self.starting.contains_key(model).then(|| (format!("starting a worker for {model}"), None))
            };
            let narration = narrate(model, fleet).or_else(ordered);
            let now = Waiting { position: index as u32 + 1, eta, narration };
            waiter.waiting.send_if_modified(|waiting| {
                // An estimate that changes alone is told with the next news.
                let news = (waiting.position, &waiting.narration) != (now.position, &now.narration);
                *waiting = now;
                news
            });
        }
    }
}

/// Slots of the workers that serve a model now.
fn slots(fleet: &Fleet, model: &str) -> u32 {
    let workers = fleet.reachable_workers().map(|(_, worker)| worker);
    workers
        .filter(|worker| worker.model_ref == model && worker.state.takes_requests())
        .map(|worker| worker.slots_total)
        .sum()
}

/// Refuses who would be served too late.
fn in_time(eta: Option<Duration>, deadline: Option<Instant>) -> Result<(), ApiError> {
    let (Some(eta), Some(deadline)) = (eta, deadline) else { return Ok(()) };
    let left = deadline.saturating_duration_since(Instant::now());
    if eta <= left {
        return Ok(());
    }
    let message = format!(
        "A slot is free in about {} ms, and the request's deadline is in {} ms.",
        eta.as_millis(),
        left.as_millis()
    );
    Err(ApiError::new(ErrorCode::AllSlotsBusy, message).with_retry_after_ms(eta.as_millis() as u64))
}

/// What a person who waits for a model would like to know.
fn narrate(model: &str, fleet: &Fleet) -> Option<(String, Option<f32>)> {
    let (_, worker) = fleet
        .reachable_workers()
        .find(|(_, worker)| worker.model_ref == model && worker.state == WorkerState::Loading)?;
    let what = match worker.loading.stage {
        LoadStage::Downloading => "downloading",
        LoadStage::Starting => "starting a worker for",
        LoadStage::ReadingHeader | LoadStage::LoadingWeights => "loading",
        LoadStage::WarmingUp => "warming up",
        LoadStage::Ready | LoadStage::Failed => return None,
    };
    Some((format!("{what} {model}"), Some(worker.loading.progress)))
}
