//! What a request holds while it waits, and while it runs.

use std::sync::Arc;
use std::time::Duration;

use protocol::ApiError;
use protocol::hive::WorkerInfo;
use tokio::sync::{oneshot, watch};

use super::queue::{Admitted, Grant, Outcome};
use super::{Decision, Placement, Shared, Spent, TicketId, Used, stopping};
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
    Served(Grant),
    Waits { waiting: watch::Receiver<Waiting>, outcome: oneshot::Receiver<Outcome> },
    Settled,
}

impl Ticket {
    pub(super) fn new(shared: Arc<Shared>, admitted: Admitted) -> Self {
        let (id, state) = match admitted {
            Admitted::Served { id, grant } => (id, State::Served(grant)),
            Admitted::Waits { id, waiting, outcome } => (id, State::Waits { waiting, outcome }),
        };
        Self { hold: Some(Hold { id, shared, spent: Spent::Unknown }), state }
    }

    /// How it waits at this moment; its place is 0 if a slot was free.
    pub fn waiting(&self) -> Waiting {
        match &self.state {
            State::Waits { waiting, .. } => waiting.borrow().clone(),
            State::Served(_) | State::Settled => Waiting::default(),
        }
    }

    /// Has it wait for another worker than so far; its place in the queue stays.
    pub fn place(&self, placement: Placement) {
        let (State::Waits { .. }, Some(hold)) = (&self.state, &self.hold) else { return };
        hold.shared.lock().place(hold.id, placement);
        hold.shared.news.notify_one();
    }

    /// The next news. May be cancelled without losing any.
    pub async fn next(&mut self) -> TicketEvent {
        if let State::Waits { waiting, outcome } = &mut self.state {
            let outcome = tokio::select! {
                biased;
                outcome = outcome => outcome.unwrap_or_else(|_| Err(stopping())),
                Ok(()) = waiting.changed() => return TicketEvent::Waiting(waiting.borrow_and_update().clone()),
            };
            match outcome {
                Ok(grant) => self.state = State::Served(grant),
                Err(error) => {
                    self.state = State::Settled;
                    self.hold = None;
                    return TicketEvent::Refused(error);
                }
            }
        }
        match (std::mem::replace(&mut self.state, State::Settled), self.hold.take()) {
            (State::Served(grant), Some(hold)) => TicketEvent::Granted(Lease::of(grant, hold)),
            _ => TicketEvent::Refused(stopping()),
        }
    }
}

/// One slot of one worker; dropping it gives the slot back.
pub struct Lease {
    /// The machine that the worker is on.
    pub node: NodeName,
    /// The worker as it was when the slot was given.
    pub worker: Arc<WorkerInfo>,
    /// Why it is this one.
    pub decision: Decision,
    hold: Hold,
}

impl Lease {
    pub(super) fn new(shared: Arc<Shared>, id: TicketId, grant: Grant) -> Self {
        Self::of(grant, Hold { id, shared, spent: Spent::Unknown })
    }

    fn of(Grant { node, worker, decision }: Grant, hold: Hold) -> Self {
        Self { node, worker, decision, hold }
    }

    /// Tells what the slot was used for, which is what its key is charged for.
    pub fn note_used(&mut self, used: Used) {
        self.hold.spent = Spent::Used(used);
    }

    /// Tells that the worker had no slot: somebody has it who is not of this queue.
    pub fn note_refused(&mut self) {
        self.hold.spent = Spent::Refused;
    }

    /// The ticket that it was.
    pub fn ticket(&self) -> TicketId {
        self.hold.id
    }
}

/// What the queue knows a ticket and its lease by.
struct Hold {
    id: TicketId,
    shared: Arc<Shared>,
    spent: Spent,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.give_back(self.id, self.spent);
    }
}
