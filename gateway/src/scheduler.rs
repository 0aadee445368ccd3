//! The queue and the slots. One task owns both; `policy` decides, `effects` acts, this file keeps count.
//!
//! A request asks for a slot and gets a [`Ticket`]. The ticket tells its place until it turns into a [`Lease`] on one
//! slot of one worker, or into a refusal. Dropping either gives back what it held. Commands go through an unbounded
//! channel because a drop cannot wait; their number is bounded by the tickets and leases that the queue limit allows.

mod pace;
mod policy;
mod queue;
#[cfg(test)]
mod tests;
mod ticket;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::hive::{SpawnRequest, WorkerInfo};
use protocol::task::Priority;
use protocol::worker::Backend;
use protocol::{ApiError, ErrorCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hives::{Fleet, NodeName};

pub use policy::Taken;
pub use ticket::{Lease, Ticket, TicketEvent, Waiting};

use queue::Queue;

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

enum Command {
    Acquire { demand: Demand, reply: oneshot::Sender<Result<Ticket, ApiError>> },
    Abandon(TicketId),
    Release(TicketId),
    Started { model: String, outcome: Box<Result<WorkerInfo, ApiError>> },
}

/// The way to the scheduler's task.
#[derive(Clone)]
pub struct Scheduler {
    commands: mpsc::UnboundedSender<Command>,
    load: watch::Receiver<Arc<Load>>,
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
    /// Starts the task; it ends with `stop`.
    pub fn start(
        fleet: watch::Receiver<Fleet>,
        effects: Arc<dyn Effects>,
        policy: StartPolicy,
        stop: CancellationToken,
    ) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (load_sender, load) = watch::channel(Arc::default());
        let queue = Queue::new(policy, commands.clone());
        let task = run(queue, inbox, fleet, effects, commands.clone(), load_sender);
        tokio::spawn(async move { stop.run_until_cancelled(task).await });
        Self { commands, load }
    }

    /// Asks for a slot. A demand that nothing can ever serve is refused at once.
    pub async fn acquire(&self, demand: Demand) -> Result<Ticket, ApiError> {
        let (reply, answer) = oneshot::channel();
        let gone =
            || ApiError::new(ErrorCode::ShuttingDown, "The server is stopping.").with_retry_after_ms(5000);
        self.commands.send(Command::Acquire { demand, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// How much there is to do now.
    pub fn load(&self) -> Arc<Load> {
        self.load.borrow().clone()
    }
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

async fn run(
    mut queue: Queue,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    mut fleet: watch::Receiver<Fleet>,
    effects: Arc<dyn Effects>,
    commands: mpsc::UnboundedSender<Command>,
    load: watch::Sender<Arc<Load>>,
) {
    loop {
        let first = tokio::select! {
            command = inbox.recv() => match command { Some(command) => Some(command), None => return },
            changed = fleet.changed() => if changed.is_ok() { None } else { return },
            () = tokio::time::sleep(REFRESH), if queue.depth() > 0 => None,
        };
        let snapshot = fleet.borrow_and_update().clone();
        let mut next = first;
        while let Some(command) = next {
            queue.take(command, &snapshot);
            next = inbox.try_recv().ok();
        }
        for start in queue.dispatch(&snapshot) {
            let (effects, commands) = (effects.clone(), commands.clone());
            tokio::spawn(async move {
                tracing::info!(model = start.request.model, node = %start.node, backend = %start.request.backend, "starting a worker");
                let model = start.request.model.clone();
                let ordered =
                    tokio::time::timeout(ORDER_WITHIN, effects.start_worker(start.node, start.request)).await;
                let outcome = Box::new(ordered.unwrap_or_else(|_| Err(unanswered())));
                let _ = commands.send(Command::Started { model, outcome });
            });
        }
        load.send_if_modified(|load| {
            let now = queue.load();
            let news = **load != now;
            *load = Arc::new(now);
            news
        });
    }
}
