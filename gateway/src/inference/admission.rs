//! A place in the queue, and what the routing script has to say to it: at first, and again while it waits and the fleet
//! changes.

use std::time::Duration;

use protocol::ApiError;
use protocol::routing::RoutingTask;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Asker, Inference};
use crate::hives::Fleet;
use crate::routing::{Asking, Decided, Router};
use crate::scheduler::{Demand, Scheduler, Ticket, TicketEvent, Waiting};

/// The script is asked again after this time at the earliest, and only if the fleet has changed.
const ASKED_EVERY: Duration = Duration::from_secs(2);

/// A place in the queue.
pub(super) struct Admission {
    ticket: Ticket,
    routed: Option<Box<Routed>>,
}

struct Routed {
    decided: Decided,
    demand: Demand,
    task: RoutingTask,
    router: Router,
    scheduler: Scheduler,
    fleet: watch::Receiver<Fleet>,
    asked: Instant,
}

impl Inference {
    /// Gets a place in the queue, if the script lets the request in.
    pub(super) fn admit(
        &self,
        demand: &Demand,
        task: impl FnOnce() -> RoutingTask,
        asking: Asking,
        asker: &Asker,
    ) -> Result<Admission, ApiError> {
        if !self.router.is_on() {
            return Ok(Admission { ticket: self.scheduler.acquire(demand.clone())?, routed: None });
        }
        let task = task();
        let mut fleet = self.scheduler.fleet();
        fleet.mark_unchanged();
        let decided = self.router.decide(&self.scheduler, demand, task.clone(), asking)?;
        if let Some(record) = &decided.record {
            asker.clock.note_routing(record.header());
        }
        let ticket = self.scheduler.acquire(placed(demand, &decided))?;
        let routed = Routed {
            decided,
            demand: demand.clone(),
            task,
            router: self.router.clone(),
            scheduler: self.scheduler.clone(),
            fleet,
            asked: Instant::now(),
        };
        Ok(Admission { ticket, routed: Some(Box::new(routed)) })
    }
}

/// The demand with the place that the script chose for it.
pub(super) fn placed(demand: &Demand, decided: &Decided) -> Demand {
    let mut demand = demand.clone();
    if let Some(placement) = &decided.placement {
        demand.placement = placement.clone();
    }
    demand
}

impl Admission {
    /// How it waits at this moment.
    pub(super) fn waiting(&self) -> Waiting {
        self.ticket.waiting()
    }

    /// The next news. May be cancelled without losing any.
    pub(super) async fn next(&mut self) -> TicketEvent {
        let Some(routed) = &mut self.routed else { return self.ticket.next().await };
        loop {
            let event = tokio::select! {
                biased;
                event = self.ticket.next() => event,
                () = routed.is_due() => match routed.ask_again() {
                    Ok(demand) => {
                        self.ticket.place(demand.placement);
                        continue;
                    }
                    Err(error) => TicketEvent::Refused(error),
                },
            };
            if let (TicketEvent::Granted(lease), Some(record)) = (&event, &routed.decided.record) {
                record.note_served(&lease.worker.id);
            }
            return event;
        }
    }
}

impl Routed {
    /// Waits until the script may see the fleet with other eyes.
    async fn is_due(&mut self) {
        if self.decided.placement.is_none() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.asked + ASKED_EVERY).await;
        if self.fleet.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn ask_again(&mut self) -> Result<Demand, ApiError> {
        self.asked = Instant::now();
        let decided = self.router.decide(&self.scheduler, &self.demand, self.task.clone(), Asking::Again)?;
        Ok(placed(&self.demand, &decided))
    }
}
