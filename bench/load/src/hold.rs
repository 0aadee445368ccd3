//! Many streams at the same time: how many of them break, and how late their tokens come.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde::Serialize;
use tokio::task::{JoinSet, LocalSet};

use crate::answer::Client;
use crate::clock::{Durations, Percentiles, now_us};
use crate::order::Order;
use crate::say;

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Whom to ask
    #[arg(long)]
    target: SocketAddr,
    /// Streams at the same time
    #[arg(long)]
    streams: u32,
    /// Tokens of each
    #[arg(long)]
    tokens: u32,
    /// From one token to the next; below 1,000 they come one after the other, as fast as can be
    #[arg(long)]
    pace_us: u64,
    /// Streams to open in a second
    #[arg(long, default_value_t = 1500)]
    opened_per_second: u32,
}

/// Said once all streams have had their first token: what is measured from outside begins here.
#[derive(Debug, Serialize)]
struct Held {
    held: u32,
}

#[derive(Debug, Serialize)]
pub struct Report {
    streams: u32,
    broken: u32,
    /// Why streams broke, and how many for each reason.
    reasons: BTreeMap<String, u32>,
    tokens: usize,
    seconds: f64,
    /// Microseconds from the request to the first token.
    first_token_us: Percentiles,
    /// Microseconds from when a token was due to its arrival, the first of each stream left out.
    lateness_us: Percentiles,
}

/// What all streams write to.
#[derive(Default)]
struct Board {
    begun: Cell<u32>,
    first: RefCell<Durations>,
    late: RefCell<Durations>,
}

pub async fn measure(args: &Args) -> anyhow::Result<Report> {
    LocalSet::new().run_until(hold(args)).await
}

async fn hold(args: &Args) -> anyhow::Result<Report> {
    let (board, started) = (Rc::<Board>::default(), now_us());
    let mut running = JoinSet::new();
    for number in 0..args.streams {
        let opens_in = Duration::from_secs(1) * number / args.opened_per_second;
        running.spawn_local(follow(args.target, args.order(), args.streams, opens_in, board.clone()));
    }
    let mut reasons = BTreeMap::new();
    while let Some(outcome) = running.join_next().await {
        if let Err(error) = outcome? {
            *reasons.entry(format!("{error:#}")).or_default() += 1;
        }
    }
    let late = board.late.take();
    let tokens = late.len();
    Ok(Report {
        streams: args.streams,
        broken: reasons.values().sum(),
        reasons,
        tokens,
        seconds: (now_us() - started) as f64 / 1e6,
        first_token_us: board.first.take().percentiles(),
        lateness_us: late.percentiles(),
    })
}

impl Args {
    const fn order(&self) -> Order {
        Order { tokens: self.tokens, pace_us: self.pace_us, stream: true, is_urgent: false }
    }
}

async fn follow(
    target: SocketAddr,
    order: Order,
    streams: u32,
    opens_in: Duration,
    board: Rc<Board>,
) -> anyhow::Result<()> {
    tokio::time::sleep(opens_in).await;
    let mut client = Client::open(target, order).await?;
    let (asked, mut has_begun) = (now_us(), false);
    let on_token = |due_us: u64| {
        let now = now_us();
        if has_begun {
            board.late.borrow_mut().add(now.cast_signed() - due_us.cast_signed());
            return;
        }
        has_begun = true;
        board.first.borrow_mut().add((now - asked).cast_signed());
        board.begun.set(board.begun.get() + 1);
        if board.begun.get() == streams {
            // Who reads this is the script that started us; without it there is nobody to tell.
            let _ = say(&Held { held: streams });
        }
    };
    client.ask(on_token).await
}
