//! The rbee-hive program. Everything it does is in the library.

use std::process::ExitCode;

use clap::Parser;
use hive_agent::cli;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
