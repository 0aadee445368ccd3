//! `rbee-hive worker`: orders to the daemon that runs.

use std::path::Path;

use clap::Subcommand;
use client::hive::HiveClient;
use daemon::config::CommonArgs;
use protocol::hive::{SpawnRequest, WorkerInfo};
use protocol::worker::Backend;

use super::access::{daemon, told};
use super::{Output, say, say_json, table};
use crate::config::HiveArgs;

/// What can be done with workers.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a worker; its model is fetched first if it is not here
    Spawn {
        /// cpu, cuda or metal; never another one instead
        backend: Backend,
        /// A model of the catalog, or a GGUF file: file:/path or a path ending in .gguf
        #[arg(long)]
        model: String,
        /// Number of the GPU
        #[arg(long, value_name = "N")]
        gpu: Option<u32>,
        /// Port of the worker [default: the next free one from 8001]
        #[arg(long)]
        port: Option<u16>,
        /// Sequences to run at once [default: the hive's setting]
        #[arg(long, value_name = "N")]
        slots: Option<u32>,
        #[command(flatten)]
        output: Output,
    },
    /// List the workers
    List {
        #[command(flatten)]
        output: Output,
    },
    /// End a worker
    Kill {
        /// Its process id, or its worker id
        #[arg(value_name = "PID")]
        which: String,
    },
}

pub(super) async fn run(common: &CommonArgs, hive: &HiveArgs, command: Command) -> anyhow::Result<()> {
    let hive = daemon(common, hive)?;
    match command {
        Command::Spawn { backend, model, gpu, port, slots, output } => {
            let request = SpawnRequest { model: model_reference(&model)?, backend, gpu, slots, port };
            let worker = hive.spawn_worker(&request).await.map_err(told)?;
            if output.json {
                return say_json(&worker);
            }
            say(&format!("worker {} is starting at {}", worker.id, worker.url))?;
            Ok(())
        }
        Command::List { output } => show(&hive.workers().await.map_err(told)?.workers, output),
        Command::Kill { which } => kill(&hive, &which).await,
    }
}

/// A path to a GGUF file on the command line means the file; a catalog's names do not end so.
fn model_reference(model: &str) -> anyhow::Result<String> {
    let is_path = Path::new(model).extension().is_some_and(|extension| extension == "gguf")
        && !model.starts_with("file:");
    Ok(if is_path { format!("file:{}", std::path::absolute(model)?.display()) } else { model.to_owned() })
}

async fn kill(hive: &HiveClient, which: &str) -> anyhow::Result<()> {
    let workers = hive.workers().await.map_err(told)?.workers;
    let is_meant = |worker: &&WorkerInfo| {
        worker.id.as_str() == which || worker.pid.is_some_and(|pid| which.parse() == Ok(pid))
    };
    let worker = workers.iter().find(is_meant).ok_or_else(|| {
        anyhow::anyhow!(
            "the hive has no worker with process id or worker id '{which}'; `rbee-hive worker list` shows all"
        )
    })?;
    hive.shutdown_worker(&worker.id).await.map_err(told)?;
    say(&format!("worker {} is stopping", worker.id))?;
    Ok(())
}

fn show(workers: &[WorkerInfo], output: Output) -> anyhow::Result<()> {
    if output.json {
        return say_json(&workers);
    }
    let mut table = table(&["WORKER", "PID", "MODEL", "BACKEND", "STATE", "SLOTS", "URL", "ERROR"]);
    for worker in workers {
        table.add_row([
            worker.id.to_string(),
            worker.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            worker.model_ref.clone(),
            worker
                .device
                .map_or_else(|| worker.backend.to_string(), |gpu| format!("{}:{gpu}", worker.backend)),
            worker.state.as_str().to_owned(),
            format!("{}/{}", worker.slots_available, worker.slots_total),
            worker.url.clone(),
            worker.error.as_ref().map(ToString::to_string).unwrap_or_default(),
        ]);
    }
    say(&table.to_string())?;
    Ok(())
}
