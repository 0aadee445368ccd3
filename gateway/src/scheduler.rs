//! The queue and the slots. `policy` decides, `effects` acts, this file keeps count.
//!
//! A request asks for a slot and gets a [`Ticket`]. The ticket tells its place until it turns into a [`Lease`] on one
//! slot of one worker, or into a refusal. Dropping either gives back what it held. What is known lies behind a lock that
//! is held for one step and never across an await: a slot that is free is had, and given back, without waking anyone.
//! Whoever must wait waits for one task, which alone serves the queue.

mod pace;
mod policy;
mod queue;
#[cfg(test)]
mod tests;
mod ticket;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::hive::{SpawnRequest, WorkerInfo};
use protocol::task::Priority;
use protocol::worker::Backend;
use protocol::{ApiError, ErrorCode};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hives::{Fleet, NodeName};

use policy::Start;
pub use policy::Taken;
pub use ticket::{Lease, Ticket, TicketEvent, Waiting};

use queue::{Admitted, Queue};

/// What a request needs.
#[derive(Debug, Clone)]
pub struct Demand {
    /// The model's name in the catalogs.
    pub model: String,
    /// The band it waits in.
    pub priority: Priority,
    /// The only machine that may serve it, if the caller said so.
    pub node: Option<NodeName>,
    /// When a slot is of no use any more.
    pub deadline: Option<Instant>,
}

/// How workers are started when none serves a model.
#[derive(Debug, Clone)]
pub struct StartPolicy {
    /// The device family; never another one instead.
    pub backend: Backend,
    /// Device number for GPUs.
    pub gpu: Option<u32>,
    /// Requests that may wait.
    pub queue_limit: usize,
}

/// What the scheduler can do to the world.
pub trait Effects: Send + Sync + 'static {
    /// Starts a worker on a node; it comes back loading.
    fn start_worker(
        &self,
        node: NodeName,
        request: SpawnRequest,
    ) -> BoxFuture<'static, Result<WorkerInfo, ApiError>>;
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
}

/// Number of one ticket, and of the lease that it becomes.
type TicketId = u64;

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
    fn give_back(&self, id: TicketId) {
        let mut queue = self.lock();
        queue.give_back(id);
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
        let queue = Mutex::new(Queue::new(policy));
        Self { shared: Arc::new(Shared { queue, fleet, news: Notify::new() }) }
    }

    /// Asks for a slot. A demand that nothing can ever serve is refused at once.
    pub fn acquire(&self, demand: Demand) -> Result<Ticket, ApiError> {
        let fleet = self.shared.fleet.borrow().clone();
        let admitted = self.shared.lock().admit(demand, &fleet)?;
        if matches!(admitted, Admitted::Waits { .. }) {
            self.shared.news.notify_one();
        }
        Ok(Ticket::new(self.shared.clone(), admitted))
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

/// Positions and narration are brought up to date this often at least while anyone waits.
const REFRESH: Duration = Duration::from_secs(1);

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
        let is_waiting = shared.lock().depth() > 0;
        tokio::select! {
            () = shared.news.notified() => {}
            changed = fleet.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(REFRESH), if is_waiting => {}
        }
        let snapshot = fleet.borrow_and_update().clone();
        let starts = shared.lock().dispatch(&snapshot);
        for start in starts {
            tokio::spawn(order(shared.clone(), effects.clone(), start));
        }
    }
}

/// Has a worker started, and tells the queue what came of it.
async fn order(shared: Arc<Shared>, effects: Arc<dyn Effects>, start: Start) {
    tracing::info!(model = start.request.model, node = %start.node, backend = %start.request.backend, "starting a worker");
    let model = start.request.model.clone();
    let ordered = tokio::time::timeout(ORDER_WITHIN, effects.start_worker(start.node, start.request)).await;
    shared.lock().started(model, ordered.unwrap_or_else(|_| Err(unanswered())));
    shared.news.notify_one();
}
