//! queen-rbee's command line.

use std::process::ExitCode;

use clap::Parser;
use gateway::config::{Cli, Command};

/// A request is many small pieces of memory, which this has at about half the system's price.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Cli { command, common } = Cli::parse();
    let outcome = match command {
        Command::Daemon(args) => gateway::config::Settings::load(&common, *args).and_then(gateway::run),
        Command::Openapi => print_openapi(),
        Command::Db(command) => gateway::database::run(command, &common),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stdout, reason = "the document is what the user asked for")]
fn print_openapi() -> anyhow::Result<()> {
    println!("{}", gateway::http::openapi().to_pretty_json()?);
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the last word of a command goes to the terminal")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
