//! The queue and the slots. `policy` decides, `effects` acts, this file keeps count.
//!
//! A request asks for a slot and gets a [`Ticket`]. The ticket tells its place until it turns into a [`Lease`] on one
//! slot of one worker, or into a refusal. Dropping either gives back what it held. What is known lies behind a lock that
//! is held for one step and never across an await: a slot that is free is had, and given back, without waking anyone.
//! Whoever must wait waits for one task, which alone serves the queue.

mod affinity;
mod candidates;
mod explain;
mod fairness;
#[cfg(test)]
mod histories;
mod line;
mod pace;
mod policy;
mod preview;
mod queue;
mod roster;
mod starts;
#[cfg(test)]
mod tests;
mod ticket;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::hive::{SpawnRequest, WorkerInfo};
use protocol::queen::QueueView;
use protocol::task::Priority;
use protocol::worker::Backend;
use protocol::{ApiError, BootId, ErrorCode, WorkerId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hives::{Fleet, NodeName};

pub use candidates::{Candidate, CandidateKind, Candidates, SeatLoad};
pub use explain::Decision;
use policy::Start;
pub use preview::Preview;
pub use ticket::{Lease, Ticket, TicketEvent, Waiting};

use queue::{Admitted, Queue};
use starts::Wanted;

/// Slots that are given out, by run of worker.
pub type Taken = HashMap<BootId, u32>;

/// What a request needs.
#[derive(Debug, Clone)]
pub struct Demand {
    /// The model's name in the catalogs.
    pub model: String,
    /// The band it waits in.
    pub priority: Priority,
    /// Whose it is: within a band, slots go to the key that has had the least.
    pub key: Arc<str>,
    /// Where it may or should be served.
    pub placement: Placement,
    /// When a slot is of no use any more.
    pub deadline: Option<Instant>,
    /// Tokens of the prompt, as far as they can be guessed.
    pub prompt_tokens: u32,
    /// Tokens of the answer at most.
    pub answer_tokens_max: Option<u32>,
    /// What it takes in memory while it waits.
    pub bytes: usize,
    /// Hashes of the prompt's beginnings, the shortest first.
    pub beginnings: Arc<[u64]>,
    /// A run of a worker that had it and failed: another one is better.
    pub avoid: Option<BootId>,
    /// The first ticket that it had: it goes on waiting where it was.
    pub arrival: Option<TicketId>,
}

/// Where a request may be served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// How much the rest counts.
    pub mode: Mode,
    /// The machine.
    pub node: Option<NodeName>,
    /// The worker.
    pub worker: Option<WorkerId>,
    /// Numbers of the runs of workers that may serve it, in ascending order.
    pub among: Arc<[u64]>,
    /// Of these, the one that is best.
    pub winner: Option<u64>,
}

/// How much a wish for a machine or worker counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// The queue chooses.
    #[default]
    Auto,
    /// There if it has a free slot, else anywhere.
    Prefer,
    /// There or nowhere.
    Pin,
    /// On one of some workers.
    Among,
}

impl Placement {
    /// On this machine and no other.
    pub fn on_node(node: NodeName) -> Self {
        Self { mode: Mode::Pin, node: Some(node), ..Self::default() }
    }
}

/// What a request used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Tokens read.
    pub prompt_tokens: u32,
    /// Tokens written.
    pub answer_tokens: u32,
}

impl Used {
    /// What it counts for its key: writing a token takes about as long as reading two.
    fn cost(self) -> f64 {
        f64::from(self.prompt_tokens) + 2.0 * f64::from(self.answer_tokens)
    }
}

/// What came of a slot that is given back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Spent {
    /// Something, but it is not known how much.
    #[default]
    Unknown,
    /// So much.
    Used(Used),
    /// Nothing: the worker had given it to somebody else, who is not of this queue.
    Refused,
}

/// How workers are started when none serves a model, and how much may wait.
#[derive(Debug, Clone)]
pub struct StartPolicy {
    /// The device family; never another one instead.
    pub backend: Backend,
    /// Device number for GPUs.
    pub gpu: Option<u32>,
    /// What may wait.
    pub bounds: Bounds,
    /// Models whose workers are not ended to make room for others.
    pub pinned: Vec<String>,
}

/// What may wait, in all and in each band.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// In all.
    pub all: Bound,
}

/// So much and no more.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Requests.
    pub requests: usize,
    /// Bytes of their prompts.
    pub bytes: usize,
}

impl Bounds {
    /// What may wait in a band. What nobody waits for in person leaves room for what somebody does, and that for what is
    /// urgent.
    pub fn of_band(&self, priority: Priority) -> Bound {
        let Bound { requests, bytes } = self.all;
        match priority {
            Priority::High => self.all,
            Priority::Interactive => Bound { requests: requests - requests / 8, bytes: bytes - bytes / 8 },
            Priority::Batch | Priority::Low | Priority::Background => {
                Bound { requests: requests.div_ceil(2), bytes: bytes.div_ceil(2) }
            }
        }
    }
}

/// What the scheduler can do to the world.
pub trait Effects: Send + Sync + 'static {
    /// Starts a worker on a node; it comes back loading.
    fn start_worker(
        &self,
        node: NodeName,
        request: SpawnRequest,
    ) -> BoxFuture<'static, Result<WorkerInfo, ApiError>>;

    /// Ends a worker unless it has something to do.
    fn end_idle_worker(&self, node: NodeName, worker: WorkerId) -> BoxFuture<'static, Result<(), ApiError>>;
}

impl Effects for crate::hives::Hives {
    fn start_worker(
        &self,
        node: NodeName,
        request: SpawnRequest,
    ) -> BoxFuture<'static, Result<WorkerInfo, ApiError>> {
        let hives = self.clone();
        Box::pin(async move { Self::start_worker(&hives, &node, &request).await })
    }

    fn end_idle_worker(&self, node: NodeName, worker: WorkerId) -> BoxFuture<'static, Result<(), ApiError>> {
        let hives = self.clone();
        Box::pin(async move { hives.shutdown_idle_worker(&node, &worker).await })
    }
}

/// What the queue wants done.
#[derive(Debug)]
enum Effect {
    Start { wanted: Wanted, start: Start },
    Evict { node: NodeName, worker: WorkerId },
}

/// What came of an order to start a worker.
struct Started {
    wanted: Wanted,
    outcome: Result<WorkerInfo, ApiError>,
}

/// Number of one ticket, and of the lease that it becomes.
pub type TicketId = u64;

/// The queue, for all who ask.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    fleet: watch::Receiver<Fleet>,
    /// Wakes the task that serves who waits.
    news: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes back what a ticket or a lease holds.
    fn give_back(&self, id: TicketId, spent: Spent) {
        let now = Instant::now();
        let mut queue = self.lock();
        queue.give_back(id, spent, now);
        if queue.depth() > 0 {
            self.news.notify_one();
        }
    }
}

/// How much there is to do.
#[derive(Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that wait for a slot.
    pub depth: u32,
    /// Slots given out, by run of worker.
    pub taken: Taken,
}

impl Scheduler {
    /// Starts the task that serves who waits; it ends with `stop`.
    pub fn start(
        fleet: watch::Receiver<Fleet>,
        effects: Arc<dyn Effects>,
        policy: StartPolicy,
        stop: CancellationToken,
    ) -> Self {
        let scheduler = Self::new(fleet, policy);
        let shared = scheduler.shared.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(serve(&shared, effects)).await;
            shared.lock().close();
        });
        scheduler
    }

    fn new(fleet: watch::Receiver<Fleet>, policy: StartPolicy) -> Self {
        let queue = Mutex::new(Queue::new(policy, Instant::now()));
        Self { shared: Arc::new(Shared { queue, fleet, news: Notify::new() }) }
    }

    /// Asks for a slot. A demand that nothing can ever serve is refused at once.
    pub fn acquire(&self, demand: Demand) -> Result<Ticket, ApiError> {
        let fleet = self.shared.fleet.borrow().clone();
        let now = Instant::now();
        let admitted = self.shared.lock().admit(demand, &fleet, now)?;
        if matches!(admitted, Admitted::Waits { .. }) {
            self.shared.news.notify_one();
        }
        Ok(Ticket::new(self.shared.clone(), admitted))
    }

    /// A slot for a demand that has one already, on another worker than the one that it avoids; only if one is free that nobody
    /// waits for.
    pub fn hedge(&self, demand: &Demand) -> Option<Lease> {
        let fleet = self.shared.fleet.borrow().clone();
        let now = Instant::now();
        let (id, grant) = self.shared.lock().hedge(demand, &fleet, now)?;
        Some(Lease::new(self.shared.clone(), id, grant))
    }

    /// What would come of a demand now; nothing is taken in.
    pub fn preview(&self, demand: &Demand) -> Result<Preview, ApiError> {
        let fleet = self.shared.fleet.borrow().clone();
        let now = Instant::now();
        self.shared.lock().preview(demand, &fleet, now)
    }

    /// What there is to choose from for a demand now.
    pub fn candidates(&self, demand: &Demand) -> Candidates {
        let fleet = self.shared.fleet.borrow().clone();
        let now = Instant::now();
        self.shared.lock().candidates(demand, &fleet, now)
    }

    /// News of the fleet.
    pub fn fleet(&self) -> watch::Receiver<Fleet> {
        self.shared.fleet.clone()
    }

    /// Who waits for what, and for how long.
    pub fn view(&self) -> QueueView {
        self.shared.lock().view(Instant::now())
    }

    /// How much there is to do now.
    pub fn load(&self) -> Load {
        self.shared.lock().load()
    }
}

/// What those are told whom a stopping scheduler serves no more.
fn stopping() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "The server is stopping.").with_retry_after_ms(5000)
}

/// A hive answers an order to start within this time; the start itself takes as long as it takes.
const ORDER_WITHIN: Duration = Duration::from_secs(30);

fn unanswered() -> ApiError {
    let message =
        format!("The hive did not answer the order to start a worker within {} s.", ORDER_WITHIN.as_secs());
    ApiError::new(ErrorCode::HiveUnavailable, message)
}

async fn serve(shared: &Arc<Shared>, effects: Arc<dyn Effects>) {
    let mut fleet = shared.fleet.clone();
    loop {
        let refresh = shared.lock().refresh();
        tokio::select! {
            () = shared.news.notified() => {}
            changed = fleet.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(refresh.unwrap_or_default()), if refresh.is_some() => {}
        }
        let snapshot = fleet.borrow_and_update().clone();
        let effects_due = shared.lock().dispatch(&snapshot, Instant::now());
        for effect in effects_due {
            tokio::spawn(act(shared.clone(), effects.clone(), effect));
        }
    }
}

async fn act(shared: Arc<Shared>, effects: Arc<dyn Effects>, effect: Effect) {
    match effect {
        Effect::Start { wanted, start } => order(shared, effects, wanted, start).await,
        Effect::Evict { node, worker } => {
            tracing::info!(%worker, %node, "ending an idle worker, whose memory another one needs");
            let ending = effects.end_idle_worker(node, worker.clone());
            match tokio::time::timeout(ORDER_WITHIN, ending).await.unwrap_or_else(|_| Err(unanswered())) {
                Ok(()) => {}
                Err(error) => tracing::warn!(%worker, %error, "an idle worker was not ended"),
            }
            shared.news.notify_one();
        }
    }
}

/// Has a worker started, and tells the queue what came of it.
async fn order(shared: Arc<Shared>, effects: Arc<dyn Effects>, wanted: Wanted, start: Start) {
    tracing::info!(model = start.request.model, node = %start.node, backend = %start.request.backend, "starting a worker");
    let ordered = tokio::time::timeout(ORDER_WITHIN, effects.start_worker(start.node, start.request)).await;
    let outcome = ordered.unwrap_or_else(|_| Err(unanswered()));
    shared.lock().started(Started { wanted, outcome }, Instant::now());
    shared.news.notify_one();
}
