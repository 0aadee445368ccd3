//! What a routing script may choose from: the workers of a model, and the machines that could start one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use protocol::WorkerId;
use protocol::hive::WorkerInfo;
use protocol::worker::{Backend, WorkerState};
use tokio::time::Instant;

use super::Demand;
use super::affinity::Affinity;
use super::policy::startable;
use super::queue::Queue;
use super::roster::{Roster, SeatId};
use super::{Mode, Placement, StartPolicy};
use crate::hives::{Fleet, NodeName};

/// How much of its way a worker's measured speed goes towards the latest one.
const SPEED_WEIGHT: f32 = 0.2;

/// What a worker has to do. The scheduler writes it, and it can be read without asking her.
#[derive(Debug, Default)]
pub struct SeatLoad {
    taken: AtomicU32,
    outstanding: AtomicU64,
    /// Tokens a second of one request, as an f32's bits; 0 until measured.
    speed: AtomicU32,
}

impl SeatLoad {
    /// Slots that are given out.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Tokens that it has yet to read and to write, as far as they can be guessed.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Tokens that it writes a second for one request, if that has been measured.
    pub fn tokens_per_second(&self) -> Option<f32> {
        let speed = f32::from_bits(self.speed.load(Ordering::Relaxed));
        (speed > 0.0).then_some(speed)
    }

    pub(super) fn set(&self, taken: u32, outstanding: u64) {
        self.taken.store(taken, Ordering::Relaxed);
        self.outstanding.store(outstanding, Ordering::Relaxed);
    }

    /// Takes in what one request was answered with.
    pub(super) fn note_speed(&self, tokens: u32, took: Duration) {
        if tokens == 0 || took.is_zero() {
            return;
        }
        let measured = tokens as f32 / took.as_secs_f32();
        let speed =
            self.tokens_per_second().map_or(measured, |known| known + (measured - known) * SPEED_WEIGHT);
        self.speed.store(speed.to_bits(), Ordering::Relaxed);
    }
}

/// One thing to choose.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The machine.
    pub node: NodeName,
    /// Where the machine is, if that was told.
    pub region: Option<Arc<str>>,
    /// The model's name in the catalogs.
    pub model: Arc<str>,
    /// What is there.
    pub kind: CandidateKind,
}

/// What a candidate is.
#[derive(Debug, Clone)]
pub enum CandidateKind {
    /// A worker.
    Worker {
        /// The number of this run of it.
        seat: u64,
        /// What its hive tells of it.
        info: Arc<WorkerInfo>,
        /// What it has to do.
        load: Arc<SeatLoad>,
    },
    /// A machine without a worker for the model, which could start one.
    Startable {
        /// What the worker would compute on.
        backend: Backend,
    },
}

impl Candidate {
    /// The worker's id, if there is one.
    pub fn worker(&self) -> Option<&WorkerId> {
        match &self.kind {
            CandidateKind::Worker { info, .. } => Some(&info.id),
            CandidateKind::Startable { .. } => None,
        }
    }

    /// How it stands, by the scheduler's own count.
    pub fn state(&self) -> WorkerState {
        match &self.kind {
            CandidateKind::Worker { info, .. } if info.state == WorkerState::Loading => WorkerState::Loading,
            CandidateKind::Worker { load, .. } if load.taken() == 0 => WorkerState::Idle,
            CandidateKind::Worker { .. } => WorkerState::Busy,
            CandidateKind::Startable { .. } => WorkerState::Stopped,
        }
    }
}

/// All there is to choose from for one demand: those that serve first, then those that load, then those that could be
/// started.
#[derive(Debug, Clone)]
pub struct Candidates {
    /// Requests that wait, for whatever model.
    pub queue_depth: u32,
    /// Of these, those that wait for this model.
    pub waiting: u32,
    /// What to choose from.
    pub all: Arc<[Candidate]>,
    /// How much of the prompt's beginnings a worker has read, from 0 to 1, by the number of its run.
    pub readers: Vec<(u64, f32)>,
}

impl Placement {
    /// On one of these candidates, and on the winner if it is free. A machine that could start a worker counts only if it
    /// has won, or if there is nothing else.
    pub fn chosen(winner: Option<&Candidate>, allowed: &[&Candidate]) -> Self {
        if let Some(Candidate { node, kind: CandidateKind::Startable { .. }, .. }) = winner {
            return Self::on_node(node.clone());
        }
        let seat = |candidate: &Candidate| match candidate.kind {
            CandidateKind::Worker { seat, .. } => Some(seat),
            CandidateKind::Startable { .. } => None,
        };
        let mut among: Vec<u64> = allowed.iter().filter_map(|candidate| seat(candidate)).collect();
        if let ([], [first, ..]) = (&*among, allowed) {
            return Self::on_node(first.node.clone());
        }
        among.sort_unstable();
        Self { mode: Mode::Among, among: among.into(), winner: winner.and_then(seat), ..Self::default() }
    }
}

/// What there is to choose from, by model, as long as nothing has changed but what the workers have to do.
#[derive(Default)]
pub(super) struct Lists {
    generation: u64,
    by_model: HashMap<String, Arc<[Candidate]>>,
}

impl Queue {
    /// What there is to choose from for a demand now.
    pub(super) fn candidates(&mut self, demand: &Demand, fleet: &Fleet, now: Instant) -> Candidates {
        self.roster.take_over(fleet, now);
        if self.lists.generation != self.roster.generation() {
            self.lists = Lists { generation: self.roster.generation(), ..Lists::default() };
        }
        let model = &*demand.model;
        let known = self.lists.by_model.get(model).cloned();
        let all = known.unwrap_or_else(|| {
            let all = list(model, &self.roster, &self.policy);
            self.lists.by_model.insert(model.to_owned(), all.clone());
            all
        });
        Candidates {
            queue_depth: self.depth(),
            waiting: self.waiting(model),
            all,
            readers: readers(demand, &self.affinity),
        }
    }
}

/// The workers of a model by number, then the machines that could start one.
fn list(model: &str, roster: &Roster, policy: &StartPolicy) -> Arc<[Candidate]> {
    let mut all = Vec::new();
    let name: Arc<str> = model.into();
    let region = |node| roster.fleet().node(node).and_then(|node| node.region.clone());
    if let Some(pool) = roster.pool(model) {
        all.extend(pool.members().filter_map(|id| {
            let seat = roster.seat(id)?;
            let kind = CandidateKind::Worker { seat: id, info: seat.worker.clone(), load: seat.load.clone() };
            Some(Candidate { node: seat.node.clone(), region: region(&seat.node), model: name.clone(), kind })
        }));
    }
    let serves =
        |node| roster.on_node(node).any(|(_, seat)| seat.worker.model_ref == model && seat.is_here());
    let (backend, nodes) = startable(model, roster.fleet(), policy);
    all.extend(nodes.filter(|(node, _)| !serves(node)).map(|(place, node)| Candidate {
        node: place.clone(),
        region: node.region.clone(),
        model: name.clone(),
        kind: CandidateKind::Startable { backend },
    }));
    all.into()
}

/// Who has read how much of what the demand begins with.
fn readers(demand: &Demand, affinity: &Affinity) -> Vec<(SeatId, f32)> {
    let count = demand.beginnings.len() as f32;
    let mut readers: Vec<(SeatId, f32)> = Vec::new();
    for (index, seat) in affinity.readers_by_place(&demand.beginnings) {
        if !readers.iter().any(|(known, _)| *known == seat) {
            readers.push((seat, (index + 1) as f32 / count));
        }
    }
    readers
}
