//! Random histories: requests that come and go, workers that start, crash and come back, hives that are lost, clocks that jump.
//! Whatever happens, no request is lost or served twice, no slot leaks, and nobody waits beside a free slot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::hive::{HiveEvent, HiveSnapshot, WorkerInfo};
use protocol::task::Priority;
use protocol::worker::{Backend, WorkerState};
use protocol::{ApiError, BootId, ErrorCode, WorkerId};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::queue::{Admitted, Grant, Outcome, Queue};
use super::starts::Wanted;
use super::tests::{demand, model, policy, worker};
use super::{Demand, Effect, Mode, Placement, Spent, Started, TicketId, Used};
use crate::hives::{Fleet, NodeName};

/// Histories that are tried.
const HISTORIES: u64 = 100_000;
/// Things that happen in one at most.
const STEPS: u32 = 24;

const MODELS: [&str; 3] = ["m", "other", "pinned"];
const KEYS: [&str; 3] = ["a", "b", "c"];
const NODES: [&str; 2] = ["one", "two"];

struct World {
    random: SmallRng,
    now: Instant,
    queue: Queue,
    fleet: Fleet,
    /// What runs on each machine, as its hive knows.
    workers: HashMap<&'static str, Vec<WorkerInfo>>,
    boots: u32,
    waiting: Vec<(TicketId, Demand, oneshot::Receiver<Outcome>)>,
    running: Vec<(TicketId, BootId)>,
    /// Orders that no hive has answered.
    orders: Vec<(Wanted, NodeName, String)>,
    served: u32,
    refused: u32,
    left: u32,
    asked: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut world = Self {
            random: SmallRng::seed_from_u64(seed),
            now,
            queue: Queue::new(policy(8), now),
            fleet: Fleet::default(),
            workers: HashMap::new(),
            boots: 0,
            waiting: Vec::new(),
            running: Vec::new(),
            orders: Vec::new(),
            served: 0,
            refused: 0,
            left: 0,
            asked: 0,
        };
        for node in NODES {
            world.report(node);
        }
        world
    }

    /// A hive tells all that it knows.
    fn report(&mut self, node: &'static str) {
        let workers = self.workers.entry(node).or_default().clone();
        let models = MODELS.map(model).to_vec();
        let snapshot = HiveSnapshot { boot_id: "b".into(), workers, models, backends: vec![Backend::Cpu] };
        self.fleet.change(&node.into(), |node| node.apply(HiveEvent::Snapshot(snapshot)));
    }

    fn step(&mut self) {
        match self.random.random_range(0..20) {
            0..6 => self.ask(),
            6..9 => self.end_one(),
            9 => self.leave(),
            10..13 => self.answer_order(),
            13 => self.start_one(),
            14 => self.crash_one(),
            15..17 => self.change_one(),
            17 => {
                let node = *NODES.choose(&mut self.random).unwrap();
                self.fleet.change(&node.into(), |node| node.connected = false);
            }
            18 => {
                let node = *NODES.choose(&mut self.random).unwrap();
                self.report(node);
            }
            _ => self.now += Duration::from_millis(10_u64.pow(self.random.random_range(0..8))),
        }
        self.dispatch();
        self.check();
    }

    fn ask(&mut self) {
        self.asked += 1;
        let placement = match self.random.random_range(0..8) {
            0 => Placement::on_node((*NODES.choose(&mut self.random).unwrap()).into()),
            1 => Placement { mode: Mode::Prefer, node: Some("two".into()), ..Placement::default() },
            _ => Placement::default(),
        };
        let beginnings: Arc<[u64]> = [self.random.random_range(0..4)].into();
        let deadline = self.random.random_bool(0.2).then(|| self.now + Duration::from_secs(3));
        let demand = Demand {
            model: (*MODELS.choose(&mut self.random).unwrap()).to_owned(),
            priority: *Priority::ALL.choose(&mut self.random).unwrap(),
            placement,
            deadline,
            beginnings,
            bytes: self.random.random_range(0..1 << 18),
            ..demand(KEYS.choose(&mut self.random).unwrap())
        };
        match self.queue.admit(demand.clone(), &self.fleet, self.now) {
            Ok(Admitted::Served { id, grant }) => self.serve(id, &grant),
            Ok(Admitted::Waits { id, outcome, .. }) => self.waiting.push((id, demand, outcome)),
            Err(_) => self.refused += 1,
        }
    }

    fn serve(&mut self, id: TicketId, grant: &Grant) {
        let run = &grant.worker.boot_id;
        let in_use = self.running.iter().filter(|(_, busy)| busy == run).count() as u32;
        assert!(in_use < grant.worker.slots_total, "a slot is given out twice");
        self.served += 1;
        self.running.push((id, run.clone()));
    }

    fn end_one(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let (id, _) = self.running.swap_remove(self.random.random_range(0..self.running.len()));
        let used = Used { prompt_tokens: 10, answer_tokens: self.random.random_range(0..1000) };
        let spent = match self.random.random_range(0..10) {
            0 | 1 => Spent::Unknown,
            2 => Spent::Refused,
            _ => Spent::Used(used),
        };
        self.queue.give_back(id, spent, self.now);
    }

    /// Somebody who waits goes away, perhaps at the moment when a slot was given.
    fn leave(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let (id, _, mut outcome) = self.waiting.swap_remove(self.random.random_range(0..self.waiting.len()));
        self.left += 1;
        if !matches!(outcome.try_recv(), Ok(Err(_))) {
            self.queue.give_back(id, Spent::Unknown, self.now);
        }
    }

    fn answer_order(&mut self) {
        let Some((wanted, node, model)) = self.orders.pop() else { return };
        let outcome = match self.random.random_range(0..6) {
            0..3 => {
                let mut worker = self.new_worker(&model);
                worker.state = WorkerState::Loading;
                if self.random.random_bool(0.8) {
                    self.workers.get_mut(node_of(&node)).unwrap().push(worker.clone());
                    self.report(node_of(&node));
                }
                Ok(worker)
            }
            3 | 4 => Err(ApiError::new(ErrorCode::InsufficientMemory, "no")),
            _ => Err(ApiError::new(ErrorCode::ModelLoadFailed, "no")),
        };
        self.queue.started(Started { wanted, outcome }, self.now);
    }

    fn new_worker(&mut self, model: &str) -> WorkerInfo {
        self.boots += 1;
        let slots = self.random.random_range(1..3);
        let state = WorkerState::Idle;
        WorkerInfo { model_ref: model.to_owned(), ..worker(&format!("w{}", self.boots), state, slots) }
    }

    fn start_one(&mut self) {
        let worker = self.new_worker(MODELS[self.boots as usize % MODELS.len()]);
        let node = *NODES.choose(&mut self.random).unwrap();
        self.workers.get_mut(node).unwrap().push(worker);
        self.report(node);
    }

    fn crash_one(&mut self) {
        let node = *NODES.choose(&mut self.random).unwrap();
        let workers = self.workers.get_mut(node).unwrap();
        if !workers.is_empty() {
            workers.swap_remove(self.random.random_range(0..workers.len()));
        }
        self.report(node);
    }

    /// A worker's state changes, or it comes back as another run of itself.
    fn change_one(&mut self) {
        let node = *NODES.choose(&mut self.random).unwrap();
        self.boots += 1;
        if let Some(worker) = self.workers.get_mut(node).unwrap().iter_mut().last() {
            match self.random.random_range(0..5) {
                0 => worker.boot_id = format!("boot {}", self.boots).into(),
                1 => worker.state = WorkerState::Stopped,
                2 => worker.slots_total = self.random.random_range(0..4),
                _ => worker.state = WorkerState::Idle,
            }
        }
        self.report(node);
    }

    fn dispatch(&mut self) {
        for effect in self.queue.dispatch(&self.fleet, self.now) {
            match effect {
                Effect::Start { wanted, start } => {
                    let is_ordered = self.orders.iter().any(|(known, ..)| *known == wanted);
                    assert!(!is_ordered, "all who wait for a model share one start");
                    self.orders.push((wanted, start.node, start.request.model));
                }
                Effect::Evict { node, worker } => self.evict(&node, &worker),
            }
        }
        let mut index = 0;
        while index < self.waiting.len() {
            match self.waiting[index].2.try_recv() {
                Ok(outcome) => {
                    let (id, demand, _) = self.waiting.swap_remove(index);
                    match outcome {
                        Ok(grant) => {
                            let wanted = demand.placement.node.filter(|_| demand.placement.mode == Mode::Pin);
                            assert!(wanted.is_none_or(|wanted| wanted == grant.node));
                            assert_eq!(grant.worker.model_ref, demand.model);
                            self.serve(id, &grant);
                        }
                        Err(_) => self.refused += 1,
                    }
                }
                Err(oneshot::error::TryRecvError::Empty) => index += 1,
                Err(oneshot::error::TryRecvError::Closed) => panic!("a request is lost"),
            }
        }
    }

    fn evict(&mut self, node: &NodeName, id: &WorkerId) {
        let workers = self.workers.get_mut(node_of(node)).unwrap();
        let Some(place) = workers.iter().position(|worker| worker.id == *id) else { return };
        let worker = &workers[place];
        assert_ne!(worker.model_ref, "pinned");
        assert!(!self.running.iter().any(|(_, run)| *run == worker.boot_id), "a busy worker is told to end");
        if self.random.random_bool(0.7) {
            workers.swap_remove(place);
            self.report(node_of(node));
        }
    }

    fn check(&mut self) {
        let load = self.queue.load();
        assert_eq!(load.depth as usize, self.waiting.len());
        assert_eq!(load.taken.values().sum::<u32>() as usize, self.running.len());
        assert!(load.taken.iter().all(|(run, taken)| {
            self.running.iter().filter(|(_, busy)| busy == run).count() == *taken as usize
        }));
        self.queue.check();
        assert_eq!(self.asked, self.served + self.refused + self.left + self.waiting.len() as u32);
    }

    /// All go, and nothing is left.
    fn end(mut self) {
        while !self.running.is_empty() {
            self.end_one();
            self.dispatch();
            self.check();
        }
        while !self.waiting.is_empty() {
            self.leave();
        }
        self.dispatch();
        while !self.running.is_empty() {
            self.end_one();
        }
        self.check();
        assert_eq!(self.queue.load(), super::Load::default());
    }
}

fn node_of(name: &NodeName) -> &'static str {
    NODES.into_iter().find(|known| *known == name.as_str()).unwrap()
}

#[test]
fn whatever_happens_nothing_is_lost_doubled_or_left() {
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..HISTORIES).step_by(threads as usize) {
                    let history = std::panic::AssertUnwindSafe(|| {
                        let mut world = World::new(seed);
                        for _ in 0..world.random.random_range(1..=STEPS) {
                            world.step();
                        }
                        world.end();
                    });
                    if let Err(panic) = std::panic::catch_unwind(history) {
                        eprintln!("the history of seed {seed} fails");
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}

/// One slot, and keys that always have more to do: what two of them have had differs by no more than one request's cost.
#[test]
fn keys_that_always_wait_get_the_same() {
    for seed in 0..200 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut now = Instant::now();
        let mut queue = Queue::new(policy(1000), now);
        let mut fleet = Fleet::default();
        let workers = vec![worker("w", WorkerState::Idle, 1)];
        let models = vec![model("m")];
        let snapshot = HiveSnapshot { boot_id: "b".into(), workers, models, backends: vec![Backend::Cpu] };
        fleet.change(&"one".into(), |node| node.apply(HiveEvent::Snapshot(snapshot)));
        let mut waiting = HashMap::new();
        let mut running = None;
        let mut had = HashMap::from(KEYS.map(|key| (key, 0.0)));
        let dearest = 10.0 + 2.0 * 500.0;
        for _ in 0..100 {
            for key in KEYS {
                while waiting.values().filter(|(waits, _)| *waits == key).count() < 2 {
                    match queue.admit(demand(key), &fleet, now).unwrap() {
                        Admitted::Served { id, .. } => running = Some((id, key)),
                        Admitted::Waits { id, outcome, .. } => drop(waiting.insert(id, (key, outcome))),
                    }
                }
            }
            if let Some((id, key)) = running.take() {
                let used = Used { prompt_tokens: 10, answer_tokens: random.random_range(0..=500) };
                *had.get_mut(key).unwrap() += used.cost();
                // So fast that nothing is forgotten meanwhile.
                now += Duration::from_millis(1);
                queue.give_back(id, Spent::Used(used), now);
            }
            queue.dispatch(&fleet, now);
            let served =
                waiting.iter_mut().find_map(|(id, (_, outcome))| outcome.try_recv().is_ok().then_some(*id));
            let served = served.expect("one slot is free and some wait");
            running = waiting.remove(&served).map(|(key, _)| (served, key));
            let (least, most) = had
                .values()
                .fold((f64::MAX, 0.0_f64), |(least, most), had| (least.min(*had), most.max(*had)));
            assert!(most - least <= dearest, "seed {seed}: {had:?}");
        }
    }
}

/// One slot, and people who always ask: what may wait is served nevertheless, once it has waited long enough.
#[test]
fn the_lowest_band_is_served_in_the_end() {
    for band in [Priority::Batch, Priority::Low, Priority::Background] {
        let mut now = Instant::now();
        let start = now;
        let mut queue = Queue::new(policy(1000), now);
        let mut fleet = Fleet::default();
        let workers = vec![worker("w", WorkerState::Idle, 1)];
        let snapshot = HiveSnapshot {
            boot_id: "b".into(),
            workers,
            models: vec![model("m")],
            backends: vec![Backend::Cpu],
        };
        fleet.change(&"one".into(), |node| node.apply(HiveEvent::Snapshot(snapshot)));
        let mut flood = HashMap::new();
        let Admitted::Served { id, .. } = queue.admit(demand("flood"), &fleet, now).unwrap() else {
            panic!()
        };
        let mut running = Some(id);
        let patient = Demand { priority: band, ..demand("patient") };
        let Admitted::Waits { outcome: mut patient, .. } = queue.admit(patient, &fleet, now).unwrap() else {
            panic!()
        };
        while patient.try_recv().is_err() {
            while flood.len() < 3 {
                let Admitted::Waits { id, outcome, .. } = queue.admit(demand("flood"), &fleet, now).unwrap()
                else {
                    panic!()
                };
                flood.insert(id, outcome);
            }
            now += Duration::from_secs(10);
            queue.give_back(running.take().unwrap(), Spent::Unknown, now);
            queue.dispatch(&fleet, now);
            let served = flood.iter_mut().find_map(|(id, outcome)| outcome.try_recv().is_ok().then_some(*id));
            let Some(served) = served else { break };
            flood.remove(&served);
            running = Some(served);
        }
        let waited = now - start;
        let rises = u32::from(band.band() - Priority::Interactive.band());
        assert!(waited <= super::line::RISES_AFTER * rises + Duration::from_secs(20), "{band:?}: {waited:?}");
        assert!(waited >= super::line::RISES_AFTER, "{band:?}: {waited:?}");
    }
}
