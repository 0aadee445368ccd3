//! What a script may know of a task, a worker and a provider.

use std::sync::Arc;

use protocol::hive::WorkerInfo;
use protocol::routing::{RoutingProvider, RoutingTask, RoutingWorker};
use protocol::worker::{Backend, WorkerState};

use crate::scheduler::{Candidate, CandidateKind, SeatLoad};

/// The value of one fact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// It is not known.
    Unknown,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Texts(&'a [String]),
}

impl<'a> From<Option<Value<'a>>> for Value<'a> {
    fn from(value: Option<Value<'a>>) -> Self {
        value.unwrap_or(Value::Unknown)
    }
}

/// All that a list can hold.
pub(super) trait Facts: Send + Sync + 'static {
    /// The name of one of them in scripts, and that of a list.
    const NAME: &str;
    const LIST: &str;
    /// The names of the facts; a dot parts a group's name from that of its fact.
    const FIELDS: &[&str];

    /// How many there are.
    fn count(&self) -> usize;

    /// The fact of this name, which is one of `FIELDS`, of the one at this place.
    fn fact(&self, at: usize, field: &str) -> Value<'_>;

    /// What the least loaded one has the least of.
    fn load(&self, at: usize) -> Load;

    /// What the explanation calls it.
    fn id(&self, at: usize) -> &str;
}

/// Whatever is there already comes first, then what has a free slot, then what has less to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Load {
    pub(super) stage: u8,
    is_full: bool,
    outstanding: u64,
}

/// The workers that a task can go to, and the machines that could start one.
#[derive(Debug)]
pub(super) enum Workers {
    /// As they are now, and how many requests wait for them.
    Live { all: Arc<[Candidate]>, waiting: u32 },
    /// As they were, or as somebody says.
    Told(Vec<RoutingWorker>),
}

/// One of them.
enum Worker<'a> {
    Serving(&'a Candidate, &'a WorkerInfo, &'a SeatLoad),
    Startable(&'a Candidate, Backend),
    Told(&'a RoutingWorker),
}

impl Workers {
    fn worker(&self, at: usize) -> Worker<'_> {
        match self {
            Self::Live { all, .. } => match &all[at].kind {
                CandidateKind::Worker { info, load, .. } => Worker::Serving(&all[at], info, load),
                CandidateKind::Startable { backend } => Worker::Startable(&all[at], *backend),
            },
            Self::Told(all) => Worker::Told(&all[at]),
        }
    }

    /// The candidate at this place, if it is one.
    pub(super) fn candidate(&self, at: usize) -> Option<&Candidate> {
        match self {
            Self::Live { all, .. } => all.get(at),
            Self::Told(_) => None,
        }
    }

    /// The id of the one at this place, which a machine that could start a worker has not, and its machine.
    pub(super) fn name(&self, at: usize) -> (&str, &str) {
        let worker = self.worker(at);
        (worker.id(), worker.node())
    }

    /// How much of a task's beginning the one at this place has read.
    pub(super) fn prefix_hit(&self, at: usize, readers: &[(u64, f32)]) -> f64 {
        match self {
            Self::Live { all, .. } => match &all[at].kind {
                CandidateKind::Worker { seat, .. } => {
                    let part = readers.iter().find(|(reader, _)| reader == seat).map(|(_, part)| *part);
                    part.map_or(0.0, f64::from)
                }
                CandidateKind::Startable { .. } => 0.0,
            },
            Self::Told(all) => all[at].prefix_hit,
        }
    }

    /// The first of them as they can be written down.
    pub(super) fn told(&self, readers: &[(u64, f32)], most: usize) -> Vec<RoutingWorker> {
        let told = |at| {
            let worker = self.worker(at);
            let (slots_total, slots_available) = worker.slots();
            RoutingWorker {
                id: worker.id().to_owned(),
                node: worker.node().to_owned(),
                region: worker.region().to_owned(),
                model: worker.model().to_owned(),
                backend: worker.backend(),
                device: worker.device(),
                gpus: worker.gpus(),
                state: worker.state(),
                slots_total,
                slots_available,
                queue_depth: self.queue_depth(at),
                outstanding_tokens: worker.outstanding(),
                tokens_per_second: worker.tokens_per_second(),
                vram_free_gb: worker.vram_free_gb(),
                prefix_hit: self.prefix_hit(at, readers),
            }
        };
        (0..self.count().min(most)).map(told).collect()
    }

    fn queue_depth(&self, at: usize) -> u32 {
        match self {
            Self::Live { waiting, .. } => *waiting,
            Self::Told(all) => all[at].queue_depth,
        }
    }
}

impl<'a> Worker<'a> {
    fn id(&self) -> &'a str {
        match self {
            Self::Serving(_, info, _) => info.id.as_str(),
            Self::Startable(..) => "",
            Self::Told(told) => &told.id,
        }
    }

    fn node(&self) -> &'a str {
        match self {
            Self::Serving(candidate, ..) | Self::Startable(candidate, _) => candidate.node.as_str(),
            Self::Told(told) => &told.node,
        }
    }

    fn region(&self) -> &'a str {
        match self {
            Self::Serving(candidate, ..) | Self::Startable(candidate, _) => {
                candidate.region.as_deref().unwrap_or_default()
            }
            Self::Told(told) => &told.region,
        }
    }

    fn model(&self) -> &'a str {
        match self {
            Self::Serving(candidate, ..) | Self::Startable(candidate, _) => &candidate.model,
            Self::Told(told) => &told.model,
        }
    }

    fn state(&self) -> WorkerState {
        match self {
            Self::Serving(candidate, ..) | Self::Startable(candidate, _) => candidate.state(),
            Self::Told(told) => told.state,
        }
    }

    fn backend(&self) -> Backend {
        match self {
            Self::Serving(_, info, _) => info.backend,
            Self::Startable(_, backend) => *backend,
            Self::Told(told) => told.backend,
        }
    }

    fn device(&self) -> Option<u32> {
        match self {
            Self::Serving(_, info, _) => info.device,
            Self::Startable(..) => None,
            Self::Told(told) => told.device,
        }
    }

    fn gpus(&self) -> u32 {
        match self {
            // A worker of ours computes on one device.
            Self::Serving(..) | Self::Startable(..) => u32::from(self.backend() != Backend::Cpu),
            Self::Told(told) => told.gpus,
        }
    }

    /// In all, and free ones.
    fn slots(&self) -> (u32, u32) {
        match self {
            Self::Serving(_, info, load) => (info.slots_total, info.slots_total.saturating_sub(load.taken())),
            Self::Startable(..) => (0, 0),
            Self::Told(told) => (told.slots_total, told.slots_available),
        }
    }

    fn outstanding(&self) -> u64 {
        match self {
            Self::Serving(_, _, load) => load.outstanding(),
            Self::Startable(..) => 0,
            Self::Told(told) => told.outstanding_tokens,
        }
    }

    fn tokens_per_second(&self) -> Option<f64> {
        match self {
            Self::Serving(_, _, load) => load.tokens_per_second().map(f64::from),
            Self::Startable(..) => None,
            Self::Told(told) => told.tokens_per_second,
        }
    }

    fn vram_free_gb(&self) -> Option<f64> {
        match self {
            // Hives do not tell.
            Self::Serving(..) | Self::Startable(..) => None,
            Self::Told(told) => told.vram_free_gb,
        }
    }
}

fn number(value: u32) -> Value<'static> {
    Value::Int(i64::from(value))
}

impl Facts for Workers {
    const NAME: &str = "Worker";
    const LIST: &str = "Workers";
    const FIELDS: &[&str] = &[
        "id",
        "node",
        "region",
        "model",
        "backend",
        "device",
        "gpus",
        "state",
        "slots_total",
        "slots_available",
        "queue_depth",
        "outstanding_tokens",
        "tokens_per_second",
        "vram_free_gb",
    ];

    fn count(&self) -> usize {
        match self {
            Self::Live { all, .. } => all.len(),
            Self::Told(all) => all.len(),
        }
    }

    fn fact(&self, at: usize, field: &str) -> Value<'_> {
        let worker = self.worker(at);
        match field {
            "id" => Value::Text(worker.id()),
            "node" => Value::Text(worker.node()),
            "region" => Value::Text(worker.region()),
            "model" => Value::Text(worker.model()),
            "backend" => Value::Text(worker.backend().as_str()),
            "device" => worker.device().map(number).into(),
            "gpus" => number(worker.gpus()),
            "state" => Value::Text(worker.state().as_str()),
            "slots_total" => number(worker.slots().0),
            "slots_available" => number(worker.slots().1),
            "queue_depth" => number(self.queue_depth(at)),
            "outstanding_tokens" => Value::Int(worker.outstanding() as i64),
            "tokens_per_second" => worker.tokens_per_second().map(Value::Float).into(),
            "vram_free_gb" => worker.vram_free_gb().map(Value::Float).into(),
            _ => Value::Unknown,
        }
    }

    fn load(&self, at: usize) -> Load {
        let worker = self.worker(at);
        let stage = match worker.state() {
            WorkerState::Idle | WorkerState::Busy => 0,
            WorkerState::Loading => 1,
            WorkerState::Stopping | WorkerState::Stopped => 2,
        };
        Load { stage, is_full: worker.slots().1 == 0, outstanding: worker.outstanding() }
    }

    fn id(&self, at: usize) -> &str {
        self.worker(at).id()
    }
}

/// The marketplace's providers.
#[derive(Debug, Default)]
pub(super) struct Providers(pub(super) Vec<RoutingProvider>);

impl Facts for Providers {
    const NAME: &str = "Provider";
    const LIST: &str = "Providers";
    const FIELDS: &[&str] = &[
        "id",
        "name",
        "models",
        "pricing.per_token",
        "pricing.per_hour",
        "pricing.currency",
        "geo.country",
        "geo.region",
        "sla.uptime",
        "sla.uptime_guarantee",
        "sla.max_latency_ms",
        "healthy",
        "latency_ms",
        "queue_depth",
    ];

    fn count(&self) -> usize {
        self.0.len()
    }

    fn fact(&self, at: usize, field: &str) -> Value<'_> {
        let provider = &self.0[at];
        match field {
            "id" => Value::Text(&provider.id),
            "name" => Value::Text(&provider.name),
            "models" => Value::Texts(&provider.models),
            "pricing.per_token" => Value::Float(provider.pricing.per_token),
            "pricing.per_hour" => Value::Float(provider.pricing.per_hour),
            "pricing.currency" => Value::Text(&provider.pricing.currency),
            "geo.country" => Value::Text(&provider.geo.country),
            "geo.region" => Value::Text(&provider.geo.region),
            "sla.uptime" => Value::Float(provider.sla.uptime),
            "sla.uptime_guarantee" => Value::Float(provider.sla.uptime_guarantee),
            "sla.max_latency_ms" => Value::Int(provider.sla.max_latency_ms as i64),
            "healthy" => Value::Bool(provider.healthy),
            "latency_ms" => Value::Int(provider.latency_ms as i64),
            "queue_depth" => number(provider.queue_depth),
            _ => Value::Unknown,
        }
    }

    fn load(&self, at: usize) -> Load {
        let provider = &self.0[at];
        Load {
            stage: u8::from(!provider.healthy),
            is_full: false,
            outstanding: u64::from(provider.queue_depth),
        }
    }

    fn id(&self, at: usize) -> &str {
        &self.0[at].id
    }
}

/// A task, and who has read how much of what it begins with.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) facts: Arc<RoutingTask>,
    pub(super) readers: Arc<[(u64, f32)]>,
}

impl Task {
    /// The names of its facts, but for `tags`, which is a group of any names.
    pub(super) const FIELDS: &[&str] = &[
        "id",
        "model",
        "priority",
        "prompt_tokens",
        "max_tokens",
        "kind",
        "session",
        "key",
        "compliance",
        "deadline_ms",
        "stream",
    ];

    pub(super) fn fact(&self, field: &str) -> Value<'_> {
        let facts = &*self.facts;
        match field {
            "id" => Value::Text(&facts.id),
            "model" => Value::Text(&facts.model),
            "priority" => Value::Text(facts.priority.as_str()),
            "prompt_tokens" => number(facts.prompt_tokens),
            "max_tokens" => facts.max_tokens.map(number).into(),
            "kind" => Value::Text(facts.kind.as_str()),
            "session" => facts.session.as_deref().map(Value::Text).into(),
            "key" => Value::Text(&facts.key),
            "compliance" => facts.compliance.as_deref().map(Value::Text).into(),
            "deadline_ms" => facts.deadline_ms.map(|ms| Value::Int(ms as i64)).into(),
            "stream" => Value::Bool(facts.stream),
            _ => Value::Unknown,
        }
    }
}
