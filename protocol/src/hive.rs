//! What a hive is asked and what it reports.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::worker::{Backend, LoadProgress, WorkerState};
use crate::{ApiError, BootId, WorkerId};

/// Body of POST /v1/workers/spawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpawnRequest {
    /// A model of the catalog, or `file:/path/to/model.gguf`.
    pub model: String,
    /// The device family; never another one instead.
    pub backend: Backend,
    /// Device number for GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<u32>,
    /// Sequences to run at once; the hive's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Port to use; the next free one from 8001 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// One worker as its hive sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerInfo {
    /// Which worker.
    pub id: WorkerId,
    /// Which run of it.
    pub boot_id: BootId,
    /// Where it listens: `http://host:port`, reachable from its hive's machine.
    pub url: String,
    /// Its process id, while there is a process.
    pub pid: Option<u32>,
    /// The model's name in the catalog.
    pub model_ref: String,
    /// The device family.
    pub backend: Backend,
    /// Device number for GPUs.
    pub device: Option<u32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Sequences it can run at once.
    pub slots_total: u32,
    /// Slots free when last seen.
    pub slots_available: u32,
    /// Tokens that prompt and answer may hold together; 0 until known.
    pub context_length: u32,
    /// How far its load has come.
    pub loading: LoadProgress,
    /// How often the hive has started it again after a crash.
    pub restarts: u32,
    /// Why it is not running, if it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

/// Answer of POST /v1/workers/spawn: the worker as it is right after its process started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SpawnResponse {
    /// The new worker.
    pub worker: WorkerInfo,
}

/// Answer of GET /v1/workers/list, here and at the queen's /v2/workers/list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerList {
    /// All workers, those that failed included.
    pub workers: Vec<WorkerInfo>,
}

/// Body of POST /v1/workers/ready: a worker tells its hive that its HTTP server is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerReady {
    /// Which worker.
    pub worker_id: WorkerId,
    /// Which run of it.
    pub boot_id: BootId,
    /// The port that it listens on.
    pub port: u16,
    /// The model's name.
    pub model: String,
    /// Its process id.
    pub pid: u32,
    /// Loading, as a rule.
    pub state: WorkerState,
}

/// Body of POST /v1/workers/shutdown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerShutdown {
    /// Which worker.
    pub worker_id: WorkerId,
    /// Whether it goes on if it has something to do; the answer is then an error, `ALL_SLOTS_BUSY`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub if_idle: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Where a model's bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// Hugging Face.
    Hf,
    /// A file on the hive's machine; never copied, never deleted.
    File,
    /// A Python package that carries the model.
    Pip,
}

impl Provider {
    /// The name used on the wire and in the catalog.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hf => "hf",
            Self::File => "file",
            Self::Pip => "pip",
        }
    }
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// Chat and completion.
    TextGen,
    /// Vectors.
    Embedding,
    /// How relevant texts are to a query.
    Rerank,
}

impl ModelKind {
    /// The name used on the wire and in the catalog.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TextGen => "text-gen",
            Self::Embedding => "embedding",
            Self::Rerank => "rerank",
        }
    }
}

/// One model of a hive's catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelEntry {
    /// The name that requests use.
    pub reference: String,
    /// SHA-256 of the main file, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where its bytes come from.
    pub provider: Provider,
    /// What it is for.
    pub kind: ModelKind,
    /// Bytes on disk, or bytes it will take there.
    pub size_bytes: u64,
    /// Whether its files are here, verified.
    pub downloaded: bool,
    /// When it was fetched, seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downloaded_at: Option<i64>,
    /// When a worker last loaded it, seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<i64>,
}

/// Answer of GET /v1/models/list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// All models that this hive has or knows how to fetch.
    pub models: Vec<ModelEntry>,
}

/// Body of POST /v1/models/download; the answer is a stream of [`DownloadEvent`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DownloadRequest {
    /// The model's name, or `file:/path/to/model.gguf`.
    pub reference: String,
    /// Where to fetch it from, if the name leaves that open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
}

/// Data of a `progress` event of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DownloadProgress {
    /// The model's name.
    pub reference: String,
    /// downloading, unpacking or verifying.
    pub stage: DownloadStage,
    /// Bytes fetched so far.
    pub bytes_downloaded: u64,
    /// Bytes to fetch in all.
    pub total_bytes: u64,
}

/// A step of a download, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum DownloadStage {
    Downloading,
    Unpacking,
    Verifying,
}

/// One event of a download: any number of `progress`, then one `done` or one `error`.
#[derive(Debug, Clone, PartialEq)]
pub enum DownloadEvent {
    /// More bytes are here.
    Progress(DownloadProgress),
    /// The model is here, verified and in the catalog.
    Done(ModelEntry),
    /// It is not.
    Error(crate::ErrorEnvelope),
}

/// A change at a hive. On the wire the SSE `id:` is its number; numbers rise by one and start anew with the hive.
#[derive(Debug, Clone, PartialEq)]
pub enum HiveEvent {
    /// Everything at once: sent first, and again where numbers were missed.
    Snapshot(HiveSnapshot),
    /// A worker is new or changed.
    Worker(Box<WorkerInfo>),
    /// A worker is gone for good.
    WorkerRemoved(WorkerShutdown),
    /// A model is new or changed.
    Model(ModelEntry),
}

/// Everything that a hive reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HiveSnapshot {
    /// Which run of the hive.
    pub boot_id: BootId,
    /// All workers.
    pub workers: Vec<WorkerInfo>,
    /// All models.
    pub models: Vec<ModelEntry>,
    /// Backends that this hive can spawn workers for.
    pub backends: Vec<Backend>,
}

sse_events!(DownloadEvent { Progress => "progress", Done => "done", Error => "error" });
sse_events!(HiveEvent {
    Snapshot => "snapshot",
    Worker => "worker",
    WorkerRemoved => "worker_removed",
    Model => "model",
});

/// Answer of a hive's GET /health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HiveHealth {
    /// Always "ready".
    pub status: String,
    /// The port that it listens on.
    pub port: u16,
    /// Which run of the hive.
    pub boot_id: BootId,
    /// Its version.
    pub version: String,
}

/// What `rbee-hive detect` finds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Detection {
    /// Operating system and architecture, such as linux/x86_64.
    pub platform: String,
    /// The processor's own name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: u32,
    /// Instruction sets that matter for inference.
    pub cpu_features: Vec<String>,
    /// Bytes of memory in all, within the limits set for this process.
    pub memory_total_bytes: u64,
    /// Bytes of memory free for use.
    pub memory_available_bytes: u64,
    /// One for each device, and one for each backend that cannot be used.
    pub backends: Vec<BackendReport>,
}

/// One backend on one device, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendReport {
    /// The device family.
    pub backend: Backend,
    /// Whether workers can be spawned for it.
    pub available: bool,
    /// Device number for GPUs.
    pub device: Option<u32>,
    /// The device's name, or why there is none.
    pub detail: String,
    /// Bytes of device memory, for GPUs.
    pub memory_total_bytes: Option<u64>,
}
