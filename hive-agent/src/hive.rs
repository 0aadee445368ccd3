//! Puts the hive together, runs it, and takes it apart again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use protocol::hive::HiveHealth;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::config::Config;
use crate::detect;
use crate::events::Board;
use crate::http::{self, App};
use crate::lock::DataLock;
use crate::workers::{Settings, Workers};

/// How long open connections may take to end, once all workers are gone.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// Runs a hive until it is told to stop. `on_listening` is told its address as soon as it answers.
pub async fn run(config: Config, on_listening: impl FnOnce(&str)) -> anyhow::Result<()> {
    let mut lock = DataLock::take(&config.data_dir)?;
    let stop = daemon::shutdown::watch(config.parent).context("cannot watch for signals")?;
    let (listener, address) = daemon::serve::bind(config.bind, config.port).await?;
    let url = config.local_url(address.port());
    lock.announce(&url).context("cannot write the lock file")?;

    let board = Arc::new(Board::new(Uuid::new_v4().to_string().into()));
    let detection = detect::detect(&config.workers.binary).await;
    board.set_backends(detect::usable_backends(&detection));
    let catalog = Catalog::open(config.catalog, Arc::clone(&board)).await?;
    let settings = Settings { workers: config.workers, hive_url: url };
    let workers = Workers::new(settings, catalog.clone(), Arc::clone(&board), detection);

    let close_door = CancellationToken::new();
    let app = App {
        health: HiveHealth {
            status: "ready".to_owned(),
            port: address.port(),
            boot_id: board.boot_id().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        workers: workers.clone(),
        catalog: catalog.clone(),
        board,
        closing: close_door.clone(),
    };
    let router = http::router(app, config.token);
    let mut server = tokio::spawn(daemon::serve::serve(listener, router, close_door.clone(), CLOSE_GRACE));
    on_listening(&format!("http://{address}"));

    let early_end = tokio::select! {
        () = stop.cancelled() => None,
        ended = &mut server => Some(ended),
    };
    // The door stays open while the workers end, so that who watches sees them go.
    tokio::join!(workers.stop(), catalog.stop());
    close_door.cancel();
    let ended = match early_end {
        Some(ended) => ended,
        None => server.await,
    };
    ended.context("the server broke off")?;
    drop(lock);
    tracing::info!("stopped");
    Ok(())
}
