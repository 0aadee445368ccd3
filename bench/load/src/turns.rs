//! One client that asks all targets for the same in turn: what a target adds to the time of the first.

use std::net::SocketAddr;

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::answer::Client;
use crate::clock::{Durations, Percentiles, now_us};
use crate::order::Order;

/// Rounds that are not counted, in which connections open and buffers grow.
const WARM_UP: usize = 200;

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Whom to ask; the others are compared with the first
    #[arg(long = "target", required = true)]
    targets: Vec<SocketAddr>,
    /// Requests to each
    #[arg(long, default_value_t = 5000)]
    requests: usize,
    /// Ask for a stream, and take the time to its first token
    #[arg(long)]
    stream: bool,
}

#[derive(Debug, Serialize)]
pub struct Report {
    /// Microseconds from the request to its answer, by target.
    time_us: Vec<Percentiles>,
    /// The same less the first target's time of the same round.
    added_us: Vec<Percentiles>,
}

pub async fn measure(args: &Args) -> anyhow::Result<Report> {
    let order = Order { tokens: 1, pace_us: 0, stream: args.stream, is_urgent: false };
    let mut clients = Vec::new();
    for target in &args.targets {
        clients.push((Client::open(*target, order).await?, Durations::default()));
    }
    for round in 0..WARM_UP + args.requests {
        for (client, times) in &mut clients {
            let (started, mut first_token) = (now_us(), None);
            client.ask(|_| first_token = first_token.or_else(|| Some(now_us()))).await?;
            if round >= WARM_UP {
                times.add((first_token.unwrap_or_else(now_us) - started).cast_signed());
            }
        }
    }
    let times: Vec<Durations> = clients.into_iter().map(|(_, times)| times).collect();
    Ok(Report {
        added_us: times.iter().map(|own| own.minus(&times[0]).percentiles()).collect(),
        time_us: times.into_iter().map(Durations::percentiles).collect(),
    })
}
