//! The command line. Each command is a few lines over the library; results go to standard output, everything else to
//! standard error.

mod access;
mod detect;
mod model;
mod worker;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use daemon::config::CommonArgs;
use daemon::shutdown::Parent;
use protocol::ApiError;
use serde::Serialize;

use crate::config::{self, Config, DaemonArgs, HiveArgs};
use crate::hive;

/// One machine's models and workers.
#[derive(Debug, Parser)]
#[command(name = "rbee-hive", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hive in the foreground
    Daemon(DaemonArgs),
    /// Show what this machine can compute on
    Detect {
        #[command(flatten)]
        output: Output,
    },
    /// Fetch and list models
    Model {
        #[command(subcommand)]
        command: model::Command,
        #[command(flatten)]
        hive: HiveArgs,
    },
    /// Start, list and end workers of the running hive
    Worker {
        #[command(subcommand)]
        command: worker::Command,
        #[command(flatten)]
        hive: HiveArgs,
    },
    /// Print the OpenAPI document
    Openapi,
}

/// How results are shown.
#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What Ctrl+C leaves a command with.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; what was fetched completely is kept for the next attempt")]
struct Interrupted;

/// Does what the command line says.
pub fn run(cli: Cli) -> ExitCode {
    match try_run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rbee-hive: {}", describe(&error));
            if error.is::<Interrupted>() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}

fn try_run(cli: Cli) -> anyhow::Result<()> {
    let default_level = if matches!(cli.command, Command::Daemon(_)) { "info" } else { "warn" };
    daemon::logging::init(&config::log_filter(&cli.common, default_level)?)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(dispatch(cli));
    // Blocking work that is still under way is of no use to anyone; the process does not wait for it.
    runtime.shutdown_background();
    result
}

async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let common = &cli.common;
    match cli.command {
        Command::Daemon(args) => {
            let config = Config::resolve(common, &args)?;
            hive::run(config, |url| {
                let _ = say(&format!("listening on {url}"));
            })
            .await
        }
        Command::Detect { output } => {
            detect::run(&Config::resolve(common, &DaemonArgs::default())?, output).await
        }
        Command::Model { command, hive } => {
            // Ctrl+C ends a download and what it started; a second one ends at once.
            let stop = daemon::shutdown::watch(Parent::None)?;
            model::run(common, &hive, command, stop).await
        }
        Command::Worker { command, hive } => worker::run(common, &hive, command).await,
        Command::Openapi => Ok(say(&crate::http::document().to_pretty_json()?)?),
    }
}

/// An error in one line, and what to do about it in another.
fn describe(error: &anyhow::Error) -> String {
    match error.downcast_ref::<ApiError>() {
        Some(api_error) => format!("{api_error}\n  {}", api_error.suggested_action()),
        None => format!("{error:#}"),
    }
}

/// Writes a line of the result.
fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn say_json(value: &impl Serialize) -> anyhow::Result<()> {
    say(&serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// A table with these headings, for people.
fn table(headings: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(headings.iter().copied());
    table
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_has_the_guides_commands() {
        Cli::command().debug_assert();
        for line in [
            "rbee-hive detect",
            "rbee-hive model download --ref smollm2-135m-instruct",
            "rbee-hive model list --json",
            "rbee-hive worker spawn cuda --model tinyllama.gguf --gpu 0 --port 8001",
            "rbee-hive worker list",
            "rbee-hive worker kill 4711",
            "rbee-hive daemon --port 0 --exit-with-parent",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
