//! The /v2 task queue: what is submitted and what is told of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::events::{FinishReason, TokenUsage};
use crate::openai::metadata::Metadata;
use crate::vectors::{EmbedResponse, EmbeddingInput};
use crate::worker::{Constraint, Message, Tool, ToolCall, ToolChoice};
use crate::{ApiError, JobId, WorkerId};

/// Body of POST /v2/tasks. Fields of the contract that this version does not honour, and those that have no
/// meaning for the kind of work, are refused by name. Exactly one of `prompt`, `messages` and, for vectors, `input` is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"prompt": "hello", "model": "smollm2-135m-instruct", "max_tokens": 100}))]
pub struct TaskRequest {
    /// A model's name; the server's default model if absent, and all-minilm-l6-v2 for vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What a user says; answered through the model's chat template if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A conversation to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Tokens to generate at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// 0 (greedy) to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Nucleus, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Only this many of the likeliest tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Only tokens at least this times as probable as the likeliest one; 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Locally typical sampling, 0 to 1; 1 (off) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typical_p: Option<f32>,
    /// -2 to 2; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// -2 to 2; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// Divides the positive and multiplies the negative logits of tokens that have been seen; above 0 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Added to the logits of these tokens; -100 to 100 each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<u32, f32>,
    /// Chosen and recorded if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Generation ends before any of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Vec<String>>,
    /// Must be absent or 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Tokens before which neither an end of turn nor a stop string ends the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<u32>,
    /// Whether generation goes on past an end of turn, to `max_tokens`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignore_eos: bool,
    /// Tell each token's log probability in its event, and those of this many of the likeliest; 0 to 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u32>,
    /// What the answer must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Constraint>,
    /// Tools that the model may call; with `messages` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Which of them it must or must not call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Whether the answer may call several tools; true if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Further names that the chat template sees, such as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_options: Option<serde_json::Map<String, Value>>,
    /// What kind of work it is.
    #[serde(default)]
    pub kind: TaskKind,
    /// The band it waits in.
    #[serde(default)]
    pub priority: Priority,
    /// Milliseconds from submission after which an answer is of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The texts of which vectors are to be made, for tasks of the kind `embedding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<EmbeddingInput>,
    /// Numbers to keep of each vector; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// Leave out the end of a text that is too long for an embedding model, instead of refusing it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncate: bool,
    /// Where it may or should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<TaskPlacement>,
    /// The rules that it is under, such as `gdpr`; at most 64 bytes. A routing script keeps them: without one that is in
    /// force, this is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compliance: Option<String>,
    /// What a routing script may go by; within the limits of OpenAI's `metadata`.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub tags: Metadata,
    /// Tasks of one session go to the same worker while it has a free slot; at most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The node that must run it; the same as `placement` with the mode `pin` and this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Where a task may or should run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskPlacement {
    /// How much the rest counts.
    #[serde(default)]
    pub mode: PlacementMode,
    /// A machine's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// A worker's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
}

/// How much a wish for a machine or a worker counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlacementMode {
    /// The queue chooses.
    #[default]
    Auto,
    /// There if a slot is free, else anywhere.
    Prefer,
    /// There or nowhere.
    Pin,
}

/// Why a task went where it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecisionView {
    /// The machine.
    pub node: String,
    /// The worker.
    pub worker_id: WorkerId,
    /// Why this worker: `pinned`, `preferred`, `script`, `prefix_cache`, `least_outstanding_tokens`, or `hedge` where another one was
    /// slow to answer.
    pub why: String,
    /// Workers that had a free slot then.
    pub candidates: u32,
    /// Workers that served the model then.
    pub serving: u32,
    /// Tokens that the worker had yet to read and to write then, as far as they could be guessed.
    pub outstanding_tokens: u64,
    /// How long the task waited for it, in milliseconds.
    pub waited_ms: u64,
    /// Which attempt it is; the first is 1.
    pub attempt: u32,
}

/// Answer of GET /v2/decisions/{job_id}.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobDecision {
    /// The task's id, or the request's, as its answer's x-request-id tells it.
    pub job_id: String,
    /// The latest decision.
    pub decision: DecisionView,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// A task's kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum TaskKind {
    #[default]
    TextGen,
    Embedding,
    ImageGen,
    AudioGen,
}

impl TaskKind {
    /// The name used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TextGen => "text-gen",
            Self::Embedding => "embedding",
            Self::ImageGen => "image-gen",
            Self::AudioGen => "audio-gen",
        }
    }
}

/// A band of the queue: high > interactive > batch > low > background.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Priority {
    High,
    #[default]
    Interactive,
    Batch,
    Low,
    Background,
}

impl Priority {
    /// How many bands there are.
    pub const BANDS: usize = 5;
    /// All of them, the first to be served first.
    pub const ALL: [Self; Self::BANDS] =
        [Self::High, Self::Interactive, Self::Batch, Self::Low, Self::Background];

    /// The name used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Interactive => "interactive",
            Self::Batch => "batch",
            Self::Low => "low",
            Self::Background => "background",
        }
    }

    /// Whether somebody waits for the answer in person.
    pub const fn is_awaited(self) -> bool {
        matches!(self, Self::High | Self::Interactive)
    }

    /// 0 is served first.
    pub const fn band(self) -> u8 {
        match self {
            Self::High => 0,
            Self::Interactive => 1,
            Self::Batch => 2,
            Self::Low => 3,
            Self::Background => 4,
        }
    }
}

/// A task's life: queued → dispatched → running → completed, failed or cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Waits for a slot.
    Queued,
    /// Has a slot; the worker has not confirmed yet.
    Dispatched,
    /// A worker generates.
    Running,
    /// Ended as it should.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended by its owner.
    Cancelled,
}

/// Answer of POST /v2/tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskAccepted {
    /// The task's id.
    pub job_id: JobId,
    /// Always queued.
    pub status: TaskStatus,
    /// Place in the queue at submission; 0 if a slot was free.
    pub queue_position: u32,
    /// Estimated wait in milliseconds, if there is ground for an estimate.
    pub eta_ms: Option<u64>,
    /// Where its events are.
    pub events_url: String,
}

/// Answer of POST /v2/tasks/preview: what would come of a task now. Nothing was queued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskPreview {
    /// Whether it would be taken in.
    pub feasible: bool,
    /// Why it would go where it would go, or what it would wait for: a reason of [`DecisionView::why`], `queue` or
    /// `cold_start`. If it is not feasible, why not, in a sentence.
    pub reason: String,
    /// The machine that has a free slot for it.
    pub node: Option<String>,
    /// The worker that has a free slot for it.
    pub worker_id: Option<WorkerId>,
    /// Its place in the queue; 0 if a slot is free, and if it is not feasible.
    pub queue_position: u32,
    /// How long it would wait, in milliseconds, if there is ground for an estimate.
    pub eta_ms: Option<u64>,
    /// What its submission would be answered with, if it is not feasible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

/// Answer of GET /v2/tasks: some of the caller's tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskList {
    /// The tasks, without their answers.
    pub tasks: Vec<TaskSummary>,
    /// Whether there are more; `after` with the last one's id asks for them.
    pub has_more: bool,
}

/// One task of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskSummary {
    /// The task's id.
    pub job_id: JobId,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// The model that answers.
    pub model: String,
    /// The band it waits in.
    pub priority: Priority,
    /// Which attempt it is in; the first is 1, and 0 is none yet.
    pub attempt: u32,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
}

/// Answer of GET /v2/tasks/{job_id} and of cancel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// The task's id.
    pub job_id: JobId,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// The model that answers.
    pub model: String,
    /// The band it waits in.
    pub priority: Priority,
    /// Which attempt it is in; the first is 1, and 0 is none yet. Another one is begun when a queen that had it ends or dies.
    pub attempt: u32,
    /// The seed in force, once a worker has it.
    pub seed: Option<u64>,
    /// The worker that took it.
    pub worker_id: Option<WorkerId>,
    /// Why it was this worker.
    pub decision: Option<DecisionView>,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
    /// The text so far, or in full.
    pub output: String,
    /// What the model thought first, where its template marks that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// The calls it made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The vectors that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<EmbedResponse>,
    /// Why generation ended.
    pub finish_reason: Option<FinishReason>,
    /// What it consumed.
    pub usage: Option<TokenUsage>,
    /// Why it failed.
    pub error: Option<ApiError>,
}
