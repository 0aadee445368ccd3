//! The queen from start to end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batches::Batches;
use crate::config::{LocalHive, Settings};
use crate::hives::{Hives, Link, LocalHiveProcess, NodeName};
use crate::http::{self, DoorSettings, Drain, Queen};
use crate::inference::{AnswerCache, Inference};
use crate::routing::Router;
use crate::runtime_file::{self, RuntimeFile};
use crate::scheduler::{Bound, Bounds, Scheduler, StartPolicy};
use crate::store::Store;
use crate::tasks::Jobs;

/// The name of the queen's own machine.
const LOCAL_NODE: &str = "local";
/// A connection that is still open after its request was cut gets this long.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);

/// Serves until told to stop.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    daemon::logging::init(&settings.log_level).context("the log level is not valid")?;
    daemon::descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let stop = daemon::shutdown::watch(settings.parent)?;
    let router = Router::load(settings.routing.clone())?;
    let lock = runtime_file::lock(&settings.data_dir)?;
    let store_stop = CancellationToken::new();
    let (store, writer) = Store::open(&settings.database, settings.kept).await?;
    let writer = tokio::spawn(writer.run(store_stop.clone()));
    let (listener, address) = daemon::serve::bind(settings.bind, settings.port).await?;
    let hives_stop = CancellationToken::new();
    let hive_tasks = TaskTracker::new();
    let hives = Hives::default();
    connect_local_hive(&settings, &hives, &hive_tasks, &hives_stop)?;
    let cut = CancellationToken::new();
    let policy = StartPolicy {
        backend: settings.backend,
        gpu: settings.gpu,
        bounds: Bounds { all: Bound { requests: settings.queue_limit, bytes: settings.queue_bytes } },
        pinned: settings.pinned_models.clone(),
    };
    let scheduler = Scheduler::start(hives.watch(), Arc::new(hives.clone()), policy, hives_stop.clone());
    let cold_start_wait = settings.cold_start_wait;
    tokio::spawn(router.clone().watch(hives_stop.clone()));
    let inference = Inference {
        hives,
        scheduler,
        router,
        cut: cut.clone(),
        names: Arc::new(settings.models.clone()),
        cache: AnswerCache::new(settings.cache_bytes),
        cold_start_wait,
        hedge_after: settings.hedge_after,
    };
    let jobs = Jobs::new(store.clone(), inference.clone(), stop.clone());
    tokio::spawn(jobs.clone().run());
    let batches = Batches::new(store.clone(), inference.clone(), stop.clone());
    tokio::spawn(batches.clone().run());
    let queen = Arc::new(Queen {
        inference,
        jobs: jobs.clone(),
        batches,
        store,
        started: Instant::now(),
        stop: stop.clone(),
    });
    let drain = Drain::new(stop.clone());
    let door = DoorSettings {
        token: settings.token.clone(),
        body_within: settings.body_within,
        cors_origins: settings.cors_origins.clone(),
    };
    let service = http::service(queen, door, drain.clone());
    let url = format!("http://{address}");
    let runtime_file = RuntimeFile::write(lock, &settings.data_dir, &local_url(address))?;
    announce(&url);
    tokio::spawn(cut_after(stop, settings.drain_grace, cut.clone()));
    // The door stays open while anything runs, so that who comes then is told to come again, and not left alone.
    let close_door = CancellationToken::new();
    let server = daemon::serve::serve(listener, service, close_door.clone(), CLOSE_WITHIN);
    let drained = async {
        // A reader that does not read never hears that its answer was cut.
        let over = async {
            cut.cancelled().await;
            tokio::time::sleep(CLOSE_WITHIN).await;
        };
        tokio::select! { () = drain.done() => {}, () = over => {} }
        close_door.cancel();
    };
    tokio::join!(server, drained);
    // Jobs without a reader hold no connection. Those that run have the same grace; what has not ended goes back to the queue.
    jobs.drained().await;
    // Nothing is written any more but what waits to be.
    store_stop.cancel();
    let _ = writer.await;
    // Everything that the queen started ends before she does.
    hives_stop.cancel();
    hive_tasks.close();
    hive_tasks.wait().await;
    drop(runtime_file);
    tracing::info!("stopped");
    Ok(())
}

fn connect_local_hive(
    settings: &Settings,
    hives: &Hives,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let url = match settings.local_hive {
        LocalHive::Off => return Ok(()),
        LocalHive::Attach => {
            watch::Sender::new(Some(format!("http://127.0.0.1:{}", settings.hive_port))).subscribe()
        }
        LocalHive::Spawn => {
            let process = LocalHiveProcess::new(settings)?;
            let url = process.url();
            tasks.spawn(process.run(stop.clone()));
            url
        }
    };
    let link = Link {
        node: NodeName::from(LOCAL_NODE),
        region: settings.region.as_deref().map(Arc::from),
        url,
        token: settings.hive_token.clone(),
    };
    tasks.spawn(link.follow(hives.clone(), stop.clone()));
    Ok(())
}

/// Where this machine's own clients reach the queen: an address that stands for all is none to connect to.
fn local_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// Ends running requests when the grace is over.
async fn cut_after(stop: CancellationToken, grace: Duration, cut: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(grace).await;
    cut.cancel();
}

#[expect(
    clippy::print_stdout,
    reason = "whoever started the queen reads the address from her standard output"
)]
fn announce(url: &str) {
    tracing::info!(url, "listening");
    println!("listening on {url}");
}
