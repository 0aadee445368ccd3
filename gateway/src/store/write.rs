//! The one writer: it commits what has come in while it committed, and throws out what is too old or too much.

use std::time::Duration;

use protocol::openai::metadata::Metadata;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Bounds, IsFull, Kind, Object, Store, StoreError};
use crate::clock::unix_seconds;

/// Writes of one commit at most.
const GROUP: usize = 256;
/// How often what is too old is looked for.
const PRUNE_EVERY: Duration = Duration::from_hours(1);
/// Objects that are thrown out at once where there is too much.
const PRUNED_AT_ONCE: i64 = 256;
/// SQLite's code for a full disk.
const SQLITE_FULL: &str = "13";

/// A change, and whoever waits for it; the answer tells whether anything changed.
pub(super) struct Order {
    change: Change,
    done: oneshot::Sender<Result<bool, StoreError>>,
}

enum Change {
    Put(Object, Vec<String>),
    SetMetadata { owner: String, kind: Kind, id: String, metadata: Metadata },
    Delete { owner: String, kind: Kind, id: String },
}

impl Store {
    /// Keeps an object, and the ids of its items to find it by. Returns when that is committed.
    pub async fn put(&self, object: Object, items: Vec<String>) -> Result<(), StoreError> {
        self.write(Change::Put(object, items)).await.map(drop)
    }

    /// Replaces an object's metadata; false if there is no such object.
    pub async fn set_metadata(
        &self,
        owner: &str,
        kind: Kind,
        id: &str,
        metadata: Metadata,
    ) -> Result<bool, StoreError> {
        self.write(Change::SetMetadata { owner: owner.to_owned(), kind, id: id.to_owned(), metadata }).await
    }

    /// Removes an object; false if there is no such object.
    pub async fn delete(&self, owner: &str, kind: Kind, id: &str) -> Result<bool, StoreError> {
        self.write(Change::Delete { owner: owner.to_owned(), kind, id: id.to_owned() }).await
    }

    async fn write(&self, change: Change) -> Result<bool, StoreError> {
        let (done, told) = oneshot::channel();
        self.writes.send(Order { change, done }).await.map_err(|_| StoreError::Stopped)?;
        told.await.map_err(|_| StoreError::Stopped)?
    }
}

/// The only connection that writes.
pub struct Writer {
    connection: SqliteConnection,
    orders: mpsc::Receiver<Order>,
    bounds: Bounds,
    kept: Kept,
}

/// How much is kept. One writer counts, so it need not be asked.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    objects: u64,
    bytes: u64,
}

impl Writer {
    pub(super) async fn new(
        mut connection: SqliteConnection,
        orders: mpsc::Receiver<Order>,
        bounds: Bounds,
    ) -> Result<Self, StoreError> {
        let row = sqlx::query("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM objects")
            .fetch_one(&mut connection)
            .await?;
        let kept =
            Kept { objects: row.try_get::<i64, _>(0)? as u64, bytes: row.try_get::<i64, _>(1)? as u64 };
        Ok(Self { connection, orders, bounds, kept })
    }

    /// Writes until told to stop, and then what is still waiting to be written.
    pub async fn run(mut self, stop: CancellationToken) {
        // The first tick comes at once.
        let mut hourly = tokio::time::interval(PRUNE_EVERY);
        hourly.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_pruning = false;
        let mut group = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = self.orders.recv_many(&mut group, GROUP) => match count {
                    0 => break,
                    _ => self.commit(&mut group).await,
                },
                () = stop.cancelled(), if !self.orders.is_closed() => self.orders.close(),
                _ = hourly.tick() => is_pruning = true,
                // In small steps, since nobody waits for it.
                () = std::future::ready(()), if is_pruning => is_pruning = self.prune().await,
            }
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the database was not closed in order");
        }
    }

    async fn commit(&mut self, group: &mut Vec<Order>) {
        match self.apply(group).await {
            Ok((changed, kept)) => {
                self.kept = kept;
                for (order, changed) in group.drain(..).zip(changed) {
                    let _ = order.done.send(Ok(changed));
                }
            }
            Err(error) => {
                let is_full = is_full(&error);
                for order in group.drain(..) {
                    let _ = order.done.send(Err(StoreError::Group(error.to_string(), is_full)));
                }
            }
        }
        if self.surplus().is_some() {
            self.prune().await;
        }
    }

    /// All changes or none, with how much is kept after them.
    async fn apply(&mut self, group: &[Order]) -> sqlx::Result<(Vec<bool>, Kept)> {
        // A transaction that began by reading could not be sure to write.
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let mut kept = self.kept;
        let mut changed = Vec::with_capacity(group.len());
        for order in group {
            changed.push(order.change.apply(&mut transaction, &mut kept).await?);
        }
        transaction.commit().await?;
        Ok((changed, kept))
    }

    /// Throws out some of what is too old or too much; true if there may be more.
    async fn prune(&mut self) -> bool {
        match self.try_prune(unix_seconds()).await {
            Ok(pruned) => pruned >= PRUNED_AT_ONCE,
            Err(error) => {
                tracing::error!(%error, "what was kept long enough could not be thrown out");
                false
            }
        }
    }

    async fn try_prune(&mut self, now: i64) -> sqlx::Result<i64> {
        let too_old = "DELETE FROM objects WHERE number IN \
             (SELECT number FROM objects WHERE created_at < ? ORDER BY created_at LIMIT ?) RETURNING bytes";
        let oldest = now - self.bounds.age.as_secs() as i64;
        let mut pruned = self.throw_out(sqlx::query(too_old).bind(oldest).bind(PRUNED_AT_ONCE)).await?;
        while pruned < PRUNED_AT_ONCE
            && let Some(surplus) = self.surplus()
        {
            let first = "DELETE FROM objects WHERE number IN \
                 (SELECT number FROM objects ORDER BY number LIMIT ?) RETURNING bytes";
            match self.throw_out(sqlx::query(first).bind(surplus)).await? {
                0 => break,
                gone => pruned += gone,
            }
        }
        if pruned > 0 {
            tracing::debug!(objects = pruned, "what was kept long enough is gone");
            sqlx::query("PRAGMA incremental_vacuum(1024)").execute(&mut self.connection).await?;
        }
        Ok(pruned)
    }

    /// How many objects to throw out next, if there are too many or too much is in them.
    fn surplus(&self) -> Option<i64> {
        let surplus = self.kept.objects.saturating_sub(self.bounds.objects) as i64;
        let is_too_much = self.kept.bytes > self.bounds.bytes;
        // Of what is large, few at a time: the newest must not go with the oldest.
        let least = i64::from(is_too_much);
        Some(surplus.clamp(least, PRUNED_AT_ONCE)).filter(|surplus| *surplus > 0)
    }

    async fn throw_out(
        &mut self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> sqlx::Result<i64> {
        let gone = query.fetch_all(&mut self.connection).await?;
        for row in &gone {
            self.kept.remove(row.try_get(0)?);
        }
        Ok(gone.len() as i64)
    }
}

impl Kept {
    fn add(&mut self, bytes: i64) {
        self.objects += 1;
        self.bytes += bytes as u64;
    }

    fn remove(&mut self, bytes: i64) {
        self.objects = self.objects.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }
}

impl Change {
    async fn apply(&self, connection: &mut SqliteConnection, kept: &mut Kept) -> sqlx::Result<bool> {
        match self {
            Self::Put(object, items) => {
                let bytes = put(connection, object, items).await?;
                kept.add(bytes);
                Ok(true)
            }
            Self::SetMetadata { owner, kind, id, metadata } => {
                let changed =
                    sqlx::query("UPDATE objects SET metadata = ? WHERE id = ? AND owner = ? AND kind = ?")
                        .bind(json(metadata))
                        .bind(id)
                        .bind(owner)
                        .bind(kind.as_str())
                        .execute(connection)
                        .await?;
                Ok(changed.rows_affected() > 0)
            }
            Self::Delete { owner, kind, id } => {
                let gone = sqlx::query(
                    "DELETE FROM objects WHERE id = ? AND owner = ? AND kind = ? RETURNING bytes",
                )
                .bind(id)
                .bind(owner)
                .bind(kind.as_str())
                .fetch_optional(connection)
                .await?;
                let Some(row) = gone else { return Ok(false) };
                kept.remove(row.try_get(0)?);
                Ok(true)
            }
        }
    }
}

/// Returns how many bytes the object has.
async fn put(connection: &mut SqliteConnection, object: &Object, items: &[String]) -> sqlx::Result<i64> {
    let bytes = (object.input.len() + object.body.len()) as i64;
    let number: i64 = sqlx::query_scalar(
        "INSERT INTO objects (kind, id, owner, created_at, model, metadata, previous, bytes, input, body) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING number",
    )
    .bind(object.kind.as_str())
    .bind(&object.id)
    .bind(&object.owner)
    .bind(object.created_at)
    .bind(&object.model)
    .bind(json(&object.metadata))
    .bind(&object.previous)
    .bind(bytes)
    .bind(&object.input)
    .bind(&object.body)
    .fetch_one(&mut *connection)
    .await?;
    for item in items {
        sqlx::query("INSERT OR IGNORE INTO items (id, object) VALUES (?, ?)")
            .bind(item)
            .bind(number)
            .execute(&mut *connection)
            .await?;
    }
    Ok(bytes)
}

fn json(metadata: &Metadata) -> String {
    serde_json::to_string(metadata).unwrap_or_else(|_| "{}".to_owned())
}

fn is_full(error: &sqlx::Error) -> IsFull {
    match error {
        sqlx::Error::Database(error) if error.code().as_deref() == Some(SQLITE_FULL) => IsFull::Yes,
        _ => IsFull::No,
    }
}
