//! Routing scripts: what they see, what they decide, and how they are tried out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::WorkerId;
use crate::task::{Priority, TaskKind};
use crate::worker::{Backend, WorkerState};

/// Whether the script decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RoutingMode {
    /// It decides.
    #[default]
    Enforce,
    /// It is asked and its decisions are recorded, and the queue decides as if there were none.
    Shadow,
}

impl RoutingMode {
    /// The name used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

impl std::str::FromStr for RoutingMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Enforce, Self::Shadow]
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| "enforce and shadow are known".to_owned())
    }
}

/// What decides when the script fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RoutingFailure {
    /// The queue, as if there were no script.
    #[default]
    BuiltIn,
    /// Nobody: the request is refused.
    Refuse,
}

impl RoutingFailure {
    /// The name used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BuiltIn => "built-in",
            Self::Refuse => "refuse",
        }
    }
}

impl std::str::FromStr for RoutingFailure {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::BuiltIn, Self::Refuse]
            .into_iter()
            .find(|failure| failure.as_str() == name)
            .ok_or_else(|| "built-in and refuse are known".to_owned())
    }
}

/// What is wrong with a script, or went wrong in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScriptFault {
    /// In a sentence.
    pub message: String,
    /// Where, counted from 1, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Where in the line, counted from 1, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

impl std::fmt::Display for ScriptFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "line {line}, column {column}: {}", self.message),
            (Some(line), None) => write!(f, "line {line}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

/// A task as a script sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingTask {
    /// The request's id, as the answer's x-request-id tells it, or the task's.
    pub id: String,
    /// The model's name in the catalogs.
    pub model: String,
    /// The band it waits in.
    pub priority: Priority,
    /// Tokens of the prompt, as far as they can be guessed.
    pub prompt_tokens: u32,
    /// Tokens of the answer at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// What kind of work it is.
    pub kind: TaskKind,
    /// What it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Whose it is: not the key itself, but what stands for it.
    pub key: String,
    /// What the caller wrote on it: `tags` of a task, `metadata` of OpenAI's requests.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The rules that it is under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compliance: Option<String>,
    /// Milliseconds that are left for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Whether somebody reads along.
    pub stream: bool,
}

/// A worker as a script sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingWorker {
    /// Which worker; empty for a machine that could start one.
    pub id: String,
    /// The machine.
    pub node: String,
    /// Where the machine is; empty if that was not told.
    pub region: String,
    /// The model's name in the catalogs.
    pub model: String,
    /// The device family.
    pub backend: Backend,
    /// Device number for GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u32>,
    /// GPUs that it computes on.
    pub gpus: u32,
    /// `idle`, `busy`, `loading`, or `stopped` for a machine that could start one.
    pub state: WorkerState,
    /// Requests that it serves at once.
    pub slots_total: u32,
    /// Of these, free ones.
    pub slots_available: u32,
    /// Requests that wait for its model.
    pub queue_depth: u32,
    /// Tokens that it has yet to read and to write, as far as they can be guessed.
    pub outstanding_tokens: u64,
    /// Tokens that it writes a second for one request, if that has been measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Free memory of its GPUs in GiB, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram_free_gb: Option<f64>,
    /// How much of the prompt's beginning it has in its cache, from 0 to 1: what `prefix_hit(task)` tells.
    pub prefix_hit: f64,
}

impl Default for RoutingWorker {
    fn default() -> Self {
        Self {
            id: String::new(),
            node: String::new(),
            region: String::new(),
            model: String::new(),
            backend: Backend::Cpu,
            device: None,
            gpus: 0,
            state: WorkerState::Idle,
            slots_total: 1,
            slots_available: 1,
            queue_depth: 0,
            outstanding_tokens: 0,
            tokens_per_second: None,
            vram_free_gb: None,
            prefix_hit: 0.0,
        }
    }
}

/// A provider of the marketplace as a script sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct RoutingProvider {
    pub id: String,
    pub name: String,
    pub models: Vec<String>,
    pub pricing: ProviderPricing,
    pub geo: ProviderGeo,
    pub sla: ProviderSla,
    pub healthy: bool,
    pub latency_ms: u64,
    pub queue_depth: u32,
}

/// What a provider charges.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ProviderPricing {
    pub per_token: f64,
    pub per_hour: f64,
    pub currency: String,
}

/// Where a provider is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ProviderGeo {
    pub country: String,
    pub region: String,
}

/// What a provider promises; `uptime` is what was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ProviderSla {
    pub uptime: f64,
    pub uptime_guarantee: f64,
    pub max_latency_ms: u64,
}

/// What a script decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// This worker, or, while it has no free slot, one of those that it was chosen from.
    Worker,
    /// This machine is to start a worker.
    Start,
    /// One of some workers; the queue chooses.
    Any,
    /// This provider.
    Provider,
    /// Nothing: the queue chooses.
    Queue,
    /// Nobody: `error("...")` was called.
    Refused,
    /// `should_admit` did not let the task in.
    NotAdmitted,
    /// The script failed.
    Failed,
}

impl Verdict {
    /// The name used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Start => "start",
            Self::Any => "any",
            Self::Provider => "provider",
            Self::Queue => "queue",
            Self::Refused => "refused",
            Self::NotAdmitted => "not_admitted",
            Self::Failed => "failed",
        }
    }
}

/// What a script decided, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutingOutcome {
    /// What it decided.
    pub verdict: Verdict,
    /// The worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<WorkerId>,
    /// The worker's machine, or the one that is to start a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Workers that the script left; if the one that it chose has no free slot, another one of them serves.
    pub left: u32,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<ScriptFault>,
}

/// One step of a script over a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutingStep {
    /// The list's function, such as `filter`.
    pub step: String,
    /// The line it stands in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// How many the list had.
    pub from: u32,
    /// How many it left, or the id of what it chose.
    pub to: String,
}

/// One decision of a script, with all that is needed to understand it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoutingDecision {
    /// The request's id, as the answer's x-request-id tells it, or the task's.
    pub id: String,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Whether the script decided, or was only asked.
    pub mode: RoutingMode,
    /// SHA-256 of the script, hexadecimal.
    pub script: String,
    /// The task.
    pub task: RoutingTask,
    /// Requests that waited.
    pub queue_depth: u32,
    /// Workers, and machines that could start one, to choose from.
    pub candidates: u32,
    /// What was decided.
    pub outcome: RoutingOutcome,
    /// What was done with the lists, in the order of doing; the first 64.
    pub steps: Vec<RoutingStep>,
    /// What the script logged; the first 64.
    pub notes: Vec<String>,
    /// How long the script ran, in microseconds.
    pub took_us: u64,
    /// The worker that got the request in the end, once one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_by: Option<WorkerId>,
    /// What there was to choose from; the first 256. Left out in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<RoutingWorker>,
}

/// Answer of GET /v2/routing/decisions: the latest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoutingDecisions {
    /// The decisions, without what there was to choose from.
    pub decisions: Vec<RoutingDecision>,
}

/// How often the script decided what since the server started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutingCounts {
    /// Requests that were sent to a worker or to some of them.
    pub routed: u64,
    /// Requests that were left to the queue.
    pub left_to_queue: u64,
    /// Requests that were refused by `error("...")`.
    pub refused: u64,
    /// Requests that were not admitted.
    pub not_admitted: u64,
    /// Times that the script failed.
    pub failed: u64,
    /// Requests for which it was not asked, since it had failed too often.
    pub suspended: u64,
}

/// Answer of GET /v2/routing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoutingView {
    /// The script's file; none if there is no script.
    pub file: Option<String>,
    /// Whether the script decides.
    pub mode: RoutingMode,
    /// What decides when it fails.
    pub on_failure: RoutingFailure,
    /// What it defines: `should_admit`, `route_task`.
    pub hooks: Vec<String>,
    /// SHA-256 of the script that is in force, hexadecimal.
    pub script: Option<String>,
    /// When it was loaded, milliseconds since 1970.
    pub loaded_at_ms: Option<u64>,
    /// What is wrong with the file as it is now, if another version of it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<ScriptFault>,
    /// How often it decided what.
    pub counts: RoutingCounts,
    /// For how many milliseconds it is not asked, since it has failed too often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_for_ms: Option<u64>,
}

/// Body of POST /v2/routing/validate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateRequest {
    /// The script's text.
    pub script: String,
}

/// Answer of POST /v2/routing/validate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Validated {
    /// Whether it can be loaded.
    pub valid: bool,
    /// What it defines: `should_admit`, `route_task`.
    pub hooks: Vec<String>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<ScriptFault>,
}

/// Body of POST /v2/routing/simulate: what a script would decide. Nothing is queued.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SimulateRequest {
    /// The script's text; the one in force if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The task.
    pub task: RoutingTask,
    /// What there is to choose from; what there is now if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<Vec<RoutingWorker>>,
    /// Providers to choose from.
    pub marketplace_providers: Vec<RoutingProvider>,
    /// Requests that wait; as many as do now if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_depth: Option<u32>,
}

/// Body of POST /v2/routing/replay: what a script would have decided for what was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// The script's text.
    pub script: String,
}

/// Answer of POST /v2/routing/replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replay {
    /// Decisions that were gone through, the latest first.
    pub replayed: u32,
    /// Those that would have been the same.
    pub same: u32,
    /// Those that would not.
    pub changed: Vec<ReplayedDecision>,
}

/// A decision that would not have been the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplayedDecision {
    /// The request's id, as the answer's x-request-id tells it, or the task's.
    pub id: String,
    /// What was decided.
    pub then: RoutingOutcome,
    /// What would be.
    pub now: RoutingOutcome,
    /// Whether more was there to choose from than was recorded, so that this may be wrong.
    pub is_partial: bool,
}
