//! How many durable tasks a second a store takes: each is enqueued, acknowledged when it is on disk, and completed.
//!
//! `cargo run --release --package queen-rbee --example store -- [--database URL] [--tasks N] [--callers N] [--request-bytes N]`

#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use gateway::store::{Bounds, Enqueued, JobKind, JobState, Location, NewJob, Outcome, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Measures durable tasks a second.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// An empty PostgreSQL database; without one a file in the working directory is measured, and removed
    #[arg(long)]
    database: Option<String>,
    /// Tasks of each run
    #[arg(long, default_value_t = 100_000)]
    tasks: u64,
    /// Callers at once, each of which waits for its own task
    #[arg(long, default_value_t = 512)]
    callers: u64,
    /// Bytes of each request, and of each result
    #[arg(long, default_value_t = 1024)]
    request_bytes: usize,
    /// Jobs that are claimed at once
    #[arg(long, default_value_t = 256)]
    claims: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir_in(".")?;
    let bounds = Bounds {
        age: Duration::from_hours(24),
        objects: 1_000_000,
        bytes: 4 << 30,
        file_bytes: 0,
        owner_file_bytes: 0,
    };
    let location = match &args.database {
        Some(url) => Location::postgres(url)?,
        None => Location::Sqlite(folder.path().join("queen.db")),
    };
    let (store, writer) = Store::open(&location, bounds).await?;
    let stop = CancellationToken::new();
    let writer = tokio::spawn(writer.run(stop.clone()));
    run("enqueue as claimed, complete", &store, &args, held).await?;
    run("enqueue, claim, complete", &store, &args, queued).await?;
    batch(&store, &args).await?;
    stop.cancel();
    writer.await?;
    Ok(())
}

/// Has every caller do its share, and tells how long that took.
async fn run<F: Future<Output = anyhow::Result<Vec<Duration>>> + Send + 'static>(
    name: &str,
    store: &Store,
    args: &Args,
    share: impl Fn(Store, Args, Arc<AtomicU64>) -> F,
) -> anyhow::Result<()> {
    let left = Arc::new(AtomicU64::new(args.tasks));
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..args.callers {
        callers.spawn(share(store.clone(), args.clone(), left.clone()));
    }
    let claimer = tokio::spawn(claim(store.clone(), args.clone()));
    let mut waits = Vec::new();
    while let Some(share) = callers.join_next().await {
        waits.extend(share??);
    }
    while store.unfinished().await? > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    claimer.abort();
    waits.sort_unstable();
    let at = |part: f64| waits.get((waits.len() as f64 * part) as usize).copied().unwrap_or_default();
    println!(
        "{name}: {:.0} tasks/s; acknowledged within {:.1} ms (median), {:.1} ms (99 %)",
        args.tasks as f64 / seconds,
        at(0.5).as_secs_f64() * 1000.0,
        at(0.99).as_secs_f64() * 1000.0,
    );
    Ok(())
}

/// Takes one off what is left to do.
fn take(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

async fn held(store: Store, args: Args, left: Arc<AtomicU64>) -> anyhow::Result<Vec<Duration>> {
    let mut waits = Vec::new();
    while take(&left) {
        let (id, wait) = enqueue(&store, &args, true).await?;
        waits.push(wait);
        anyhow::ensure!(store.complete(&id, 1, outcome(&args)).await?, "the outcome came too late");
    }
    Ok(waits)
}

async fn queued(store: Store, args: Args, left: Arc<AtomicU64>) -> anyhow::Result<Vec<Duration>> {
    let mut waits = Vec::new();
    while take(&left) {
        waits.push(enqueue(&store, &args, false).await?.1);
    }
    Ok(waits)
}

/// Claims and completes what others enqueue.
async fn claim(store: Store, args: Args) -> anyhow::Result<()> {
    let work = store.work();
    loop {
        let jobs = store.claim(args.claims).await?;
        if jobs.is_empty() {
            work.notified().await;
            continue;
        }
        let (store, args) = (store.clone(), args.clone());
        let ends = jobs.into_iter().map(move |job| {
            let (store, outcome) = (store.clone(), outcome(&args));
            async move { store.complete(&job.id, job.attempt, outcome).await }
        });
        // The next are claimed while these are ended.
        tokio::spawn(futures::future::join_all(ends));
    }
}

/// All at once, as the lines of one batch.
async fn batch(store: &Store, args: &Args) -> anyhow::Result<()> {
    let lines = (0..args.tasks as u32)
        .map(|line| NewJob { group: Some(("batch".to_owned(), line)), ..job(args, false) })
        .collect();
    let started = Instant::now();
    store.enqueue_all(lines).await?;
    let enqueued = started.elapsed().as_secs_f64();
    let started = Instant::now();
    store.cancel_group("batch", 1, outcome(args)).await?;
    println!(
        "a batch of {} lines: enqueued within {enqueued:.1} s, cancelled within {:.1} s",
        args.tasks,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn job(args: &Args, is_claimed: bool) -> NewJob {
    NewJob {
        id: uuid::Uuid::new_v4().to_string(),
        kind: JobKind::Task,
        owner: "owner".to_owned(),
        model: "model".to_owned(),
        band: 1,
        created_at_ms: 1,
        deadline_at_ms: None,
        request: "x".repeat(args.request_bytes),
        idempotency: None,
        group: None,
        is_claimed,
    }
}

async fn enqueue(store: &Store, args: &Args, is_claimed: bool) -> anyhow::Result<(String, Duration)> {
    let job = job(args, is_claimed);
    let id = job.id.clone();
    let started = Instant::now();
    let enqueued = store.enqueue(job).await.context("cannot enqueue")?;
    anyhow::ensure!(enqueued == Enqueued::New, "the job is not new");
    Ok((id, started.elapsed()))
}

fn outcome(args: &Args) -> Outcome {
    Outcome {
        state: JobState::Completed,
        result: "x".repeat(args.request_bytes),
        decision: None,
        events: String::new(),
        finished_at_ms: i64::MAX / 4,
    }
}
