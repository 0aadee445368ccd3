//! What a worker is asked and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::events::{FinishReason, Timings, TokenLogprob, TokenUsage};
use crate::hive::ModelKind;
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// system, developer, user, assistant or tool; the model's template decides what it makes of each.
    pub role: String,
    /// The text of the turn.
    pub content: String,
    /// Calls that an assistant made in this turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool's turn answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The speaker's name: of a tool's turn, the tool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What an assistant thought before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToolCall {
    /// Ties an answer to its call.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments, as JSON text.
    pub arguments: String,
}

/// A tool that a model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`, at most 128.
    pub name: String,
    /// What it does, for the model to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON schema of its arguments; none means no arguments.
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Whether generated arguments are made to fit the schema.
    #[serde(default)]
    pub strict: bool,
}

/// Which tools a model must or must not call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// No call; the tools are not shown to the model.
    None,
    /// At least one call.
    Required,
    /// A call of the tool of this name.
    Named(String),
}

/// What generated text must be: tokens that would lead away from it are never chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Constraint {
    /// One JSON object.
    JsonObject,
    /// One JSON value that fits a schema.
    JsonSchema {
        /// The schema.
        #[schema(value_type = Object)]
        schema: Value,
    },
    /// A text that a regular expression matches as a whole.
    Regex {
        /// The expression.
        pattern: String,
    },
    /// A text of a grammar in Lark's notation.
    Lark {
        /// The grammar.
        grammar: String,
    },
}

/// Body of POST /v1/execute. Exactly one of `prompt`, `prompt_tokens`, `instruction` and `messages` is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecuteRequest {
    /// The name by which POST /v1/cancel finds this execution; chosen by the worker if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Text to continue, special tokens understood, no template applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The same as tokens of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<Vec<u32>>,
    /// What stands after the gap that is to be filled, of which `prompt` or `prompt_tokens` is what stands before; in neither
    /// are special tokens understood. Only models with infill tokens fill gaps. Empty is the same as absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// What a user says: one user turn where the model has a chat template, text to continue where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// A conversation to answer, formatted by the model's own chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Tokens to generate at most; without it, as many as the context holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Whether an answer that the context has no room for ends where the context does, instead of being refused.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut_to_context: bool,
    /// 0 (greedy) to 2; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Nucleus: the smallest set of tokens that holds this probability, at least one of them; 0 to 1, 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Only this many of the likeliest tokens; 0 or absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Only tokens at least this times as probable as the likeliest one; 0 (off, the default) to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Locally typical sampling: the tokens nearest to the expected surprise that hold this probability; 0 to 1, 1 (off) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typical_p: Option<f32>,
    /// Taken off the logit of every token that the answer holds already; -2 to 2, 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// Taken off the logit of a token for each time that the answer holds it already; -2 to 2, 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// Divides the positive and multiplies the negative logits of tokens in prompt and answer; above 0 to 10, 1 (off) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Added to the logits of these tokens; -100 to 100 each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<u32, f32>,
    /// The same seed, request, model and device give the same tokens. Choice k of several draws by a seed made of this and k.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Generation ends before any of these, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Answers to generate from the one prompt; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Tokens before which neither an end of turn nor a stop string ends the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<u32>,
    /// Whether generation goes on past an end of turn, to `max_tokens`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignore_eos: bool,
    /// Tell each token's log probability, and those of this many of the likeliest; 0 to 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u32>,
    /// Tell the prompt's text first, with its tokens' log probabilities if `logprobs` is given.
    #[serde(default, skip_serializing_if = "is_false")]
    pub echo: bool,
    /// What the answer must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Constraint>,
    /// Tools that the model may call; with `messages` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Which of them it must or must not call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Whether one answer may call several tools; true if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Further names that the chat template sees, such as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_options: Option<serde_json::Map<String, Value>>,
    /// Nobody waits for the answer in person: beside requests that somebody waits for, the prompt goes in in small parts, so that
    /// those hardly notice.
    #[serde(default, skip_serializing_if = "is_false")]
    pub patient: bool,
    /// Answer as server-sent events (the default) or as one body.
    #[serde(default = "yes")]
    pub stream: bool,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Answer of POST /v1/execute with `"stream": false`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecuteResponse {
    /// The answers, as many as `n` asked for.
    pub choices: Vec<ExecuteChoice>,
    /// The prompt as the model read it, if `echo` asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<crate::events::Prompt>,
    /// What the execution consumed.
    pub usage: TokenUsage,
    /// Where the time went.
    pub timings: Timings,
    /// The seed in force.
    pub seed: u64,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecuteChoice {
    /// The generated text.
    pub text: String,
    /// What the model thought first, where its template marks that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// The calls it made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Its tokens' log probabilities, if they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
    /// Why generation ended.
    pub finish_reason: FinishReason,
    /// The stop string that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_sequence: Option<String>,
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
    /// What the model is for; absent until it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ModelKind>,
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
    /// How the memory for keys and values is used; absent until the model is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<KvHealth>,
    /// Milliseconds since any slot was last taken or freed.
    pub idle_ms: u64,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
}

/// How a worker's memory for keys and values is used. The counts of tokens grow from the process's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KvHealth {
    /// Tokens that one block holds.
    pub block_tokens: u32,
    /// Blocks that the memory budget allows.
    pub blocks_total: u64,
    /// Blocks that running requests hold.
    pub blocks_used: u64,
    /// Blocks of finished requests that are kept for prompts which begin alike.
    pub blocks_cached: u64,
    /// Tokens of all prompts so far, those that were read again after a lack of memory included.
    pub prompt_tokens: u64,
    /// How many of them were found computed.
    pub cached_tokens: u64,
    /// Times that a request gave up its memory to an older one.
    pub preemptions: u64,
}
