//! rbee-keeper: the command line by which a person starts rbee, asks it and looks after it.
//!
//! Everything it knows of a running system it learns from the queen over HTTP; it decides nothing.

mod cli;
mod commands;
mod config;
mod failure;
mod interrupt;
mod output;
mod queen_process;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, DaemonCommand, ModelsCommand, WorkersCommand};
use crate::config::Settings;
use crate::failure::Failure;
use crate::output::Output;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.settings.json);
    match run(cli, output).await {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

async fn run(cli: Cli, output: Output) -> Result<ExitCode, Failure> {
    // Read only by the commands that need them: a completion script can be printed whatever the settings file holds.
    let settings = || Settings::load(&cli.settings);
    match cli.command {
        Command::Up(arguments) => commands::up::run(&settings()?, output, &arguments).await,
        Command::Down | Command::Daemon(DaemonCommand::Stop) => {
            commands::daemon::stop(&settings()?, output).await
        }
        Command::Daemon(DaemonCommand::Start) => commands::daemon::start(&settings()?, output).await,
        Command::Daemon(DaemonCommand::Status) => commands::daemon::status(&settings()?, output).await,
        Command::Infer(arguments) => commands::infer::run(&settings()?, output, arguments).await,
        Command::Models(ModelsCommand::List) => commands::models::list(&settings()?, output).await,
        Command::Models(ModelsCommand::Pull { model }) => {
            commands::models::pull(&settings()?, output, &model).await
        }
        Command::Workers(WorkersCommand::List) => commands::workers::list(&settings()?, output).await,
        Command::Tasks(command) => commands::tasks::run(&settings()?, output, command).await,
        Command::Route(command) => commands::route::run(&settings()?, output, command).await,
        Command::Queue => commands::tasks::queue(&settings()?, output).await,
        Command::Completions { shell } => commands::completions(shell),
    }
}
