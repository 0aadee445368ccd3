//! What must outlast the queen: what callers asked to be kept, and durable work. SQL stands here and nowhere else in this
//! crate.
//!
//! Reads go to a pool of connections that cannot write. Writes go through a bounded channel to the one [`Writer`], which
//! commits in groups; whoever writes waits for the commit. So an answer whose last event is held back until then can be
//! asked for as soon as it was told, and there is no second place to look in.

mod error;
mod jobs;
mod objects;
mod page;
mod sqlite;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sqlx::sqlite::SqlitePool;
use tokio::sync::{Notify, mpsc};

pub use error::StoreError;
pub use jobs::{Enqueued, GroupCounts, Idempotency, Job, JobKind, JobState, NewJob, Outcome};
pub use objects::{Kind, Object};
pub use page::{Order, Page, Paged};
pub use sqlite::Writer;

/// Writes that wait for the writer at most; more wait for a place.
const QUEUED_WRITES: usize = 4096;

/// The way to what is kept. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    writes: mpsc::Sender<write::Write>,
    signs: Arc<Signs>,
}

/// Which database it is, and the way to read it.
#[derive(Clone)]
enum Backend {
    Sqlite(SqlitePool),
}

/// What the writer lets be known without being asked.
#[derive(Default)]
struct Signs {
    /// There may be something to claim.
    work: Arc<Notify>,
    /// Outcomes that came too late to be applied.
    fenced: AtomicU64,
    /// Jobs that are queued or running.
    unfinished: AtomicU64,
}

/// How long and how much is kept, of objects and of ended jobs each; what is oldest goes first.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Older ones go.
    pub age: Duration,
    /// Entries.
    pub objects: u64,
    /// Bytes of what was said, asked and answered.
    pub bytes: u64,
}

impl Store {
    /// Opens the database, creating it or bringing its schema up to date. Nothing is written until the writer runs.
    pub async fn open(path: &Path, bounds: Bounds) -> anyhow::Result<(Self, Writer)> {
        let (writes, waiting) = mpsc::channel(QUEUED_WRITES);
        let signs = Arc::new(Signs::default());
        let (readers, writer) = sqlite::open(path, waiting, bounds, signs.clone()).await?;
        Ok((Self { backend: Backend::Sqlite(readers), writes, signs }, writer))
    }
}

fn undecodable(what: String) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

#[cfg(test)]
mod tests;
