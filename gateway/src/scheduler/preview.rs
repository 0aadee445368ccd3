//! What would come of a demand, without taking it in.

use std::time::Duration;

use protocol::{ApiError, WorkerId};
use tokio::time::Instant;

use super::queue::{Look, Queue, Served, in_time};
use super::{Demand, stopping};
use crate::hives::{Fleet, NodeName};

/// What would come of a demand.
pub struct Preview {
    /// The worker that has a free slot for it.
    pub worker: Option<(NodeName, WorkerId)>,
    /// Why that one; or `queue` or `cold_start` for what it would wait for.
    pub why: &'static str,
    /// Place in the queue; 0 if a slot is free.
    pub position: u32,
    /// How long it would wait, if there is ground for an estimate.
    pub eta: Option<Duration>,
}

impl Served {
    const fn as_str(self) -> &'static str {
        match self {
            Self::AfterOthers => "queue",
            Self::AfterStart => "cold_start",
        }
    }
}

impl Queue {
    /// What would come of a demand now. Nothing is taken in.
    pub(super) fn preview(
        &mut self,
        demand: &Demand,
        fleet: &Fleet,
        now: Instant,
    ) -> Result<Preview, ApiError> {
        if self.is_closed {
            return Err(stopping());
        }
        match self.look(demand, fleet, now)? {
            Look::Seat(seat, why) => {
                let seat = self.roster.seat(seat).ok_or_else(stopping)?;
                let worker = Some((seat.node.clone(), seat.worker.id.clone()));
                Ok(Preview { worker, why: why.as_str(), position: 0, eta: Some(Duration::ZERO) })
            }
            Look::Behind { ahead, served } => {
                let eta = self.eta(&demand.model, ahead + 1);
                in_time(eta, demand.deadline, now)?;
                let Some((label, all)) = self.crowded(demand) else {
                    let why = served.as_str();
                    return Ok(Preview { worker: None, why, position: ahead + 1, eta });
                };
                Err(self.full(&demand.model, &label, all))
            }
        }
    }
}
