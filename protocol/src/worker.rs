//! What a worker is asked and what it answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::events::{FinishReason, Timings, TokenUsage};
use crate::{BootId, WorkerId};

/// The device family that a worker computes on. Chosen by name; none stands in for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Backend {
    Cpu,
    Cuda,
    Metal,
}

impl Backend {
    /// The name used on command lines and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Backend {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Cpu, Self::Cuda, Self::Metal]
            .into_iter()
            .find(|backend| backend.as_str() == name)
            .ok_or_else(|| format!("unknown backend '{name}'; cpu, cuda and metal are known"))
    }
}

/// A worker's life: loading → idle ⇄ busy → stopping → stopped. Loading may go straight to stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// The model is being read; no request is taken.
    Loading,
    /// Ready, nothing running.
    Idle,
    /// At least one slot is taken.
    Busy,
    /// No new request is taken; running ones end.
    Stopping,
    /// The process is gone, or about to be.
    Stopped,
}

impl WorkerState {
    /// The name used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// Whether a worker in this state takes requests.
    pub const fn takes_requests(self) -> bool {
        matches!(self, Self::Idle | Self::Busy)
    }
}

/// One turn of a conversation, its content already reduced to text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// system, developer, user, assistant or tool; the model's template decides what it makes of each.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

/// Body of POST /v1/execute. Exactly one of `prompt`, `instruction` and `messages` is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecuteRequest {
    /// The name by which POST /v1/cancel finds this execution; chosen by the worker if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Text to continue, special tokens understood, no template applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What a user says: one user turn where the model has a chat template, text to continue where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// A conversation to answer, formatted by the model's own chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Tokens to generate at most; without it, as many as the context holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// 0 (greedy) to 2; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Nucleus: the smallest set of tokens that holds this probability, at least one of them; 0 to 1, 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Only this many of the likeliest tokens; 0 or absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// The same seed, request, model and device give the same tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Generation ends before any of these, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Answer as server-sent events (the default) or as one body.
    #[serde(default = "yes")]
    pub stream: bool,
}

const fn yes() -> bool {
    true
}

/// Answer of POST /v1/execute with `"stream": false`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecuteResponse {
    /// The generated text.
    pub text: String,
    /// Why generation ended.
    pub finish_reason: FinishReason,
    /// What the execution consumed.
    pub usage: TokenUsage,
    /// Where the time went.
    pub timings: Timings,
    /// The seed in force.
    pub seed: u64,
}

/// Body of POST /v1/cancel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CancelRequest {
    /// As given in the execution, or as its `started` event told.
    pub request_id: String,
}

/// Answer of POST /v1/cancel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CancelResponse {
    /// False if no such execution was running any more.
    pub cancelled: bool,
}

/// How far a model's load has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoadProgress {
    /// downloading, starting, reading_header, loading_weights, warming_up, ready or failed.
    pub stage: LoadStage,
    /// Of the whole load, from 0 to 1.
    pub progress: f32,
    /// Bytes of weights read so far; while downloading, bytes fetched so far.
    pub bytes_loaded: u64,
    /// Bytes of weights in the file; while downloading, bytes to fetch in all.
    pub bytes_total: u64,
}

/// A step of a model's load, in their order. Only the hive is ever downloading: there is no worker process yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LoadStage {
    Downloading,
    Starting,
    ReadingHeader,
    LoadingWeights,
    WarmingUp,
    Ready,
    Failed,
}

/// Answer of GET /v1/ready: 200 when requests are taken, else 503.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// Whether requests are taken.
    pub ready: bool,
    /// Where the worker is in its life.
    pub state: WorkerState,
    /// How far the load has come.
    pub loading: LoadProgress,
}

/// Answer of a worker's GET /v1/health: 200 as long as the process answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always "healthy": a worker that is not, does not answer.
    pub status: String,
    /// Which worker this is.
    pub worker_id: WorkerId,
    /// Which run of it.
    pub boot_id: BootId,
    /// The model's name.
    pub model: String,
    /// The device family it computes on.
    pub backend: Backend,
    /// Device number for GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Sequences it can run at once.
    pub slots_total: u32,
    /// Slots that are free now.
    pub slots_available: u32,
    /// Tokens that prompt and answer may hold together; 0 until the model's header is read.
    pub context_length: u32,
    /// Milliseconds since any slot was last taken or freed.
    pub idle_ms: u64,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
}
