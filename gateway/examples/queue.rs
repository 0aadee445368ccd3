//! How long the queue takes to admit a request, and to give a slot that has become free to who waits for it, with a
//! large fleet that is made up: nothing is computed, and nobody is asked over a network.
//!
//! `cargo run --release --package queen-rbee --example queue -- [--hives N] [--workers N] [--jobs N] [--rounds N]`
//! prints one JSON object.

#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Parser;
use futures::future::BoxFuture;
use gateway::hives::{Fleet, NodeName};
use gateway::scheduler::{
    Bound, Bounds, Demand, Effects, Lease, Placement, Scheduler, StartPolicy, Ticket, TicketEvent,
};
use protocol::hive::{HiveEvent, HiveSnapshot, SpawnRequest, WorkerInfo};
use protocol::task::Priority;
use protocol::worker::{Backend, LoadProgress, LoadStage, WorkerState};
use protocol::{ApiError, ErrorCode, WorkerId};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Slots of each worker.
const SLOTS: u32 = 2;
/// Requests that one key asks with at once, those of another one beside it, and how long each has its slot.
const FLOOD: usize = 1000;
const SINGLES: u32 = 20;
const SERVICE: Duration = Duration::from_millis(20);
/// Callers that take turns.
const KEYS: usize = 100;
/// A hive reports a change of one of its workers so often, one hive after the other.
const REPORT_EVERY: Duration = Duration::from_millis(10);

/// Measures the queue.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Machines
    #[arg(long, default_value_t = 1000)]
    hives: usize,
    /// Workers of each machine, each of another model
    #[arg(long, default_value_t = 100)]
    workers: usize,
    /// Requests that have a slot or wait for one, at any time
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    /// Requests of each measurement
    #[arg(long, default_value_t = 50_000)]
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
    let (reports, fleet) = watch::channel(made_up(&args));
    let all = Bound { requests: args.jobs + args.rounds, bytes: usize::MAX / 2 };
    let policy = StartPolicy { backend: Backend::Cpu, gpu: None, bounds: Bounds { all }, pinned: Vec::new() };
    let scheduler = Scheduler::start(fleet, Arc::new(Nothing), policy, CancellationToken::new());
    let reporting = tokio::spawn(report(reports, args.clone()));
    let free = with_free_slots(&scheduler, &args).await?;
    let (waiting, granting) = with_none(&scheduler, &args).await?;
    reporting.abort();
    let fairness = beside_a_flood().await?;
    let figures = json!({
        "hives": args.hives, "workers": args.hives * args.workers, "jobs": args.jobs, "rounds": args.rounds,
        "admission_with_free_slots_us": free, "admission_behind_others_us": waiting, "scheduling_us": granting,
        "waits_beside_a_flood_in_service_times": fairness,
    });
    println!("{figures:#}");
    Ok(())
}

/// Requests for many models, while as many as wanted run: how long asking takes, which here is having.
async fn with_free_slots(scheduler: &Scheduler, args: &Args) -> anyhow::Result<serde_json::Value> {
    let mut running = VecDeque::new();
    let mut took = Vec::new();
    for number in 0..args.jobs + args.rounds {
        let demand = demand(number % args.workers, number);
        let asked = Instant::now();
        let mut ticket = scheduler.acquire(demand)?;
        let taken = asked.elapsed();
        running.push_back(granted(&mut ticket).await?);
        if running.len() > args.jobs {
            took.push(taken);
            running.pop_front();
        }
    }
    Ok(spread(took))
}

/// Requests for one model whose slots are all taken, while as many as wanted wait: how long asking takes, and how long
/// it takes from the end of one to the begin of the next.
async fn with_none(
    scheduler: &Scheduler,
    args: &Args,
) -> anyhow::Result<(serde_json::Value, serde_json::Value)> {
    let slots = args.hives * SLOTS as usize;
    let (granted_sender, mut grants) = tokio::sync::mpsc::channel(args.jobs + args.rounds);
    let ask = |number: usize| -> anyhow::Result<Duration> {
        let demand = demand(0, number);
        let asked = Instant::now();
        let mut ticket = scheduler.acquire(demand)?;
        let took = asked.elapsed();
        let sender = granted_sender.clone();
        tokio::spawn(async move {
            if let Ok(lease) = granted(&mut ticket).await {
                let _ = sender.send((Instant::now(), lease)).await;
            }
        });
        Ok(took)
    };
    let mut running = VecDeque::new();
    for number in 0..args.jobs.max(slots + 1) {
        ask(number)?;
    }
    for _ in 0..slots {
        let Some((_, lease)) = grants.recv().await else { bail!("nobody was served") };
        running.push_back(lease);
    }
    let (mut asking, mut granting) = (Vec::new(), Vec::new());
    for number in 0..args.rounds {
        asking.push(ask(number)?);
        let ended = Instant::now();
        drop(running.pop_front());
        let Some((begun, lease)) = grants.recv().await else { bail!("nobody was served") };
        granting.push(begun.saturating_duration_since(ended));
        running.push_back(lease);
    }
    Ok((spread(asking), spread(granting)))
}

/// One key asks for much at once, and another one now and then for one thing: how many service times that one waits.
async fn beside_a_flood() -> anyhow::Result<serde_json::Value> {
    let args = Args { hives: 1, workers: 1, jobs: FLOOD, rounds: 0 };
    let (_reports, fleet) = watch::channel(made_up(&args));
    let all = Bound { requests: 2 * FLOOD, bytes: usize::MAX / 2 };
    let policy = StartPolicy { backend: Backend::Cpu, gpu: None, bounds: Bounds { all }, pinned: Vec::new() };
    let scheduler = Scheduler::start(fleet, Arc::new(Nothing), policy, CancellationToken::new());
    for number in 0..FLOOD {
        let mut ticket = scheduler.acquire(Demand { key: "flood".into(), ..demand(0, number) })?;
        tokio::spawn(async move {
            if let Ok(lease) = granted(&mut ticket).await {
                tokio::time::sleep(SERVICE).await;
                drop(lease);
            }
        });
    }
    let mut waits = Vec::new();
    for number in 0..SINGLES {
        // Not in step with the slots.
        tokio::time::sleep(SERVICE * 3 + SERVICE / 7 * (number % 7)).await;
        let asked = Instant::now();
        let mut ticket = scheduler.acquire(Demand { key: "single".into(), ..demand(0, number as usize) })?;
        let lease = granted(&mut ticket).await?;
        waits.push(asked.elapsed().as_secs_f64() / SERVICE.as_secs_f64());
        tokio::time::sleep(SERVICE).await;
        drop(lease);
    }
    waits.sort_unstable_by(f64::total_cmp);
    Ok(json!({
        "flood": FLOOD, "slots": SLOTS, "service_ms": SERVICE.as_millis() as u64, "asked": SINGLES,
        "p50": waits[waits.len() / 2], "max": waits[waits.len() - 1],
    }))
}

async fn granted(ticket: &mut Ticket) -> anyhow::Result<Lease> {
    loop {
        match ticket.next().await {
            TicketEvent::Granted(lease) => return Ok(lease),
            TicketEvent::Refused(error) => bail!("refused: {error}"),
            TicketEvent::Waiting(_) => {}
        }
    }
}

fn demand(model: usize, number: usize) -> Demand {
    Demand {
        model: format!("model-{model}"),
        priority: Priority::Interactive,
        key: format!("key-{}", number % KEYS).into(),
        placement: Placement::default(),
        deadline: None,
        prompt_tokens: 100,
        answer_tokens_max: Some(100),
        bytes: 400,
        // A conversation in every ten goes on.
        beginnings: Arc::from([number as u64 / 10, number as u64 | 1 << 63]),
        avoid: None,
        arrival: None,
    }
}

fn worker(hive: usize, model: usize, state: WorkerState) -> WorkerInfo {
    WorkerInfo {
        id: format!("worker-{hive}-{model}").into(),
        boot_id: format!("boot-{hive}-{model}").into(),
        url: "http://127.0.0.1:1".to_owned(),
        pid: None,
        model_ref: format!("model-{model}"),
        backend: Backend::Cpu,
        device: None,
        state,
        slots_total: SLOTS,
        slots_available: SLOTS,
        context_length: 4096,
        loading: LoadProgress { stage: LoadStage::Ready, progress: 1.0, bytes_loaded: 1, bytes_total: 1 },
        restarts: 0,
        error: None,
    }
}

fn made_up(args: &Args) -> Fleet {
    let mut fleet = Fleet::default();
    for hive in 0..args.hives {
        let workers = (0..args.workers).map(|model| worker(hive, model, WorkerState::Idle)).collect();
        let snapshot = HiveSnapshot {
            boot_id: format!("hive-{hive}").into(),
            workers,
            models: Vec::new(),
            backends: vec![Backend::Cpu],
        };
        fleet.change(&NodeName::from(&*format!("hive-{hive}")), |node| {
            node.apply(HiveEvent::Snapshot(snapshot));
        });
    }
    fleet
}

/// Hives report changes for as long as this runs.
async fn report(reports: watch::Sender<Fleet>, args: Args) {
    let mut tick = tokio::time::interval(REPORT_EVERY);
    for number in 0_usize.. {
        tick.tick().await;
        let (hive, model) = (number % args.hives, number % args.workers);
        let state =
            if (number / args.hives).is_multiple_of(2) { WorkerState::Busy } else { WorkerState::Idle };
        reports.send_modify(|fleet| {
            fleet.change(&NodeName::from(&*format!("hive-{hive}")), |node| {
                node.apply(HiveEvent::Worker(worker(hive, model, state).into()));
            });
        });
    }
}

/// Microseconds.
fn spread(mut took: Vec<Duration>) -> serde_json::Value {
    took.sort_unstable();
    let at = |part: f64| {
        let place = (took.len() as f64 * part) as usize;
        took.get(place.min(took.len().saturating_sub(1))).map_or(0.0, |took| took.as_nanos() as f64 / 1000.0)
    };
    json!({"p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0)})
}
