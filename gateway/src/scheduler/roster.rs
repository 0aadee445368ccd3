//! The fleet as the queue needs it: workers by model, with what they have to do. It is brought up to date from the fleet's
//! parts that have changed, so that a decision costs the same with ten workers as with a hundred thousand.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use protocol::hive::WorkerInfo;
use protocol::worker::WorkerState;
use protocol::{BootId, WorkerId};
use tokio::time::Instant;

use super::Taken;
use super::candidates::SeatLoad;
use crate::hives::{Fleet, Node, NodeName};

/// Number of one run of a worker.
pub(super) type SeatId = u64;

/// One run of a worker, and what the queen gave it to do. She alone gives out its slots, so her count is the truth.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) node: NodeName,
    pub(super) worker: Arc<WorkerInfo>,
    /// Slots that are given out.
    pub(super) taken: u32,
    /// Tokens that it has yet to read and to write, as far as they can be guessed.
    pub(super) outstanding: u64,
    /// The same two for those who look without asking.
    pub(super) load: Arc<SeatLoad>,
    pub(super) last_used: Instant,
    /// Somebody else has some of its slots.
    crowd: Option<Crowd>,
    /// False once its hive does not tell of it any more, or is not heard of itself.
    is_reachable: bool,
    /// It is told to end, and gets nothing to do.
    pub(super) is_leaving: bool,
}

/// What is known of a worker that had fewer slots than the queue thought: another server gives it work, too.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    /// Slots of this queue's at most.
    most: u32,
    /// More of them are tried then.
    until: Instant,
}

/// A worker that had no slot is asked for more than it had so often.
pub(super) const ASKED_AGAIN_EVERY: Duration = Duration::from_millis(250);

impl Seat {
    fn takes_requests(&self) -> bool {
        self.is_reachable && !self.is_leaving && self.worker.state.takes_requests()
    }

    /// Whether it serves, or soon will.
    pub(super) fn is_here(&self) -> bool {
        self.takes_requests() || (self.is_reachable && self.worker.state == WorkerState::Loading)
    }

    /// Whether it could serve and has nothing to do, by the queen's count and by its own.
    pub(super) fn is_idle(&self) -> bool {
        self.takes_requests() && self.taken == 0 && self.worker.state == WorkerState::Idle
    }

    pub(super) fn is_free(&self) -> bool {
        let slots = self.worker.slots_total;
        self.takes_requests() && self.taken < self.crowd.map_or(slots, |crowd| crowd.most.min(slots))
    }
}

/// The workers of one model.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Those with a free slot, the one with the least to do first.
    free: BTreeSet<(u64, SeatId)>,
    /// Those that take requests.
    members: BTreeSet<SeatId>,
    /// Their number and their slots.
    pub(super) serving: u32,
    pub(super) slots: u32,
    /// Slots of theirs that are given out.
    pub(super) taken: u32,
    loading: BTreeSet<SeatId>,
}

impl Pool {
    /// Workers with a free slot, the one with the least to do first.
    pub(super) fn free(&self) -> impl Iterator<Item = SeatId> {
        self.free.iter().map(|(_, id)| *id)
    }

    /// All workers, those that load last.
    pub(super) fn members(&self) -> impl Iterator<Item = SeatId> {
        self.members.iter().chain(&self.loading).copied()
    }

    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    pub(super) fn loading(&self) -> Option<SeatId> {
        self.loading.first().copied()
    }

    fn is_empty(&self) -> bool {
        self.serving == 0 && self.loading.is_empty()
    }
}

#[derive(Default)]
pub(super) struct Roster {
    fleet: Fleet,
    seats: HashMap<SeatId, Seat>,
    by_run: HashMap<BootId, SeatId>,
    by_node: HashMap<NodeName, Vec<SeatId>>,
    pools: HashMap<String, Pool>,
    last_id: SeatId,
    /// Another one whenever a pool has changed but for what its workers have to do.
    generation: u64,
    /// Workers that somebody else gives work to, as well.
    crowded: BTreeSet<SeatId>,
}

impl Roster {
    /// Takes over what has changed in the fleet, and what time has changed.
    pub(super) fn take_over(&mut self, fleet: &Fleet, now: Instant) {
        self.try_more(now);
        if self.fleet.is_same(fleet) {
            return;
        }
        let before = std::mem::replace(&mut self.fleet, fleet.clone());
        self.generation += 1;
        for (name, node) in fleet.nodes() {
            if !before.node(name).is_some_and(|known| std::ptr::eq(known, node)) {
                self.take_over_node(name, Some(node), now);
            }
        }
        for (name, _) in before.nodes() {
            if fleet.node(name).is_none() {
                self.take_over_node(name, None, now);
            }
        }
    }

    fn take_over_node(&mut self, name: &NodeName, node: Option<&Node>, now: Instant) {
        let known = self.by_node.remove(name).unwrap_or_default();
        let mut present = Vec::new();
        for worker in node.into_iter().flat_map(|node| node.workers.values()) {
            let id = *self.by_run.entry(worker.boot_id.clone()).or_insert_with(|| {
                self.last_id += 1;
                self.last_id
            });
            self.leave(id);
            let seat = self.seats.entry(id).or_insert_with(|| Seat {
                node: name.clone(),
                worker: worker.clone(),
                taken: 0,
                outstanding: 0,
                load: Arc::default(),
                last_used: now,
                crowd: None,
                is_reachable: true,
                is_leaving: false,
            });
            seat.worker = worker.clone();
            seat.is_reachable = node.is_some_and(|node| node.connected);
            self.enter(id);
            present.push(id);
        }
        for id in known.into_iter().filter(|id| !present.contains(id)) {
            self.leave(id);
            if let Some(seat) = self.seats.get_mut(&id) {
                seat.is_reachable = false;
            }
            self.forget_if_gone(id);
        }
        if node.is_some() {
            self.by_node.insert(name.clone(), present);
        }
    }

    /// Puts a worker into its model's pool, by what it can do now.
    fn enter(&mut self, id: SeatId) {
        self.generation += 1;
        let Some(seat) = self.seats.get(&id) else { return };
        let is_loading = seat.is_reachable && seat.worker.state == WorkerState::Loading;
        if !is_loading && !seat.takes_requests() {
            return;
        }
        if !self.pools.contains_key(&seat.worker.model_ref) {
            self.pools.insert(seat.worker.model_ref.clone(), Pool::default());
        }
        let Some(pool) = self.pools.get_mut(&seat.worker.model_ref) else { return };
        if is_loading {
            pool.loading.insert(id);
            return;
        }
        pool.members.insert(id);
        pool.serving += 1;
        pool.slots += seat.worker.slots_total;
        pool.taken += seat.taken;
        if seat.is_free() {
            pool.free.insert((seat.outstanding, id));
        }
    }

    /// Takes it out again; what `enter` put in is told from the same state.
    fn leave(&mut self, id: SeatId) {
        self.generation += 1;
        let Some(seat) = self.seats.get(&id) else { return };
        let Some(pool) = self.pools.get_mut(&seat.worker.model_ref) else { return };
        pool.loading.remove(&id);
        pool.free.remove(&(seat.outstanding, id));
        if seat.takes_requests() {
            pool.members.remove(&id);
            pool.serving -= 1;
            pool.slots -= seat.worker.slots_total;
            pool.taken -= seat.taken;
        }
        if pool.is_empty() {
            self.pools.remove(&seat.worker.model_ref);
        }
    }

    /// Changes what a worker has to do.
    fn change(&mut self, id: SeatId, change: impl FnOnce(&mut Seat)) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let Some(pool) = self.pools.get_mut(&seat.worker.model_ref).filter(|_| seat.takes_requests()) else {
            change(seat);
            return seat.load.set(seat.taken, seat.outstanding);
        };
        pool.free.remove(&(seat.outstanding, id));
        pool.taken -= seat.taken;
        change(seat);
        seat.load.set(seat.taken, seat.outstanding);
        pool.taken += seat.taken;
        if seat.is_free() {
            pool.free.insert((seat.outstanding, id));
        }
    }

    /// Gives out a slot.
    pub(super) fn give(&mut self, id: SeatId, tokens: u64, now: Instant) {
        self.change(id, |seat| {
            seat.taken += 1;
            seat.outstanding += tokens;
            seat.last_used = now;
        });
    }

    /// Takes in how fast a worker answered.
    pub(super) fn note_speed(&self, id: SeatId, tokens: u32, took: Duration) {
        if let Some(seat) = self.seats.get(&id) {
            seat.load.note_speed(tokens, took);
        }
    }

    /// Takes a slot back.
    pub(super) fn take_back(&mut self, id: SeatId, tokens: u64, now: Instant) {
        self.change(id, |seat| {
            seat.taken -= 1;
            seat.outstanding = seat.outstanding.saturating_sub(tokens);
            seat.last_used = now;
        });
        self.forget_if_gone(id);
    }

    /// A worker had no slot where one should have been. It gets no more than it has, for a while.
    pub(super) fn note_full(&mut self, id: SeatId, now: Instant) {
        self.change(id, |seat| {
            seat.crowd = Some(Crowd { most: seat.taken, until: now + ASKED_AGAIN_EVERY });
        });
        self.crowded.insert(id);
    }

    /// Whether any worker's slots are not this queue's alone.
    pub(super) fn is_crowded(&self) -> bool {
        !self.crowded.is_empty()
    }

    /// Gives workers more again that had no slot, twice as much each time, until it is all or they refuse.
    fn try_more(&mut self, now: Instant) {
        let is_due = |id: &SeatId| {
            self.seats.get(id).is_none_or(|seat| seat.crowd.is_none_or(|crowd| crowd.until <= now))
        };
        for id in self.crowded.iter().copied().filter(is_due).collect::<Vec<_>>() {
            let mut is_over = true;
            self.change(id, |seat| {
                let most = seat.crowd.map_or(u32::MAX, |crowd| crowd.most.saturating_mul(2).max(1));
                is_over = most >= seat.worker.slots_total;
                seat.crowd = (!is_over).then_some(Crowd { most, until: now + ASKED_AGAIN_EVERY });
            });
            if is_over {
                self.crowded.remove(&id);
            }
        }
    }

    /// Gives a worker nothing more to do.
    pub(super) fn send_away(&mut self, id: SeatId) {
        self.leave(id);
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.is_leaving = true;
        }
    }

    /// Gives a worker work again that was to go.
    pub(super) fn call_back(&mut self, id: SeatId) {
        self.leave(id);
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.is_leaving = false;
        }
        self.enter(id);
    }

    fn forget_if_gone(&mut self, id: SeatId) {
        let Some(seat) = self.seats.get(&id) else { return };
        let is_told_of = self.by_node.get(&seat.node).is_some_and(|present| present.contains(&id));
        if seat.taken == 0 && !seat.is_reachable && !is_told_of {
            self.by_run.remove(&seat.worker.boot_id);
            self.seats.remove(&id);
        }
    }

    /// Whether anything has changed but for what the workers have to do.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    pub(super) fn pool(&self, model: &str) -> Option<&Pool> {
        self.pools.get(model)
    }

    pub(super) fn seat(&self, id: SeatId) -> Option<&Seat> {
        self.seats.get(&id)
    }

    /// The workers of a machine.
    pub(super) fn on_node(&self, node: &NodeName) -> impl Iterator<Item = (SeatId, &Seat)> {
        let ids = self.by_node.get(node).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.seats.get(id)?)))
    }

    /// The worker of this id, wherever it is.
    pub(super) fn worker(&self, worker: &WorkerId) -> Option<(SeatId, &Seat)> {
        let (_, info) = self.fleet.workers().find(|(_, info)| info.id == *worker)?;
        let id = self.by_run.get(&info.boot_id)?;
        Some((*id, self.seats.get(id)?))
    }

    /// Slots given out, by run of worker.
    pub(super) fn taken(&self) -> Taken {
        let busy = self.seats.values().filter(|seat| seat.taken > 0);
        busy.map(|seat| (seat.worker.boot_id.clone(), seat.taken)).collect()
    }
}

#[cfg(test)]
impl Roster {
    /// Whether every pool is what its workers make of it.
    pub(super) fn is_sound(&self) -> bool {
        let mut pools = HashMap::<&str, (u32, u32, u32, BTreeSet<(u64, SeatId)>)>::new();
        for (id, seat) in self.seats.iter().filter(|(_, seat)| seat.takes_requests()) {
            let pool = pools.entry(&seat.worker.model_ref).or_default();
            (pool.0, pool.1, pool.2) = (pool.0 + 1, pool.1 + seat.worker.slots_total, pool.2 + seat.taken);
            if seat.is_free() {
                pool.3.insert((seat.outstanding, *id));
            }
        }
        let is_same = |(model, pool): (&String, &Pool)| {
            let expected = pools.get(model.as_str()).cloned().unwrap_or_default();
            (pool.serving, pool.slots, pool.taken, pool.free.clone()) == expected
        };
        self.pools.iter().all(is_same) && pools.keys().all(|model| self.pools.contains_key(*model))
    }
}
