//! `models list` and `models pull`.

use std::process::ExitCode;

use client::gateway::GatewayClient;
use indicatif::{HumanBytes, HumanDuration};
use protocol::hive::{DownloadEvent, ModelEntry};
use protocol::openai::models::{Model, ModelState};

use crate::config::Settings;
use crate::failure::Failure;
use crate::output::{DownloadView, Output, table};

pub(crate) async fn list(settings: &Settings, output: Output) -> Result<ExitCode, Failure> {
    let models = super::connect(settings).await.models().await?;
    output.answer(&models, || table(["NAME", "STATE", "CONTEXT"], models.data.iter().map(row)))?;
    Ok(ExitCode::SUCCESS)
}

fn row(model: &Model) -> [String; 3] {
    let state = match model.state {
        ModelState::Running => "running",
        ModelState::Loading => "loading",
        ModelState::Downloaded => "downloaded",
        ModelState::Available => "available",
    };
    let context = model.context_length.map_or_else(String::new, |tokens| format!("{tokens} tokens"));
    [model.id.clone(), state.to_owned(), context]
}

pub(crate) async fn pull(settings: &Settings, output: Output, model: &str) -> Result<ExitCode, Failure> {
    let client = super::connect(settings).await;
    let entry = fetch(&client, output, model).await?;
    output.answer(&entry, || format!("{} is here, {}", entry.reference, HumanBytes(entry.size_bytes)))?;
    Ok(ExitCode::SUCCESS)
}

/// Fetches a model and shows how it goes.
pub(crate) async fn fetch(
    client: &GatewayClient,
    output: Output,
    model: &str,
) -> Result<ModelEntry, Failure> {
    let mut events = client.pull(model).await?;
    let mut view = DownloadView::new();
    while let Some(event) = events.next().await? {
        match event {
            DownloadEvent::Progress(progress) => view.progress(output, &progress),
            DownloadEvent::Done(entry) => {
                view.finish();
                output.say(&format!("{} fetched in {}", entry.reference, HumanDuration(view.elapsed())));
                return Ok(entry);
            }
            DownloadEvent::Error(envelope) => return Err(envelope.error.into()),
        }
    }
    Err(Failure::queen(format!("the download of {model} broke off without a word")))
}
