//! Many clients, each of which asks again as soon as it has its answer: how many answers a target gives in a time.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::answer::Client;
use crate::clock::{Durations, Percentiles, now_us};
use crate::order::Order;

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Whom to ask
    #[arg(long)]
    target: SocketAddr,
    /// Clients at the same time
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How long
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Report {
    requests: usize,
    seconds: f64,
    requests_per_second: f64,
    /// Microseconds from a request to its answer.
    time_us: Percentiles,
}

pub async fn measure(args: &Args) -> anyhow::Result<Report> {
    let (order, target) = (Order { tokens: 1, pace_us: 0, stream: false, is_urgent: false }, args.target);
    let mut clients = Vec::new();
    for _ in 0..args.clients {
        clients.push(Client::open(target, order).await?);
    }
    let started = now_us();
    let until = started + Duration::from_secs_f64(args.seconds).as_micros() as u64;
    let mut running = JoinSet::new();
    for mut client in clients {
        running.spawn(async move {
            let mut times = Vec::new();
            while now_us() < until {
                let asked = now_us();
                client.ask(|_| {}).await?;
                times.push((now_us() - asked).cast_signed());
            }
            anyhow::Ok(times)
        });
    }
    let (mut requests, mut times) = (0, Durations::default());
    while let Some(own) = running.join_next().await {
        for time in own?? {
            requests += 1;
            times.add(time);
        }
    }
    let seconds = (now_us() - started) as f64 / 1e6;
    let requests_per_second = requests as f64 / seconds;
    Ok(Report { requests, seconds, requests_per_second, time_us: times.percentiles() })
}
