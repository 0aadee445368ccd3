//! What callers asked to be kept. SQL stands here and nowhere else in this crate.
//!
//! Reads go to a pool of connections that cannot write. Writes go through a bounded channel to the one [`Writer`], which
//! commits in groups; whoever writes waits for the commit. So an answer whose last event is held back until then can be
//! asked for as soon as it was told, and there is no second place to look in.

mod read;
mod write;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use protocol::openai::metadata::Metadata;
use protocol::{ApiError, ErrorCode};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqlSafeStr};
use tokio::sync::mpsc;

pub use read::{Order, Page, Paged};
pub use write::Writer;

/// Writes that wait for the writer at most; more wait for a place.
const QUEUED_WRITES: usize = 256;
/// Reads at once.
const READERS: u32 = 4;

/// The way to what is kept. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    readers: SqlitePool,
    writes: mpsc::Sender<write::Order>,
}

/// How long and how much is kept; what is oldest goes first.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub age: Duration,
    pub objects: u64,
    pub bytes: u64,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    ChatCompletion,
    Response,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletion => "chat.completion",
            Self::Response => "response",
        }
    }
}

/// One object to be kept, or one that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub kind: Kind,
    pub id: String,
    /// Who alone may see it.
    pub owner: String,
    /// Seconds since 1970.
    pub created_at: i64,
    pub model: String,
    pub metadata: Metadata,
    /// The id of the object that this one goes on from.
    pub previous: Option<String>,
    /// What was asked with, a JSON array.
    pub input: String,
    /// The answer, JSON.
    pub body: String,
}

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("the writer has ended")]
    Stopped,
    #[error("a group of writes failed: {0}")]
    Group(String, IsFull),
}

/// Whether the disk is full, which its owner can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsFull {
    Yes,
    No,
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the queen's database cannot be used");
        if matches!(error, StoreError::Group(_, IsFull::Yes)) {
            let message = "The answer could not be kept: the server's disk is full.";
            return Self::new(ErrorCode::InsufficientDisk, message);
        }
        if matches!(error, StoreError::Stopped) {
            return Self::new(ErrorCode::ShuttingDown, "The server is stopping.").with_retry_after_ms(5000);
        }
        Self::new(ErrorCode::Internal, "The server's database cannot be used; the server's log tells why.")
    }
}

impl Store {
    /// Opens the database, creating it or bringing its schema up to date. Nothing is written until the writer runs.
    pub async fn open(path: &Path, bounds: Bounds) -> anyhow::Result<(Self, Writer)> {
        let unusable = || format!("cannot open the database {}", path.display());
        create_private(path).with_context(unusable)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .pragma("temp_store", "MEMORY")
            .busy_timeout(Duration::from_secs(5));
        let reading = options.clone().read_only(true);
        let writing = options
            .journal_mode(SqliteJournalMode::Wal)
            // A crash of the machine may cost the last commits, never the database.
            .synchronous(SqliteSynchronous::Normal)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            // What is deleted is overwritten: it was said in confidence.
            .pragma("secure_delete", "ON")
            .pragma("journal_size_limit", "67108864");
        let mut connection = writing.connect().await.with_context(unusable)?;
        migrate(&mut connection)
            .await
            .with_context(|| format!("cannot bring the database {} up to date", path.display()))?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_lazy_with(reading);
        let (writes, orders) = mpsc::channel(QUEUED_WRITES);
        let writer = Writer::new(connection, orders, bounds).await.with_context(unusable)?;
        Ok((Self { readers, writes }, writer))
    }
}

/// Only the queen's own user may read what callers said. The files that SQLite puts beside it take over its mode.
fn create_private(path: &Path) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    Ok(())
}

async fn migrate(connection: &mut SqliteConnection) -> anyhow::Result<()> {
    let objects = include_str!("../migrations/0001_objects.sql").into_sql_str();
    let steps = vec![Migration::new(1, "objects".into(), MigrationType::Simple, objects, false)];
    Ok(Migrator::with_migrations(steps).run(connection).await?)
}

#[cfg(test)]
mod tests;
