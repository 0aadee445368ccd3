//! What a request holds while it waits, and while it runs.

use std::sync::Arc;
use std::time::Duration;

use protocol::ApiError;
use protocol::hive::WorkerInfo;
use tokio::sync::{oneshot, watch};

use super::queue::{Admitted, Outcome};
use super::{Shared, TicketId, stopping};
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

/// A place in the queue, or a slot that nobody took yet; dropping it gives up either.
pub struct Ticket {
    hold: Option<Hold>,
    state: State,
}

enum State {
    Served(NodeName, Arc<WorkerInfo>),
    Waits { waiting: watch::Receiver<Waiting>, outcome: oneshot::Receiver<Outcome> },
    Settled,
}

impl Ticket {
    pub(super) fn new(shared: Arc<Shared>, admitted: Admitted) -> Self {
        let (id, state) = match admitted {
            Admitted::Served { id, node, worker } => (id, State::Served(node, worker)),
            Admitted::Waits { id, waiting, outcome } => (id, State::Waits { waiting, outcome }),
        };
        Self { hold: Some(Hold { id, shared }), state }
    }

    /// The place at this moment; 0 if a slot was free.
    pub fn position(&self) -> u32 {
        match &self.state {
            State::Waits { waiting, .. } => waiting.borrow().position,
            State::Served(..) | State::Settled => 0,
        }
    }

    /// The next news. May be cancelled without losing any.
    pub async fn next(&mut self) -> TicketEvent {
        let outcome = match &mut self.state {
            State::Waits { waiting, outcome } => tokio::select! {
                biased;
                outcome = &mut *outcome => outcome.unwrap_or_else(|_| Err(stopping())),
                Ok(()) = waiting.changed() => return TicketEvent::Waiting(waiting.borrow_and_update().clone()),
            },
            State::Served(node, worker) => Ok((node.clone(), worker.clone())),
            State::Settled => Err(stopping()),
        };
        self.state = State::Settled;
        match (outcome, self.hold.take()) {
            (Ok((node, worker)), Some(hold)) => TicketEvent::Granted(Lease { node, worker, _hold: hold }),
            (outcome, _) => TicketEvent::Refused(outcome.err().unwrap_or_else(stopping)),
        }
    }
}

/// One slot of one worker; dropping it gives the slot back.
pub struct Lease {
    /// The machine that the worker is on.
    pub node: NodeName,
    /// The worker as it was when the slot was given.
    pub worker: Arc<WorkerInfo>,
    _hold: Hold,
}

/// What the queue knows a ticket and its lease by.
struct Hold {
    id: TicketId,
    shared: Arc<Shared>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.give_back(self.id);
    }
}
