//! What has to be done again and again: the lease renewed, the dead found, word of work sent and heard, old things thrown
//! out.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::jobs;
use super::lease::Lease;
use super::retention::Retention;
use crate::store::{Bounds, Signs};

/// Where queens tell each other that there is work.
pub const CHANNEL: &str = "rbee_work";
/// A third of the lease, so that two renewals may fail.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often the dead are looked for.
const RECLAIM_EVERY: Duration = Duration::from_secs(5);
/// Words that come closer together are one: to tell of each job would cost most of the time that jobs take.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(20);
/// A word can be lost with its connection; what it told of is found by this.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often it is asked whether there is too much.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// How often what is too old is looked for.
const PRUNE_EVERY: Duration = Duration::from_hours(1);

#[derive(Clone)]
pub struct Keeper {
    pub pool: PgPool,
    pub lease: Arc<Lease>,
    pub signs: Arc<Signs>,
    /// There is something to tell other queens of.
    pub announce: Arc<Notify>,
    pub bounds: Bounds,
}

impl Keeper {
    pub fn begin(self, tasks: &mut JoinSet<()>) {
        tasks.spawn(self.clone().renew());
        tasks.spawn(self.clone().reclaim());
        tasks.spawn(self.clone().announce());
        tasks.spawn(self.clone().listen());
        tasks.spawn(self.clone().look());
        tasks.spawn(self.prune());
    }

    async fn renew(self) {
        let mut ticks = every(RENEW_EVERY);
        loop {
            tokio::select! { _ = ticks.tick() => {}, () = self.lease.doubt.notified() => {} }
            if let Err(error) = self.lease.renew(&self.pool).await {
                tracing::warn!(%error, "the lease could not be renewed");
            }
        }
    }

    async fn reclaim(self) {
        let mut ticks = every(RECLAIM_EVERY);
        loop {
            ticks.tick().await;
            let reclaimed =
                async { jobs::write::reclaim(&mut *self.pool.acquire().await?, &self.lease.holder()).await };
            match reclaimed.await {
                Ok(0) => {}
                Ok(_) => self.tell_of_work(),
                Err(error) => tracing::warn!(%error, "it could not be seen whether queens have died"),
            }
        }
    }

    fn tell_of_work(&self) {
        self.signs.work.notify_one();
        self.announce.notify_one();
    }

    async fn announce(self) {
        loop {
            self.announce.notified().await;
            let told = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&self.pool).await;
            if let Err(error) = told {
                // Who does not hear of it finds it by looking.
                tracing::debug!(%error, "other queens were not told of work");
            }
            tokio::time::sleep(ANNOUNCE_EVERY).await;
        }
    }

    async fn listen(self) {
        loop {
            if let Err(error) = self.hear().await {
                tracing::debug!(%error, "work of other queens is not heard of");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn hear(&self) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(CHANNEL).await?;
        loop {
            listener.recv().await?;
            self.signs.work.notify_one();
        }
    }

    async fn look(self) {
        let mut ticks = every(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let is_work = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'queued')")
                .fetch_one(&self.pool)
                .await;
            if is_work.unwrap_or(false) {
                self.signs.work.notify_one();
            }
        }
    }

    async fn prune(self) {
        let mut retention = Retention::new(self.bounds);
        let mut rounds = every(PRUNE_EVERY);
        let mut measures = every(MEASURE_EVERY);
        loop {
            tokio::select! { biased; _ = rounds.tick() => retention.begin(), _ = measures.tick() => {} }
            if let Err(error) = retention.prune(&self.pool).await {
                tracing::warn!(%error, "what was kept long enough could not be thrown out");
            }
        }
    }
}

/// The first tick comes at once; after a stall there is one and not many.
fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
