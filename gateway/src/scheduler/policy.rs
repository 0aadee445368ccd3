//! Who serves a demand: pure functions of what is known. They change nothing and ask nobody.

use protocol::hive::{ModelKind, SpawnRequest};
use protocol::worker::Backend;
use protocol::{ApiError, ErrorCode, WorkerId};

use super::affinity::Affinity;
use super::roster::{Roster, Seat, SeatId};
use super::{Demand, Mode, Placement, StartPolicy};
use crate::hives::{Fleet, Node, NodeName};

/// Who can serve a demand now.
#[derive(Debug, PartialEq)]
pub(super) enum Choice {
    /// This worker, and why it and no other.
    Seat(SeatId, Why),
    /// Somebody serves the model, or soon will, and has no free slot.
    Wait,
    /// Nobody does.
    Nobody,
    /// The worker that the caller wants cannot serve it.
    Impossible(ApiError),
}

/// Why a worker was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The caller wanted this worker or machine, and no other.
    Pinned,
    /// The caller preferred it.
    Preferred,
    /// The routing script chose it, or left it among others that had no free slot.
    Script,
    /// Another worker has the request and was slow to answer.
    Hedge,
    /// It has read the beginning of the prompt.
    PrefixCache,
    /// Of those with a free slot it has the least to do.
    LeastOutstanding,
}

impl Why {
    /// The name used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Preferred => "preferred",
            Self::Script => "script",
            Self::Hedge => "hedge",
            Self::PrefixCache => "prefix_cache",
            Self::LeastOutstanding => "least_outstanding_tokens",
        }
    }
}

/// Chooses a worker.
pub(super) fn choose(demand: &Demand, roster: &Roster, affinity: &Affinity) -> Choice {
    match demand.placement.mode {
        Mode::Pin => pinned(demand, roster),
        Mode::Prefer => match pinned(demand, roster) {
            Choice::Seat(seat, _) if !is_avoided(seat, demand, roster) => Choice::Seat(seat, Why::Preferred),
            _ => freest(demand, roster, affinity),
        },
        Mode::Among => among(demand, roster),
        Mode::Auto => freest(demand, roster, affinity),
    }
}

/// Of the workers that a script left, the one that it chose, or else the one with the least to do. That none of them is
/// there any more is for the script to know, which is asked again.
fn among(demand: &Demand, roster: &Roster) -> Choice {
    let Some(pool) = roster.pool(&demand.model) else { return Choice::Wait };
    let Placement { among, winner, .. } = &demand.placement;
    let is_free = |id: &SeatId| roster.seat(*id).is_some_and(Seat::is_free);
    let is_wanted = |id: &SeatId| !is_avoided(*id, demand, roster);
    let left = || pool.free().filter(|id| among.binary_search(id).is_ok());
    let chosen = winner.filter(is_free).filter(is_wanted);
    let chosen = chosen.or_else(|| left().find(is_wanted)).or_else(|| left().next());
    chosen.map_or(Choice::Wait, |id| Choice::Seat(id, Why::Script))
}

fn pinned(demand: &Demand, roster: &Roster) -> Choice {
    let serves = |seat: &Seat| seat.worker.model_ref == demand.model;
    if let Some(wanted) = &demand.placement.worker {
        return match roster.worker(wanted) {
            None => {
                let message = format!("There is no worker '{wanted}'.");
                Choice::Impossible(
                    ApiError::new(ErrorCode::WorkerNotFound, message).with_param("placement.worker"),
                )
            }
            Some((_, seat)) if !serves(seat) => {
                let message = format!("The worker '{wanted}' serves '{}'.", seat.worker.model_ref);
                Choice::Impossible(ApiError::invalid("placement.worker", message))
            }
            Some((id, seat)) if seat.is_free() => Choice::Seat(id, Why::Pinned),
            Some(_) => Choice::Wait,
        };
    }
    let Some(node) = &demand.placement.node else { return Choice::Nobody };
    let mut present = roster.on_node(node).filter(|(_, seat)| serves(seat) && seat.is_here()).peekable();
    if present.peek().is_none() {
        return Choice::Nobody;
    }
    let weight = |(id, seat): &(SeatId, &Seat)| (is_avoided(*id, demand, roster), seat.outstanding, *id);
    let free = present.filter(|(_, seat)| seat.is_free()).min_by_key(weight);
    free.map_or(Choice::Wait, |(id, _)| Choice::Seat(id, Why::Pinned))
}

fn freest(demand: &Demand, roster: &Roster, affinity: &Affinity) -> Choice {
    let Some(pool) = roster.pool(&demand.model) else { return Choice::Nobody };
    let is_free = |id: &SeatId| {
        roster.seat(*id).is_some_and(|seat| seat.is_free() && seat.worker.model_ref == demand.model)
    };
    let is_wanted = |id: &SeatId| !is_avoided(*id, demand, roster);
    if pool.free_count() > 1
        && let Some(reader) = affinity.readers(&demand.beginnings).find(|id| is_free(id) && is_wanted(id))
    {
        return Choice::Seat(reader, Why::PrefixCache);
    }
    let freest = pool.free().find(is_wanted).or_else(|| pool.free().next());
    freest.map_or(Choice::Wait, |id| Choice::Seat(id, Why::LeastOutstanding))
}

/// Whether a worker has the request, or had it and failed.
pub(super) fn is_avoided(id: SeatId, demand: &Demand, roster: &Roster) -> bool {
    let Some(avoided) = &demand.avoid else { return false };
    roster.seat(id).is_some_and(|seat| seat.worker.boot_id == *avoided)
}

/// An order to start a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// On which machine.
    pub node: NodeName,
    /// What it is to be.
    pub request: SpawnRequest,
}

/// Where to start a worker for a demand, but for machines where that was tried in vain.
pub(super) fn start(
    model: &str,
    wanted: Option<&NodeName>,
    tried: &[NodeName],
    fleet: &Fleet,
    policy: &StartPolicy,
) -> Result<Start, ApiError> {
    if let Some(wanted) = wanted
        && fleet.node(wanted).is_none()
    {
        let known: Vec<_> = fleet.nodes().map(|(name, _)| name.as_str()).collect();
        let message = format!("There is no node '{wanted}'; known are: {}.", known.join(", "));
        return Err(ApiError::invalid("node", message));
    }
    let is_wanted = |name: &NodeName| wanted.is_none_or(|wanted| wanted == name);
    let mut connected = fleet.nodes().filter(|(name, node)| is_wanted(name) && node.connected);
    if connected.next().is_none() {
        let message = "No hive is connected that could start a worker.";
        return Err(ApiError::new(ErrorCode::HiveUnavailable, message).with_retry_after_ms(1000));
    }
    let (backend, able) = startable(model, fleet, policy);
    let able = able
        .filter(|(name, _)| is_wanted(name) && !tried.contains(name))
        // A machine that has the file already is ready sooner; of those, the one with the fewest workers.
        .max_by_key(|(_, node)| {
            let has_file = node.models.get(model).is_some_and(|model| model.downloaded);
            (has_file, std::cmp::Reverse(node.workers.len()))
        });
    let Some((name, _)) = able else {
        let message =
            format!("No worker serves '{model}' and no node can start one on the backend {backend}.");
        return Err(ApiError::new(ErrorCode::NoWorkerAvailable, message).with_retry_after_ms(5000));
    };
    Ok(Start {
        node: name.clone(),
        request: SpawnRequest {
            model: model.to_owned(),
            backend,
            gpu: policy.gpu.filter(|_| backend == policy.backend),
            slots: None,
            port: None,
        },
    })
}

/// The machines that could start a worker for a model, and what it would compute on.
pub(super) fn startable<'a>(
    model: &'a str,
    fleet: &'a Fleet,
    policy: &StartPolicy,
) -> (Backend, impl Iterator<Item = (&'a NodeName, &'a Node)>) {
    // Encoders compute on the CPU, whatever text is generated on.
    let backend = match fleet.model(model).map(|model| model.kind) {
        Some(ModelKind::Embedding | ModelKind::Rerank) => Backend::Cpu,
        Some(ModelKind::TextGen) | None => policy.backend,
    };
    let is_able = move |node: &Node| {
        node.connected && node.models.contains_key(model) && node.backends.contains(&backend)
    };
    (backend, fleet.nodes().filter(move |(_, node)| is_able(node)))
}

/// The worker to end where memory is short: of those without work and whose model need not stay, the one that has had none
/// for the longest time.
pub(super) fn victim(
    node: &NodeName,
    roster: &Roster,
    pinned: &[String],
    kept: &[WorkerId],
) -> Option<SeatId> {
    let idle = roster.on_node(node).filter(|(_, seat)| seat.is_idle());
    let spare =
        idle.filter(|(_, seat)| !pinned.contains(&seat.worker.model_ref) && !kept.contains(&seat.worker.id));
    spare.min_by_key(|(id, seat)| (seat.last_used, *id)).map(|(id, _)| id)
}
