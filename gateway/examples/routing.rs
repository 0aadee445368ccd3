//! What a routing script costs a request, with workers that are made up: nothing is computed, and nobody is asked over a
//! network.
//!
//! `cargo run --release --package queen-rbee --example routing -- SCRIPT... [--candidates N,N] [--rounds N]` prints one JSON
//! object.

#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use futures::future::BoxFuture;
use gateway::hives::{Fleet, NodeName};
use gateway::routing::{Asking, Router, RoutingSettings};
use gateway::scheduler::{Bound, Bounds, Demand, Effects, Placement, Scheduler, StartPolicy};
use protocol::hive::{HiveEvent, HiveSnapshot, SpawnRequest, WorkerInfo};
use protocol::routing::RoutingTask;
use protocol::task::Priority;
use protocol::worker::{Backend, LoadProgress, LoadStage, WorkerState};
use protocol::{ApiError, ErrorCode, WorkerId};
use serde_json::{Map, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const MODEL: &str = "llama-7b";
/// Workers of each machine.
const ON_EACH: usize = 10;

/// Measures routing scripts.
#[derive(Debug, Parser)]
struct Args {
    /// The scripts
    #[arg(required = true)]
    scripts: Vec<PathBuf>,
    /// Workers to choose from
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 10_000])]
    candidates: Vec<usize>,
    /// Requests of each measurement
    #[arg(long, default_value_t = 2000)]
    rounds: usize,
}

/// Workers are there; none is started or ended.
struct Nothing;

impl Effects for Nothing {
    fn start_worker(&self, _: NodeName, _: SpawnRequest) -> BoxFuture<'static, Result<WorkerInfo, ApiError>> {
        Box::pin(async { Err(ApiError::new(ErrorCode::Internal, "no worker is started here")) })
    }

    fn end_idle_worker(&self, _: NodeName, _: WorkerId) -> BoxFuture<'static, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut figures = Map::new();
    for script in &args.scripts {
        let name = script.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut costs = Map::new();
        for candidates in &args.candidates {
            costs.insert(candidates.to_string(), measured(script, *candidates, args.rounds)?);
        }
        figures.insert(name, costs.into());
    }
    println!("{:#}", serde_json::Value::from(figures));
    Ok(())
}

/// How long it takes until a request's way is known: what there is to choose from is gathered, the script runs, and the
/// decision is recorded. One worker in a hundred rounds changes, as hives report.
fn measured(script: &std::path::Path, candidates: usize, rounds: usize) -> anyhow::Result<serde_json::Value> {
    let settings = RoutingSettings { file: Some(script.to_owned()), ..RoutingSettings::default() };
    let router = Router::load(settings)?;
    let (reports, fleet) = watch::channel(made_up(candidates));
    let all = Bound { requests: 1000, bytes: usize::MAX / 2 };
    let policy = StartPolicy { backend: Backend::Cpu, gpu: None, bounds: Bounds { all }, pinned: Vec::new() };
    let scheduler = Scheduler::start(fleet, Arc::new(Nothing), policy, CancellationToken::new());
    let mut took = Vec::with_capacity(rounds);
    for round in 0..rounds {
        if round % 100 == 0 {
            let changed = worker(round / 100 % candidates);
            reports.send_modify(|fleet| {
                fleet.change(&node(round / 100 % candidates), |node| {
                    node.apply(HiveEvent::Worker(changed.into()));
                });
            });
        }
        let (demand, task) = request(round);
        let began = Instant::now();
        let decided = router.decide(&scheduler, &demand, task, Asking::All)?;
        took.push(began.elapsed());
        anyhow::ensure!(decided.placement.is_some(), "the script chose nobody");
    }
    let failed = router.view().counts.failed;
    anyhow::ensure!(failed == 0, "the script failed {failed} times");
    Ok(spread(took))
}

fn request(number: usize) -> (Demand, RoutingTask) {
    let demand = Demand {
        model: MODEL.to_owned(),
        priority: Priority::Interactive,
        key: "key".into(),
        placement: Placement::default(),
        deadline: None,
        prompt_tokens: 100,
        answer_tokens_max: Some(100),
        bytes: 400,
        beginnings: Arc::from([number as u64]),
        avoid: None,
        arrival: None,
    };
    let task = RoutingTask { id: number.to_string(), model: MODEL.to_owned(), ..RoutingTask::default() };
    (demand, task)
}

fn node(worker: usize) -> NodeName {
    NodeName::from(&*format!("node-{}", worker / ON_EACH))
}

/// Every other one computes on a GPU.
fn worker(number: usize) -> WorkerInfo {
    let is_gpu = number.is_multiple_of(2);
    WorkerInfo {
        id: format!("worker-{number}").into(),
        boot_id: format!("boot-{number}").into(),
        url: "http://127.0.0.1:1".to_owned(),
        pid: None,
        model_ref: MODEL.to_owned(),
        backend: if is_gpu { Backend::Cuda } else { Backend::Cpu },
        device: is_gpu.then_some(0),
        state: WorkerState::Idle,
        slots_total: 4,
        slots_available: 4,
        context_length: 4096,
        loading: LoadProgress { stage: LoadStage::Ready, progress: 1.0, bytes_loaded: 1, bytes_total: 1 },
        restarts: 0,
        error: None,
    }
}

fn made_up(workers: usize) -> Fleet {
    let mut fleet = Fleet::default();
    for first in (0..workers).step_by(ON_EACH) {
        let snapshot = HiveSnapshot {
            boot_id: format!("hive-{first}").into(),
            workers: (first..workers.min(first + ON_EACH)).map(worker).collect(),
            models: Vec::new(),
            backends: vec![Backend::Cpu],
        };
        fleet.change(&node(first), |node| node.apply(HiveEvent::Snapshot(snapshot)));
    }
    fleet
}

/// Microseconds.
fn spread(mut took: Vec<Duration>) -> serde_json::Value {
    took.sort_unstable();
    let at = |part: f64| {
        let place = (took.len() as f64 * part) as usize;
        took.get(place.min(took.len().saturating_sub(1))).map_or(0.0, |took| took.as_nanos() as f64 / 1000.0)
    };
    json!({"p50_us": at(0.5), "p95_us": at(0.95), "p99_us": at(0.99), "max_us": at(1.0)})
}
