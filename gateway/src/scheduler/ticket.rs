//! What a request holds while it waits, and while it runs.

use std::sync::Arc;
use std::time::Duration;

use protocol::ApiError;
use protocol::hive::WorkerInfo;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Command, TicketId};
use crate::hives::NodeName;

/// What a waiting request can be told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Waiting {
    /// Place in the queue; 1 is next.
    pub position: u32,
    /// How long until a slot is free, if there is ground for an estimate.
    pub eta: Option<Duration>,
    /// What is going on, such as a model's load, and how far it is from 0 to 1.
    pub narration: Option<(String, Option<f32>)>,
}

/// News of a ticket.
pub enum TicketEvent {
    /// It waits; this is new.
    Waiting(Waiting),
    /// It has a slot.
    Granted(Lease),
    /// It will get none.
    Refused(ApiError),
}

/// A place in the queue; dropping it leaves the queue.
pub struct Ticket {
    pub(super) id: TicketId,
    pub(super) waiting: watch::Receiver<Waiting>,
    pub(super) outcome: oneshot::Receiver<Result<Lease, ApiError>>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) settled: bool,
}

impl Ticket {
    /// The place at this moment; 0 if a slot was free.
    pub fn position(&self) -> u32 {
        self.waiting.borrow().position
    }

    /// The next news. May be cancelled without losing any.
    pub async fn next(&mut self) -> TicketEvent {
        let outcome = tokio::select! {
            biased;
            outcome = &mut self.outcome => outcome,
            changed = self.waiting.changed() => match changed {
                Ok(()) => return TicketEvent::Waiting(self.waiting.borrow_and_update().clone()),
                // The queue let go of the ticket, so its outcome is there.
                Err(_) => (&mut self.outcome).await,
            },
        };
        self.settled = true;
        match outcome {
            Ok(Ok(lease)) => TicketEvent::Granted(lease),
            Ok(Err(error)) => TicketEvent::Refused(error),
            Err(_) => TicketEvent::Refused(ApiError::new(
                protocol::ErrorCode::ShuttingDown,
                "The server is stopping.",
            )),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            let _ = self.commands.send(Command::Abandon(self.id));
        }
    }
}

/// One slot of one worker; dropping it gives the slot back.
pub struct Lease {
    pub(super) id: TicketId,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    /// The machine that the worker is on.
    pub node: NodeName,
    /// The worker as it was when the slot was given.
    pub worker: Arc<WorkerInfo>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Release(self.id));
    }
}
