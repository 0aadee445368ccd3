//! The queue's state: who waits, which slots are given out, which workers are being started. Time comes from outside.

mod tell;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use protocol::hive::WorkerInfo;
use protocol::queen::HedgeCounts;
use protocol::task::Priority;
use protocol::{ApiError, ErrorCode};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::affinity::Affinity;
use super::candidates::Lists;
use super::explain::Decision;
use super::fairness::Service;
use super::line::{Line, Place, risen};
use super::pace::Pace;
use super::policy::{Choice, Why, choose, is_avoided};
use super::roster::{ASKED_AGAIN_EVERY, Roster, SeatId};
use super::starts::{Starts, Wanted};
use super::{
    Demand, Effect, Load, Mode, Placement, Spent, StartPolicy, Started, TicketId, Used, Waiting, stopping,
};
use crate::hives::{Fleet, NodeName};

/// A full queue is worth asking again after this time at least, and after this at most.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// A hive that is started anew, or a link that broke, is there again within this time, or is taken for gone.
const BACK_WITHIN: Duration = Duration::from_secs(15);

/// Positions and narration are brought up to date this often at least while anyone waits.
const REFRESH: Duration = Duration::from_secs(1);

/// If more wait than this, each is told its place only so often.
const TOLD_AT_ONCE: usize = 64;
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// Who has waited long rises, and keys that have had nothing are forgotten, so often.
const TENDED_EVERY: Duration = Duration::from_secs(1);

struct Waiter {
    demand: Arc<Demand>,
    place: Place,
    since: Instant,
    waiting: watch::Sender<Waiting>,
    outcome: oneshot::Sender<Outcome>,
}

/// A slot of a worker, or why there is none.
pub(super) type Outcome = Result<Grant, ApiError>;

/// A slot of this worker.
pub(super) struct Grant {
    pub(super) node: NodeName,
    pub(super) worker: Arc<WorkerInfo>,
    pub(super) decision: Decision,
}

/// What became of a demand at once.
pub(super) enum Admitted {
    /// It has a slot.
    Served { id: TicketId, grant: Grant },
    /// It waits for one.
    Waits { id: TicketId, waiting: watch::Receiver<Waiting>, outcome: oneshot::Receiver<Outcome> },
}

/// How a demand stands that was not taken in yet.
pub(super) enum Look {
    /// This slot is free for it.
    Seat(SeatId, Why),
    /// So many are served before it.
    Behind { ahead: u32, served: Served },
}

/// What a demand would wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    AfterOthers,
    AfterStart,
}

/// A slot that was given out.
struct Granted {
    seat: SeatId,
    model: String,
    key: Arc<str>,
    /// Tokens that the worker was taken to have to do, and those that the key was charged.
    tokens: u64,
    charged: f64,
    since: Instant,
    is_hedge: bool,
}

/// What waits, by number and by size.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    requests: usize,
    bytes: usize,
}

impl Held {
    fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
    }
}

pub(super) struct Queue {
    pub(super) policy: StartPolicy,
    pub(super) is_closed: bool,
    last_id: TicketId,
    pub(super) roster: Roster,
    pub(super) affinity: Affinity,
    service: Service,
    pace: Pace,
    starts: Starts,
    lines: HashMap<String, Line>,
    pub(super) lists: Lists,
    waiters: HashMap<TicketId, Waiter>,
    /// Of them, those who want a certain machine or worker.
    pinned: BTreeSet<TicketId>,
    /// What waits in each band, by the priority that it came with.
    held: [Held; Priority::BANDS],
    leases: HashMap<TicketId, Granted>,
    /// Second workers that were given requests, and those whose answer was taken.
    hedges: HedgeCounts,
    /// When the last link to a hive broke, while there is none.
    disconnected_since: Option<Instant>,
    told: Instant,
    tended: Instant,
}

impl Queue {
    pub(super) fn new(policy: StartPolicy, now: Instant) -> Self {
        Self {
            policy,
            is_closed: false,
            last_id: 0,
            roster: Roster::default(),
            affinity: Affinity::default(),
            service: Service::new(now),
            pace: Pace::default(),
            starts: Starts::default(),
            lines: HashMap::new(),
            lists: Lists::default(),
            waiters: HashMap::new(),
            pinned: BTreeSet::new(),
            held: [Held::default(); Priority::BANDS],
            leases: HashMap::new(),
            hedges: HedgeCounts::default(),
            disconnected_since: None,
            told: now,
            tended: now,
        }
    }

    /// Requests that wait.
    pub(super) fn depth(&self) -> u32 {
        self.waiters.len() as u32
    }

    /// When to look again, though nothing is heard: while anyone waits.
    pub(super) fn refresh(&self) -> Option<Duration> {
        (self.depth() > 0).then_some(if self.roster.is_crowded() { ASKED_AGAIN_EVERY } else { REFRESH })
    }

    /// Who waits and what is given out.
    pub(super) fn load(&self) -> Load {
        Load { depth: self.depth(), taken: self.roster.taken() }
    }

    /// Ends it: who waits learns so, and nobody else is let in.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.waiters.clear();
        self.pinned.clear();
        self.lines.clear();
        self.held = [Held::default(); Priority::BANDS];
    }

    /// Takes in a demand. One that must wait is looked at with the next dispatch.
    pub(super) fn admit(
        &mut self,
        demand: Demand,
        fleet: &Fleet,
        now: Instant,
    ) -> Result<Admitted, ApiError> {
        if self.is_closed {
            return Err(stopping());
        }
        let ahead = match self.look(&demand, fleet, now)? {
            Look::Seat(seat, why) => {
                let id = self.next_id();
                let Some(grant) = self.grant(id, seat, why, &demand, Duration::ZERO, now) else {
                    return Err(stopping());
                };
                return Ok(Admitted::Served { id, grant });
            }
            Look::Behind { ahead, .. } => ahead,
        };
        let eta = self.eta(&demand.model, ahead + 1);
        in_time(eta, demand.deadline, now)?;
        self.make_room(&demand)?;
        let is_over = |id: &TicketId| !self.waiters.contains_key(id) && !self.leases.contains_key(id);
        let id = demand.arrival.filter(is_over).unwrap_or_else(|| self.next_id());
        // Whoever waits is told so, even if the place never changes.
        let (waiting_sender, waiting) = watch::channel(Waiting::default());
        waiting_sender.send_replace(Waiting { position: ahead + 1, eta, narration: None });
        let (outcome_sender, outcome) = oneshot::channel();
        let place = Place::new(demand.priority.band(), demand.deadline, id);
        self.held[usize::from(demand.priority.band())].add(demand.bytes);
        self.line(&demand.model).insert(&demand.key, place);
        if demand.placement.mode == Mode::Pin {
            self.pinned.insert(id);
        }
        let waiter = Waiter {
            demand: Arc::new(demand),
            place,
            since: now,
            waiting: waiting_sender,
            outcome: outcome_sender,
        };
        self.waiters.insert(id, waiter);
        Ok(Admitted::Waits { id, waiting, outcome })
    }

    /// A slot for a demand that has one already, on another worker; only if one is free that nobody waits for.
    pub(super) fn hedge(
        &mut self,
        demand: &Demand,
        fleet: &Fleet,
        now: Instant,
    ) -> Option<(TicketId, Grant)> {
        if self.is_closed || self.waiting(&demand.model) > 0 {
            return None;
        }
        let Ok(Look::Seat(seat, _)) = self.look(demand, fleet, now) else { return None };
        if is_avoided(seat, demand, &self.roster) {
            return None;
        }
        let id = self.next_id();
        let grant = self.grant(id, seat, Why::Hedge, demand, Duration::ZERO, now)?;
        self.hedges.sent += 1;
        Some((id, grant))
    }

    /// Whether a demand could have a slot at once, or how many are before it; an error if it never could have one.
    pub(super) fn look(&mut self, demand: &Demand, fleet: &Fleet, now: Instant) -> Result<Look, ApiError> {
        self.roster.take_over(fleet, now);
        let line = self.lines.get(&demand.model);
        let ahead = line.map_or(0, |line| line.ahead(&demand.key, demand.priority.band(), &self.service));
        match choose(demand, &self.roster, &self.affinity) {
            // A slot that has just become free is for those who wait for it.
            Choice::Seat(seat, why) if ahead == 0 => Ok(Look::Seat(seat, why)),
            Choice::Impossible(error) => Err(error),
            Choice::Nobody => {
                self.starts.possible(&Wanted::of(demand), &self.roster, &self.policy)?;
                Ok(Look::Behind { ahead, served: Served::AfterStart })
            }
            Choice::Seat(..) | Choice::Wait => Ok(Look::Behind { ahead, served: Served::AfterOthers }),
        }
    }

    /// Refuses what there is no room for, unless something of less weight can go for it.
    fn make_room(&mut self, demand: &Demand) -> Result<(), ApiError> {
        let Some((label, all)) = self.crowded(demand) else { return Ok(()) };
        let is_full_for_all = matches!(&*label, "requests" | "bytes");
        if is_full_for_all && demand.priority != Priority::Background && self.shed(demand.bytes, all) {
            return Ok(());
        }
        Err(self.full(&demand.model, &label, all))
    }

    /// The bound that a demand would break, with what waits in all.
    pub(super) fn crowded(&self, demand: &Demand) -> Option<(String, Held)> {
        let bounds = &self.policy.bounds;
        let own = self.held[usize::from(demand.priority.band())];
        let all = self.held.iter().fold(Held::default(), |all, held| Held {
            requests: all.requests + held.requests,
            bytes: all.bytes + held.bytes,
        });
        let band = demand.priority.as_str();
        let in_band = bounds.of_band(demand.priority);
        let label = if own.requests >= in_band.requests {
            format!("{band}_requests")
        } else if own.bytes + demand.bytes > in_band.bytes {
            format!("{band}_bytes")
        } else if all.requests >= bounds.all.requests {
            "requests".to_owned()
        } else if all.bytes + demand.bytes > bounds.all.bytes {
            "bytes".to_owned()
        } else {
            return None;
        };
        Some((label, all))
    }

    /// Refuses the newest of the background work for something more urgent; false if that does not make enough room.
    fn shed(&mut self, bytes: usize, all: Held) -> bool {
        let lines = self.lines.values();
        let newest = lines.filter_map(|line| line.newest(Priority::Background.band())).max();
        let Some(id) = newest else { return false };
        let is_enough = self
            .waiters
            .get(&id)
            .is_some_and(|waiter| all.bytes + bytes <= self.policy.bounds.all.bytes + waiter.demand.bytes);
        if !is_enough {
            return false;
        }
        let Some(waiter) = self.take_waiter(id) else { return false };
        let error = self.full(&waiter.demand.model, "shed", all);
        let _ = waiter.outcome.send(Err(error));
        true
    }

    pub(super) fn full(&self, model: &str, label: &str, all: Held) -> ApiError {
        let message = format!(
            "The queue is full ({label}): {} requests with {} KiB are waiting.",
            all.requests,
            all.bytes >> 10
        );
        let waiting = self.lines.get(model).map_or(0, Line::len);
        // A tenth of those who wait for the model are served by then.
        let retry = self.eta(model, waiting.div_ceil(10).max(1)).unwrap_or(RETRY_MIN);
        let retry = retry.clamp(RETRY_MIN, RETRY_MAX);
        ApiError::new(ErrorCode::QueueFull, message)
            .with_retry_after_ms(retry.as_millis() as u64)
            .with_detail("policy_label", label)
    }

    fn next_id(&mut self) -> TicketId {
        self.last_id += 1;
        self.last_id
    }

    fn line(&mut self, model: &str) -> &mut Line {
        if !self.lines.contains_key(model) {
            self.lines.insert(model.to_owned(), Line::default());
        }
        self.lines.entry(model.to_owned()).or_default()
    }

    pub(super) fn eta(&self, model: &str, place: u32) -> Option<Duration> {
        self.pace.wait(model, place, self.roster.pool(model).map_or(0, |pool| pool.slots))
    }

    /// Takes back a slot, with what it was used for, or a place in the queue.
    pub(super) fn give_back(&mut self, id: TicketId, spent: Spent, now: Instant) {
        let Some(granted) = self.leases.remove(&id) else {
            drop(self.take_waiter(id));
            return;
        };
        if spent == Spent::Refused {
            self.roster.take_back(granted.seat, granted.tokens, now);
            self.roster.note_full(granted.seat, now);
            self.service.charge(&granted.key, -granted.charged, now);
            return;
        }
        let used = if let Spent::Used(used) = spent { Some(used) } else { None };
        let took = now.saturating_duration_since(granted.since);
        self.roster.note_speed(granted.seat, used.map_or(0, |used| used.answer_tokens), took);
        self.roster.take_back(granted.seat, granted.tokens, now);
        self.pace.note(&granted.model, took, used.map(|used| used.answer_tokens));
        if let Some(used) = used {
            self.hedges.won += u64::from(granted.is_hedge);
            self.service.charge(&granted.key, used.cost() - granted.charged, now);
        }
    }

    /// Sends one who waits elsewhere; its place in the queue stays.
    pub(super) fn place(&mut self, id: TicketId, placement: Placement) {
        let Some(waiter) = self.waiters.get_mut(&id) else { return };
        if placement.mode == Mode::Pin {
            self.pinned.insert(id);
        } else {
            self.pinned.remove(&id);
        }
        Arc::make_mut(&mut waiter.demand).placement = placement;
    }

    /// Requests that wait for a model.
    pub(super) fn waiting(&self, model: &str) -> u32 {
        self.lines.get(model).map_or(0, Line::len)
    }

    fn take_waiter(&mut self, id: TicketId) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        self.pinned.remove(&id);
        let demand = &waiter.demand;
        self.held[usize::from(demand.priority.band())].remove(demand.bytes);
        if let Some(line) = self.lines.get_mut(&demand.model) {
            line.remove(&demand.key, waiter.place);
            if line.len() == 0 {
                self.lines.remove(&demand.model);
            }
        }
        Some(waiter)
    }

    /// Takes in what came of an order to start a worker.
    pub(super) fn started(&mut self, started: Started, now: Instant) {
        if let Some((wanted, error)) = self.starts.answered(started, &self.roster, &self.policy, now) {
            self.fail(&wanted, &error);
        }
    }

    /// Tells all whom a start was for that there will be no worker.
    fn fail(&mut self, wanted: &Wanted, error: &ApiError) {
        tracing::warn!(model = wanted.model, %error, "a worker could not be started");
        // Callers learn what went wrong; the worker's log is for those who may list the workers.
        let mut error = error.clone();
        error.details.remove("log_tail");
        let concerned = self.waiters.iter().filter(|(_, waiter)| Wanted::of(&waiter.demand) == *wanted);
        for id in concerned.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.refuse(id, error.clone());
        }
    }

    fn refuse(&mut self, id: TicketId, error: ApiError) {
        if let Some(waiter) = self.take_waiter(id) {
            let _ = waiter.outcome.send(Err(error));
        }
    }

    /// Gives out what can be given, and returns what must be done for it.
    pub(super) fn dispatch(&mut self, fleet: &Fleet, now: Instant) -> Vec<Effect> {
        self.roster.take_over(fleet, now);
        for (wanted, error) in self.starts.settle(&mut self.roster, now) {
            self.fail(&wanted, &error);
        }
        let mut effects = self.starts.evictions(&mut self.roster, now);
        self.note_connection(now);
        if now.saturating_duration_since(self.tended) >= TENDED_EVERY {
            self.tended = now;
            self.raise(now);
            self.service.forget(now);
        }
        for model in self.lines.keys().cloned().collect::<Vec<_>>() {
            self.serve(&model, now);
        }
        self.start_missing(now);
        self.tell_places(now);
        effects.extend(self.starts.orders());
        effects
    }

    fn note_connection(&mut self, now: Instant) {
        if self.roster.fleet().nodes().any(|(_, node)| node.connected) {
            self.disconnected_since = None;
        } else {
            self.disconnected_since.get_or_insert(now);
        }
    }

    /// Gives a model's free slots to those who wait for them.
    fn serve(&mut self, model: &str, now: Instant) {
        loop {
            let Some(line) = self.lines.get(model) else { return };
            if self.roster.pool(model).is_none_or(|pool| pool.free_count() == 0) {
                return;
            }
            let seat = |id| match self.waiters.get(&id) {
                Some(waiter) => match choose(&waiter.demand, &self.roster, &self.affinity) {
                    Choice::Seat(seat, why) => Some((seat, why)),
                    _ => None,
                },
                None => None,
            };
            let Some(id) = line.first(&self.service, |id| seat(id).is_some()) else { return };
            let Some((seat, why)) = seat(id) else { return };
            let Some(waiter) = self.take_waiter(id) else { return };
            let waited = now.saturating_duration_since(waiter.since);
            if let Some(grant) = self.grant(id, seat, why, &waiter.demand, waited, now) {
                // A caller that goes now gives the slot back with its ticket.
                let _ = waiter.outcome.send(Ok(grant));
            }
        }
    }

    fn grant(
        &mut self,
        id: TicketId,
        seat: SeatId,
        why: Why,
        demand: &Demand,
        waited: Duration,
        now: Instant,
    ) -> Option<Grant> {
        let used = self.guess(demand);
        let pool = self.roster.pool(&demand.model)?;
        let (free, serving) = (pool.free_count() as u32, pool.serving);
        let chosen = self.roster.seat(seat)?;
        let (node, worker) = (chosen.node.clone(), chosen.worker.clone());
        let decision = Decision { why, free, serving, outstanding: chosen.outstanding, waited };
        let tokens = u64::from(used.prompt_tokens) + u64::from(used.answer_tokens);
        self.roster.give(seat, tokens, now);
        self.affinity.note(&demand.beginnings, seat);
        self.service.charge(&demand.key, used.cost(), now);
        let granted = Granted {
            seat,
            model: demand.model.clone(),
            key: demand.key.clone(),
            tokens,
            charged: used.cost(),
            since: now,
            is_hedge: why == Why::Hedge,
        };
        self.leases.insert(id, granted);
        Some(Grant { node, worker, decision })
    }

    /// What a request will need.
    fn guess(&self, demand: &Demand) -> Used {
        let answer = self.pace.answer_tokens(&demand.model) as u32;
        Used {
            prompt_tokens: demand.prompt_tokens,
            answer_tokens: demand.answer_tokens_max.map_or(answer, |max| max.min(answer)),
        }
    }

    /// Starts workers where nobody serves who waits, and refuses whom nobody can ever serve.
    fn start_missing(&mut self, now: Instant) {
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut refused = Vec::new();
        for id in &self.pinned {
            let Some(waiter) = self.waiters.get(id) else { continue };
            match choose(&waiter.demand, &self.roster, &self.affinity) {
                Choice::Nobody => wanted.push(Wanted::of(&waiter.demand)),
                Choice::Impossible(error) => refused.push((*id, error)),
                Choice::Seat(..) | Choice::Wait => {}
            }
        }
        let unserved = self.lines.keys().filter(|model| self.roster.pool(model).is_none());
        wanted.extend(unserved.map(|model| Wanted { model: model.clone(), node: None }));
        for (id, error) in refused {
            self.refuse(id, error);
        }
        for wanted in wanted {
            let is_waited_for = |waiter: &Waiter| {
                // Whom a script sent to certain workers, no other one helps.
                Wanted::of(&waiter.demand) == wanted && waiter.demand.placement.mode != Mode::Among
            };
            if wanted.node.is_none() && !self.waiters.values().any(is_waited_for) {
                continue;
            }
            match self.starts.want(wanted.clone(), &self.roster, &self.policy) {
                Ok(()) => {}
                // A link that broke is back in a moment, as a rule, and who waits already can wait for it.
                Err(error) if error.code == ErrorCode::HiveUnavailable && self.is_recent_break(now) => {}
                Err(error) => self.fail(&wanted, &error),
            }
        }
    }

    fn is_recent_break(&self, now: Instant) -> bool {
        self.disconnected_since.is_some_and(|since| now.saturating_duration_since(since) < BACK_WITHIN)
    }

    /// Lets those rise who have waited long.
    fn raise(&mut self, now: Instant) {
        for waiter in self.waiters.values_mut() {
            let waited = now.saturating_duration_since(waiter.since);
            let band = risen(waiter.demand.priority, waited);
            if band < waiter.place.band
                && let Some(line) = self.lines.get_mut(&waiter.demand.model)
            {
                line.remove(&waiter.demand.key, waiter.place);
                waiter.place.band = band;
                line.insert(&waiter.demand.key, waiter.place);
            }
        }
    }
}

/// Refuses who would be served too late.
pub(super) fn in_time(
    eta: Option<Duration>,
    deadline: Option<Instant>,
    now: Instant,
) -> Result<(), ApiError> {
    let (Some(eta), Some(deadline)) = (eta, deadline) else { return Ok(()) };
    let left = deadline.saturating_duration_since(now);
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

#[cfg(test)]
impl Queue {
    /// Whether all counts are what they count, and nobody waits who could be served.
    pub(super) fn check(&self) {
        assert!(self.roster.is_sound());
        let mut held = [Held::default(); Priority::BANDS];
        for (id, waiter) in &self.waiters {
            held[usize::from(waiter.demand.priority.band())].add(waiter.demand.bytes);
            let choice = choose(&waiter.demand, &self.roster, &self.affinity);
            assert!(!matches!(choice, Choice::Seat(..)), "{id} waits beside a free slot: {choice:?}");
            let is_started = self.starts.is_for(&Wanted::of(&waiter.demand));
            let is_hopeless = choice == Choice::Nobody && !is_started && self.disconnected_since.is_none();
            assert!(!is_hopeless, "{id} waits for a worker that nobody starts");
        }
        assert_eq!(held, self.held);
        let lines: u32 = self.lines.values().map(Line::len).sum();
        assert_eq!(lines as usize, self.waiters.len());
        assert!(self.pinned.iter().all(|id| self.waiters.contains_key(id)));
    }
}
