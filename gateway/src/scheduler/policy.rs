//! Who serves a demand: a pure function of what is known. It changes nothing and asks nobody.

use std::collections::HashMap;
use std::sync::Arc;

use protocol::hive::{ModelKind, SpawnRequest, WorkerInfo};
use protocol::worker::{Backend, WorkerState};
use protocol::{ApiError, BootId, ErrorCode};

use super::{Demand, StartPolicy};
use crate::hives::{Fleet, NodeName};

/// Slots that the queen has given out, by run of worker. She alone gives them out, so this count is the truth.
pub type Taken = HashMap<BootId, u32>;

/// What to do with a demand now.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// Give it a slot of this worker.
    Place(NodeName, Arc<WorkerInfo>),
    /// Start a worker for it, and let it wait.
    Start(Start),
    /// Let it wait: somebody serves the model, or will soon.
    Wait,
    /// Nothing can serve it.
    Refuse(ApiError),
}

/// An order to start a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    pub node: NodeName,
    pub request: SpawnRequest,
}

/// Decides. `starting` tells whether a start for this model is under way that no hive has reported yet.
pub fn decide(
    demand: &Demand,
    fleet: &Fleet,
    taken: &Taken,
    starting: bool,
    policy: &StartPolicy,
) -> Decision {
    let serves = |(node, worker): &(&NodeName, &Arc<WorkerInfo>)| {
        worker.model_ref == demand.model && demand.node.as_ref().is_none_or(|wanted| wanted == *node)
    };
    let free_slots = |worker: &WorkerInfo| {
        let used = taken.get(&worker.boot_id).copied().unwrap_or(0);
        worker.slots_total.saturating_sub(used)
    };
    let freest = fleet
        .reachable_workers()
        .filter(serves)
        .filter(|(_, worker)| worker.state.takes_requests())
        .max_by_key(|(_, worker)| free_slots(worker));
    match freest {
        Some((node, worker)) if free_slots(worker) > 0 => {
            return Decision::Place(node.clone(), worker.clone());
        }
        Some(_) => return Decision::Wait,
        None => {}
    }
    let loading =
        fleet.reachable_workers().filter(serves).any(|(_, worker)| worker.state == WorkerState::Loading);
    if loading || starting { Decision::Wait } else { start(demand, fleet, policy) }
}

fn start(demand: &Demand, fleet: &Fleet, policy: &StartPolicy) -> Decision {
    if let Some(wanted) = &demand.node
        && fleet.node(wanted).is_none()
    {
        let known: Vec<_> = fleet.nodes().map(|(name, _)| name.as_str()).collect();
        let message = format!("There is no node '{wanted}'; known are: {}.", known.join(", "));
        return Decision::Refuse(ApiError::invalid("node", message));
    }
    let connected = || {
        let wanted = |name: &NodeName| demand.node.as_ref().is_none_or(|wanted| wanted == name);
        fleet.nodes().filter(move |(name, node)| wanted(name) && node.connected)
    };
    if connected().next().is_none() {
        let message = "No hive is connected that could start a worker.";
        return Decision::Refuse(
            ApiError::new(ErrorCode::HiveUnavailable, message).with_retry_after_ms(1000),
        );
    }
    // Encoders compute on the CPU, whatever text is generated on.
    let backend = match fleet.model(&demand.model).map(|model| model.kind) {
        Some(ModelKind::Embedding | ModelKind::Rerank) => Backend::Cpu,
        Some(ModelKind::TextGen) | None => policy.backend,
    };
    let able = connected()
        .filter(|(_, node)| node.models.contains_key(&demand.model) && node.backends.contains(&backend))
        // A machine that has the file already is ready sooner.
        .max_by_key(|(_, node)| node.models.get(&demand.model).is_some_and(|model| model.downloaded));
    match able {
        Some((name, _)) => Decision::Start(Start {
            node: name.clone(),
            request: SpawnRequest {
                model: demand.model.clone(),
                backend,
                gpu: policy.gpu.filter(|_| backend == policy.backend),
                slots: None,
                port: None,
            },
        }),
        None => Decision::Refuse(
            ApiError::new(
                ErrorCode::NoWorkerAvailable,
                format!(
                    "No worker serves '{}' and no node can start one on the backend {}.",
                    demand.model, backend
                ),
            )
            .with_retry_after_ms(5000),
        ),
    }
}
