//! The command line, and what it comes to: flags before environment variables before the settings file before defaults.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use daemon::config::{CommonArgs, ConfigError};
use daemon::shutdown::Parent;
use protocol::worker::Backend;
use protocol::{BootId, WorkerId};
use serde::Deserialize;
use uuid::Uuid;

/// Slots unless configured otherwise.
const SLOTS: u32 = 8;
/// Slots at most.
const SLOTS_MAX: u32 = 256;
/// MiB of keys and values at most: 64 TiB, more than any machine has.
const KV_CACHE_MB_MAX: u64 = 1 << 26;
/// The share of the available memory that keys and values may take unless configured otherwise.
const KV_SHARE: u64 = 4;
/// The share of the memory for keys and values that may hold those of finished requests, unless configured otherwise.
const PREFIX_CACHE_SHARE: u64 = 4;
/// Bytes that this share comes to at most.
const PREFIX_CACHE_BYTES_DEFAULT_MAX: u64 = 1 << 30;
/// What is taken for the available memory where the system does not tell.
const AVAILABLE_BYTES_UNKNOWN: u64 = 4 << 30;

/// Loads one model and generates tokens with it.
#[derive(Debug, Parser)]
#[command(
    name = "worker-rbee",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// Something else than serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// What all daemons share.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What the program does besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure how fast the model reads a prompt and generates
    Bench(BenchArgs),
    /// List the backends that this build has, one a line
    Backends,
    /// Print the OpenAPI document
    Openapi,
}

/// Which model, and what to compute it on.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// The model's GGUF file, or the folder of an embedding or rerank model with its safetensors
    #[arg(long, value_name = "PATH", required = true)]
    pub model: Option<PathBuf>,
    /// cpu, cuda or metal; one that this build lacks or that fails ends the worker, none stands in for it
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub backend: Backend,
    /// Number of the GPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpu: u32,
    /// Tokens of context at most [default: the model's own limit]
    #[arg(long, visible_alias = "context", value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(8..))]
    pub context_limit: Option<u32>,
    /// Memory for keys and values in MiB [default: a quarter of what is available]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=KV_CACHE_MB_MAX))]
    pub kv_cache_mb: Option<u64>,
    /// How keys and values are kept: f16, or q8 in half of the memory [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub kv_type: Option<KvFormat>,
    /// What an encoder's products multiply: f32, bf16, or auto for bf16 where the processor is made for it
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub precision: Precision,
    /// Threads that compute [default: the processors this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// How to serve.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Which model, and what to compute it on.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The name that the model goes by [default: the file's name]
    #[arg(long, value_name = "NAME")]
    pub model_ref: Option<String>,
    /// Port to listen on; 0 takes a free one, which is printed
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Address to listen on; only loopback is allowed, since a worker asks no one for a token
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub bind: IpAddr,
    /// Id of this worker [default: a new one]
    #[arg(long, value_name = "ID")]
    pub worker_id: Option<WorkerId>,
    /// Id of this run [default: a new one]
    #[arg(long, value_name = "ID")]
    pub boot_id: Option<BootId>,
    /// The hive to tell that this worker listens
    #[arg(long, value_name = "URL")]
    pub hive_url: Option<String>,
    /// Sequences that run at once [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=SLOTS_MAX as i64))]
    pub slots: Option<u32>,
    /// Memory of --kv-cache-mb that finished requests' keys and values may go on taking, for prompts that begin alike;
    /// 0 keeps none [default: a quarter of --kv-cache-mb, 1024 at most]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..=KV_CACHE_MB_MAX))]
    pub prefix_cache_mb: Option<u64>,
    /// End when standard input ends, as it does when the parent is gone
    #[arg(long)]
    pub exit_with_parent: bool,
}

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Which model, and what to compute it on.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Length of the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: u32,
    /// Tokens to generate
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub new_tokens: u32,
    /// Sequences that generate together, each with a prompt of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=SLOTS_MAX as i64))]
    pub streams: u32,
    /// Print one line of JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// What an encoder's products multiply; sums are f32 in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// bf16 where the processor has products of it, else f32.
    #[default]
    Auto,
    /// Numbers as they are.
    F32,
    /// Numbers rounded to 8 significant bits.
    Bf16,
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvConfig {
    /// What a number is kept as.
    pub format: KvFormat,
    /// Bytes at most.
    pub budget_bytes: u64,
}

/// What a number of a key or a value is kept as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvFormat {
    /// 16 bits.
    #[default]
    F16,
    /// 8 bits and a scale for each 32 of them.
    Q8,
}

impl std::fmt::Display for KvFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Q8 => "q8",
        })
    }
}

/// The worker's section of the settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Section {
    slots: Option<u32>,
    prefix_cache_mb: Option<u64>,
    context_limit: Option<u32>,
    kv_cache_mb: Option<u64>,
    kv_type: Option<KvFormat>,
    threads: Option<u16>,
    log_level: Option<String>,
}

/// A model to load.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// The GGUF file, or the folder of an encoder.
    pub path: PathBuf,
    /// The device family.
    pub backend: Backend,
    /// The device's number.
    pub gpu: u32,
    /// Tokens of context at most.
    pub context_limit: Option<usize>,
    /// How keys and values are kept.
    pub kv: KvConfig,
    /// What an encoder's products multiply.
    pub precision: Precision,
    /// Threads that compute.
    pub threads: usize,
}

/// Everything that serving needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// What to load.
    pub model: ModelConfig,
    /// The name that the model goes by.
    pub model_ref: String,
    /// Address to listen on.
    pub bind: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// This worker.
    pub worker_id: WorkerId,
    /// This run of it.
    pub boot_id: BootId,
    /// Base URL of the hive to call when the port is bound.
    pub hive_url: Option<String>,
    /// Sequences that run at once.
    pub slots: u32,
    /// Bytes of keys and values that are kept for prompts to come.
    pub prefix_cache_bytes: u64,
    /// Whether standard input is the parent's lifeline.
    pub parent: Parent,
}

/// The log filter in force.
pub fn log_filter(common: &CommonArgs) -> Result<String, ConfigError> {
    let section: Section = common.section("worker")?;
    Ok(common.log_level.clone().or(section.log_level).unwrap_or_else(|| "info".to_owned()))
}

/// Puts the layers of settings together for serving.
pub fn resolve(args: ServeArgs, common: &CommonArgs) -> Result<Config, ConfigError> {
    let section: Section = common.section("worker")?;
    let slots = args.slots.or(section.slots).unwrap_or(SLOTS).clamp(1, SLOTS_MAX);
    let prefix_cache_mb = args.prefix_cache_mb.or(section.prefix_cache_mb);
    let model = model_config(args.model, &section);
    let prefix_cache_bytes = prefix_cache_mb.map_or_else(
        || (model.kv.budget_bytes / PREFIX_CACHE_SHARE).min(PREFIX_CACHE_BYTES_DEFAULT_MAX),
        |mib| mib.min(KV_CACHE_MB_MAX) << 20,
    );
    let model_ref = args.model_ref.unwrap_or_else(|| {
        model.path.file_stem().map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned())
    });
    let new_id = || Uuid::new_v4().to_string();
    Ok(Config {
        model,
        model_ref,
        bind: args.bind,
        port: args.port,
        worker_id: args.worker_id.unwrap_or_else(|| new_id().into()),
        boot_id: args.boot_id.unwrap_or_else(|| new_id().into()),
        hive_url: args.hive_url,
        slots,
        prefix_cache_bytes,
        parent: if args.exit_with_parent { Parent::HoldsStdin } else { Parent::None },
    })
}

/// Puts the layers of settings together for a model alone.
pub fn resolve_model(args: ModelArgs, common: &CommonArgs) -> Result<ModelConfig, ConfigError> {
    Ok(model_config(args, &common.section("worker")?))
}

fn model_config(args: ModelArgs, section: &Section) -> ModelConfig {
    let threads = args.threads.or(section.threads).filter(|threads| *threads > 0).map_or_else(
        // The processors that affinity and the cgroup's quota leave to this process.
        || std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        usize::from,
    );
    ModelConfig {
        path: args.model.unwrap_or_default(),
        backend: args.backend,
        gpu: args.gpu,
        context_limit: args.context_limit.or(section.context_limit).map(|limit| limit.max(8) as usize),
        kv: KvConfig {
            format: args.kv_type.or(section.kv_type).unwrap_or_default(),
            budget_bytes: args
                .kv_cache_mb
                .or(section.kv_cache_mb)
                .map_or_else(|| available_bytes() / KV_SHARE, |mib| mib.clamp(1, KV_CACHE_MB_MAX) << 20),
        },
        precision: args.precision,
        threads,
    }
}

/// Memory that the machine and the cgroup leave to this process; what the file cache holds counts as free.
fn available_bytes() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else { return AVAILABLE_BYTES_UNKNOWN };
    system.refresh_memory();
    let machine = system.available_memory();
    system
        .cgroup_limits()
        .map_or(machine, |limits| machine.min(limits.total_memory.saturating_sub(limits.rss)))
}
