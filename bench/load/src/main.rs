//! What `bench/gateway.py` measures gateways with: a worker that answers at once, and the clients that ask for answers.
//!
//! Both run on one thread and speak HTTP by hand, since whatever they use is taken from the gateway beside them.

mod answer;
mod clock;
mod hold;
mod mock;
mod order;
mod overload;
mod rate;
mod turns;
mod wire;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

/// The two ends of a measurement of a gateway.
#[derive(Debug, Parser)]
enum Command {
    /// A hive and its one worker: prints where it listens, and serves until it is killed
    Mock(mock::Args),
    /// One client that asks all targets for the same, in turn
    Turns(turns::Args),
    /// Many clients, each of which asks again as soon as it has its answer
    Rate(rate::Args),
    /// Many streams at the same time
    Hold(hold::Args),
    /// Far more requests than can be served
    Overload(overload::Args),
}

fn main() -> anyhow::Result<()> {
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Command::parse() {
        Command::Mock(args) => runtime.block_on(mock::serve(&args)),
        Command::Turns(args) => say(&runtime.block_on(turns::measure(&args))?),
        Command::Rate(args) => say(&runtime.block_on(rate::measure(&args))?),
        Command::Overload(args) => say(&runtime.block_on(overload::measure(&args))?),
        Command::Hold(args) => say(&runtime.block_on(hold::measure(&args))?),
    }
}

/// Ten thousand streams are ten thousand sockets, and a shell's limit is a thousand as a rule.
fn raise_descriptor_limit() -> rustix::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
}

/// One line for the script that reads this program.
#[expect(clippy::print_stdout, reason = "what was measured is what the caller asked for")]
fn say(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}
