//! The one writer: it commits together what has come in while it committed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::retention::{Kept, Retention};
use super::{batches, files, jobs, objects};
use crate::clock::{unix_millis, unix_seconds};
use crate::store::write::Write;
use crate::store::{Bounds, Signs, StoreError};

/// Writes of one commit at most.
const GROUP: usize = 1024;
/// How often what is too old is looked for.
const PRUNE_EVERY: Duration = Duration::from_hours(1);

/// The only connection that writes.
pub struct Writer {
    connection: SqliteConnection,
    writes: mpsc::Receiver<Write>,
    signs: Arc<Signs>,
    /// What this process is called as the holder of jobs; no other one is ever called the same.
    holder: String,
    kept: Kept,
    retention: Retention,
    synced: Synced,
    /// There may be something to throw out.
    is_pruning: bool,
}

/// What a commit waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Synced {
    /// The operating system: a crash of the machine may cost the last commits, never the database.
    Lazily,
    /// The disk.
    AtOnce,
}

impl Writer {
    pub(super) async fn new(
        mut connection: SqliteConnection,
        writes: mpsc::Receiver<Write>,
        bounds: Bounds,
        signs: Arc<Signs>,
    ) -> Result<Self, StoreError> {
        let kept = Kept::count(&mut connection).await?;
        let mut writer = Self {
            connection,
            writes,
            signs,
            holder: Uuid::new_v4().to_string(),
            kept,
            retention: Retention::new(bounds),
            synced: Synced::Lazily,
            is_pruning: false,
        };
        let reclaimed = writer.reclaim().await?;
        if reclaimed > 0 {
            tracing::warn!(
                jobs = reclaimed,
                "the queen before this one died over jobs; they are queued again"
            );
        }
        writer.tell_signs();
        if writer.kept.unfinished > 0 {
            writer.signs.work.notify_one();
        }
        Ok(writer)
    }

    /// Writes until told to stop, and then what is still waiting to be written.
    pub async fn run(mut self, stop: CancellationToken) {
        // The first tick comes at once.
        let mut hourly = tokio::time::interval(PRUNE_EVERY);
        hourly.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut group = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = self.writes.recv_many(&mut group, GROUP) => match count {
                    0 => break,
                    _ => self.commit(&mut group).await,
                },
                () = stop.cancelled(), if !self.writes.is_closed() => self.writes.close(),
                _ = hourly.tick() => {
                    self.retention.begin();
                    self.is_pruning = true;
                }
                // In small steps, since nobody waits for it.
                () = std::future::ready(()), if self.is_pruning => self.is_pruning = self.prune().await,
            }
        }
        self.close().await;
    }

    async fn close(mut self) {
        // Nobody died: what still runs is given back without being held against it.
        let released = async {
            jobs::write::release_all(&mut self.connection, &self.holder).await?;
            batches::release_all(&mut self.connection, &self.holder).await
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, "running jobs were not given back; they will be at the next start");
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the database was not closed in order");
        }
    }

    async fn commit(&mut self, group: &mut Vec<Write>) {
        let committed = self.apply(group).await;
        if group.len() > 1 && committed.as_ref().is_err_and(StoreError::is_of_one_write) {
            // One of them is at fault, and the others are not.
            for write in group.drain(..) {
                let mut alone = [write];
                let committed = self.apply(&mut alone).await;
                let [write] = alone;
                write.tell(&committed);
            }
        } else {
            for write in group.drain(..) {
                write.tell(&committed);
            }
        }
        if self.retention.is_too_much(&self.kept) {
            self.prune().await;
        }
    }

    /// All writes or none.
    async fn apply(&mut self, group: &mut [Write]) -> Result<(), StoreError> {
        let is_durable = group.iter().any(Write::is_durable);
        self.sync(if is_durable { Synced::AtOnce } else { Synced::Lazily }).await?;
        // A transaction that began by reading could not be sure to write.
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let mut kept = self.kept;
        apply(&mut transaction, &mut kept, self.retention.bounds(), &self.holder, group).await?;
        transaction.commit().await?;
        self.kept = kept;
        self.tell_signs();
        self.is_pruning |= group.iter().any(|write| matches!(write, Write::DeleteFile(_)));
        if group.iter().any(Write::brings_work) {
            self.signs.work.notify_one();
        }
        Ok(())
    }

    async fn reclaim(&mut self) -> Result<u64, StoreError> {
        self.sync(Synced::AtOnce).await?;
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let reclaimed =
            jobs::write::reclaim(&mut transaction, &mut self.kept, &self.holder, unix_millis()).await?;
        files::abandon_uploads(&mut transaction).await?;
        transaction.commit().await?;
        Ok(reclaimed)
    }

    /// Throws out some of what is too old or too much; true if there may be more.
    async fn prune(&mut self) -> bool {
        let pruned = match self.sync(Synced::Lazily).await {
            Ok(()) => self.retention.prune(&mut self.connection, &mut self.kept, unix_seconds()).await,
            Err(error) => Err(error.into()),
        };
        pruned.unwrap_or_else(|error| {
            tracing::error!(%error, "what was kept long enough could not be thrown out");
            false
        })
    }

    async fn sync(&mut self, synced: Synced) -> sqlx::Result<()> {
        if self.synced != synced {
            let pragma = match synced {
                Synced::Lazily => "PRAGMA synchronous = NORMAL",
                Synced::AtOnce => "PRAGMA synchronous = FULL",
            };
            sqlx::query(pragma).execute(&mut self.connection).await?;
            self.synced = synced;
        }
        Ok(())
    }

    fn tell_signs(&self) {
        self.signs.unfinished.store(self.kept.unfinished, Ordering::Relaxed);
    }
}

/// Those that wait together have no order among them, so what can be one statement is one, and claims come last, when there
/// is most to claim.
async fn apply(
    connection: &mut SqliteConnection,
    kept: &mut Kept,
    bounds: &Bounds,
    holder: &str,
    group: &mut [Write],
) -> sqlx::Result<()> {
    let (mut enqueues, mut completes, mut claims) = (Vec::new(), Vec::new(), Vec::new());
    for write in group {
        match write {
            Write::Put(put) => objects::put(connection, kept, put).await?,
            Write::SetMetadata(change) => objects::set_metadata(connection, change).await?,
            Write::Delete(delete) => objects::delete(connection, kept, delete).await?,
            Write::Enqueue(enqueue) => enqueues.push(enqueue),
            Write::Complete(complete) => completes.push(&mut **complete),
            Write::Claim(claim) => claims.push(claim),
            Write::Begin(begin) => jobs::write::begin(connection, holder, begin).await?,
            Write::Release(release) => jobs::write::release(connection, holder, release).await?,
            Write::Cancel(cancel) => jobs::write::cancel(connection, kept, cancel).await?,
            Write::CancelGroup(cancel) => jobs::write::cancel_group(connection, kept, cancel).await?,
            Write::Forget(forget) => jobs::write::forget(connection, kept, forget).await?,
            Write::BeginFile(begin) => files::begin(connection, begin).await?,
            Write::AppendFile(append) => files::append(connection, bounds, append).await?,
            Write::FinishFile(finish) => files::finish(connection, finish).await?,
            Write::DeleteFile(delete) => files::delete(connection, delete).await?,
            Write::PutBatch(put) => batches::put(connection, holder, put).await?,
            Write::UpdateBatch(update) => batches::update(connection, holder, update).await?,
            Write::CancelBatch(cancel) => batches::cancel(connection, cancel).await?,
            Write::ClaimBatches(claim) => batches::claim(connection, holder, claim).await?,
            Write::Reclaim(reclaim) => {
                let reclaimed = jobs::write::reclaim(connection, kept, holder, reclaim.now_ms).await?;
                reclaim.reply.set(reclaimed);
            }
        }
    }
    jobs::enqueue::enqueue(connection, kept, holder, &mut enqueues).await?;
    jobs::write::complete(connection, kept, holder, &mut completes).await?;
    for claim in claims {
        jobs::write::claim(connection, holder, claim).await?;
    }
    Ok(())
}
