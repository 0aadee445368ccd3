//! One file for each word of the command line.

pub(crate) mod daemon;
pub(crate) mod infer;
pub(crate) mod models;
pub(crate) mod route;
pub(crate) mod tasks;
pub(crate) mod up;
pub(crate) mod workers;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use client::gateway::GatewayClient;

use crate::cli::Cli;
use crate::config::Settings;
use crate::failure::Failure;
use crate::queen_process::{self, Found};

/// Prints a completion script.
pub(crate) fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rbee-keeper", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    Ok(ExitCode::SUCCESS)
}

/// The text of a file, or of standard input.
fn text(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    read.map_err(|error| Failure::usage(format!("{} cannot be read: {error}", file.display())))?;
    Ok(text)
}

/// The queen to talk to: the one named, else the one on the data directory, else one on the configured port.
async fn locate(settings: &Settings) -> Option<GatewayClient> {
    if let Some(url) = &settings.queen_url {
        return Some(queen_process::client(settings, url));
    }
    if let Found::Running(file, _) = queen_process::find(settings).await {
        return Some(queen_process::client(settings, &file.url));
    }
    queen_process::health(settings, &settings.fallback_url).await?;
    Some(queen_process::client(settings, &settings.fallback_url))
}

/// As [`locate`], for commands that make no sense without a queen: their first request tells that there is none.
async fn connect(settings: &Settings) -> GatewayClient {
    let located = locate(settings).await;
    located.unwrap_or_else(|| queen_process::client(settings, &settings.fallback_url))
}
