//! Far more requests than can be served: first as many as just can be, which tells the peak, then a multiple of it, whether
//! or not anyone answers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde::Serialize;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::answer::{Client, Offered};
use crate::clock::{Durations, Percentiles, now_us};
use crate::order::Order;
use crate::say;

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Whom to ask
    #[arg(long)]
    target: SocketAddr,
    /// Requests that the worker takes at the same time
    #[arg(long)]
    slots: usize,
    /// How many times as many requests come as can be served
    #[arg(long, default_value_t = 50)]
    times: u32,
    /// How long they come
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Tokens of each answer
    #[arg(long, default_value_t = 5)]
    tokens: u32,
    /// From one token to the next
    #[arg(long, default_value_t = 40_000)]
    pace_us: u64,
}

/// The peak is measured so long.
const PEAK: Duration = Duration::from_secs(10);
/// The queue fills in this time, which is not counted.
const FILLING: Duration = Duration::from_secs(5);
/// Of what can be served, urgent requests are this part.
const URGENT_PART: f64 = 0.25;
/// Requests are sent in groups, so often.
const TICK: Duration = Duration::from_millis(5);
/// Of those that were refused last, so many come again when they were told to.
const COMING_AGAIN: usize = 20;

/// Said when the overload begins: what is measured from outside begins here.
#[derive(Debug, Serialize)]
struct Begun {
    peak_per_second: f64,
}

#[derive(Debug, Serialize)]
pub struct Report {
    peak_per_second: f64,
    offered_per_second: f64,
    served_per_second: f64,
    served_to_peak: f64,
    urgent: Kind,
    others: Kind,
    /// Statuses of refusals, and how many for each.
    refusals: BTreeMap<u16, u32>,
    /// Refusals that do not say when to come again.
    without_retry_after: u32,
    /// Seconds, as refusals tell them.
    retry_after_s: Percentiles,
    /// Of those that were refused last and came again when they were told to, with nobody else: those that were served.
    served_when_told_to: String,
    /// Requests that got neither an answer nor a proper refusal, and why.
    broken: BTreeMap<String, u32>,
}

#[derive(Debug, Serialize)]
struct Kind {
    served: usize,
    refused: usize,
    /// Microseconds from the request to the first token.
    first_token_us: Percentiles,
    /// Microseconds from the request to its refusal.
    refused_us: Percentiles,
}

#[derive(Default)]
struct Tally {
    first: Durations,
    refused: Durations,
}

/// What all requests write to.
#[derive(Default)]
struct Board {
    served: Cell<u32>,
    urgent: RefCell<Tally>,
    others: RefCell<Tally>,
    refusals: RefCell<BTreeMap<u16, u32>>,
    without_retry_after: Cell<u32>,
    retry_after: RefCell<Durations>,
    latest: Cell<u64>,
    broken: RefCell<BTreeMap<String, u32>>,
    /// Connections that nobody uses now.
    urgent_clients: RefCell<Vec<Client>>,
    other_clients: RefCell<Vec<Client>>,
}

pub async fn measure(args: &Args) -> anyhow::Result<Report> {
    LocalSet::new().run_until(overload(args)).await
}

async fn overload(args: &Args) -> anyhow::Result<Report> {
    let peak_per_second = peak(args).await?;
    say(&Begun { peak_per_second })?;
    let board = Rc::<Board>::default();
    let offered_per_second = peak_per_second * f64::from(args.times);
    let urgent_every = (f64::from(args.times) / URGENT_PART) as u64;
    let (mut running, started) = (JoinSet::new(), Instant::now());
    let length = FILLING + Duration::from_secs(u64::from(args.seconds));
    let (mut sent, mut before) = (0_u64, None);
    while started.elapsed() < length {
        if before.is_none() && started.elapsed() >= FILLING {
            before = Some((board.served.get(), Instant::now()));
        }
        let due = (started.elapsed().as_secs_f64() * offered_per_second) as u64;
        for number in sent..due {
            let is_urgent = number.is_multiple_of(urgent_every);
            running.spawn_local(offer(args.target, args.order(is_urgent), board.clone()));
        }
        sent = due;
        while running.try_join_next().is_some() {}
        tokio::time::sleep(TICK).await;
    }
    let (served_before, since) = before.unwrap_or((0, started));
    let served_per_second = f64::from(board.served.get() - served_before) / since.elapsed().as_secs_f64();
    let told_s = board.latest.get();
    tokio::time::sleep(Duration::from_secs(told_s)).await;
    let served_when_told_to = come_again(args).await;
    while running.join_next().await.is_some() {}
    Ok(Report {
        peak_per_second,
        offered_per_second,
        served_per_second,
        served_to_peak: served_per_second / peak_per_second,
        urgent: board.urgent.take().kind(),
        others: board.others.take().kind(),
        refusals: board.refusals.take(),
        without_retry_after: board.without_retry_after.get(),
        retry_after_s: board.retry_after.take().percentiles(),
        served_when_told_to,
        broken: board.broken.take(),
    })
}

impl Args {
    const fn order(&self, is_urgent: bool) -> Order {
        Order { tokens: self.tokens, pace_us: self.pace_us, stream: true, is_urgent }
    }
}

impl Tally {
    fn kind(self) -> Kind {
        Kind {
            served: self.first.len(),
            refused: self.refused.len(),
            first_token_us: self.first.percentiles(),
            refused_us: self.refused.percentiles(),
        }
    }
}

/// Answers a second when there is always someone who waits, and nobody who must be refused.
async fn peak(args: &Args) -> anyhow::Result<f64> {
    let until = Instant::now() + PEAK;
    let mut running = JoinSet::new();
    for _ in 0..args.slots * 2 {
        let mut client = Client::open(args.target, args.order(false)).await?;
        running.spawn_local(async move {
            let mut served = 0_u32;
            while Instant::now() < until {
                client.ask(|_| {}).await?;
                served += u32::from(Instant::now() < until);
            }
            anyhow::Ok(served)
        });
    }
    let mut served = 0;
    while let Some(own) = running.join_next().await {
        served += own??;
    }
    Ok(f64::from(served) / PEAK.as_secs_f64())
}

async fn offer(target: SocketAddr, order: Order, board: Rc<Board>) {
    let clients = if order.is_urgent { &board.urgent_clients } else { &board.other_clients };
    let tally = if order.is_urgent { &board.urgent } else { &board.others };
    let asked = now_us();
    let idle = clients.borrow_mut().pop();
    let outcome = async {
        let mut client = match idle {
            Some(client) => client,
            None => Client::open(target, order).await?,
        };
        Ok::<_, anyhow::Error>((client.offer().await?, client))
    };
    match outcome.await {
        Ok((Offered::Answered { first_us }, client)) => {
            tally.borrow_mut().first.add((first_us - asked).cast_signed());
            board.served.set(board.served.get() + 1);
            clients.borrow_mut().push(client);
        }
        Ok((Offered::Refused { status, retry_after_s }, client)) => {
            tally.borrow_mut().refused.add((now_us() - asked).cast_signed());
            *board.refusals.borrow_mut().entry(status).or_default() += 1;
            match retry_after_s {
                Some(seconds) => {
                    board.retry_after.borrow_mut().add(seconds.cast_signed());
                    board.latest.set(seconds);
                }
                None => board.without_retry_after.set(board.without_retry_after.get() + 1),
            }
            clients.borrow_mut().push(client);
        }
        Err(error) => *board.broken.borrow_mut().entry(format!("{error:#}")).or_default() += 1,
    }
}

async fn come_again(args: &Args) -> String {
    let mut running = JoinSet::new();
    for _ in 0..COMING_AGAIN {
        let (target, order) = (args.target, args.order(false));
        running.spawn_local(async move { Client::open(target, order).await?.offer().await });
    }
    let mut served = 0;
    while let Some(outcome) = running.join_next().await {
        served += u32::from(matches!(outcome, Ok(Ok(Offered::Answered { .. }))));
    }
    format!("{served} of {COMING_AGAIN}")
}
