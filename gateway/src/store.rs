//! What must outlast the queen: what callers asked to be kept, and durable work. SQL stands here and nowhere else in this
//! crate.
//!
//! Reads go to a pool of connections that cannot write. Writes go through a bounded channel to the [`Writer`], which
//! commits in groups; whoever writes waits for the commit. So an answer whose last event is held back until then can be
//! asked for as soon as it was told, and there is no second place to look in.
//!
//! There are two databases behind it, a file and a server, each with the SQL that suits it, and one set of tests.

mod batches;
mod copy;
mod error;
mod files;
mod jobs;
mod location;
mod objects;
mod page;
mod postgres;
mod sqlite;
mod upkeep;
mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sqlx::sqlite::SqlitePool;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub use batches::{Batch, BatchStatus};
pub use copy::{Counts, migrate};
pub use error::StoreError;
pub use files::{FILE_CHUNK, FILE_SECONDS, File, FileStatus, Quota, Upload};
pub use jobs::{Enqueued, GroupCounts, Idempotency, Job, JobKind, JobState, NewJob, Outcome};
pub use location::Location;
pub use objects::{Kind, Object, read_kept};
pub use page::{Order, Page, Paged};
pub use upkeep::{backup, check};

/// Writes that wait for the writer at most; more wait for a place.
const QUEUED_WRITES: usize = 4096;
/// Pieces of files among them at most.
const QUEUED_PIECES: usize = 16;

/// The way to what is kept. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    writes: mpsc::Sender<write::Write>,
    signs: Arc<Signs>,
    /// Places for pieces of files that wait to be written.
    pieces: Arc<Semaphore>,
}

/// Which database it is, and the way to read it.
#[derive(Clone)]
enum Backend {
    Sqlite(SqlitePool),
    Postgres(postgres::Readers),
}

/// Asks whichever database it is by the function of the same name.
macro_rules! ask {
    ($store:ident, $room:ident::$question:ident($($argument:expr),*)) => {
        match &$store.backend {
            $crate::store::Backend::Sqlite(readers) => {
                $crate::store::sqlite::$room::$question(readers, $($argument),*).await
            }
            $crate::store::Backend::Postgres(readers) => {
                $crate::store::postgres::$room::$question(readers, $($argument),*).await
            }
        }
    };
}
use ask;

/// Runs for as long as the store is used.
pub struct Writer(Writes);

enum Writes {
    Sqlite(Box<sqlite::Writer>),
    Postgres(Box<postgres::Writer>),
}

impl Writer {
    /// Writes until told to stop, and then what is still waiting to be written.
    pub async fn run(self, stop: CancellationToken) {
        match self.0 {
            Writes::Sqlite(writer) => writer.run(stop).await,
            Writes::Postgres(writer) => writer.run(stop).await,
        }
    }
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

/// How long and how much is kept, of objects and of ended jobs each; what is oldest goes first. Files stay.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Older ones go.
    pub age: Duration,
    /// Entries.
    pub objects: u64,
    /// Bytes of what was said, asked and answered.
    pub bytes: u64,
    /// Bytes of all files; no more are taken.
    pub file_bytes: u64,
    /// Bytes of one owner's files; no more are taken.
    pub owner_file_bytes: u64,
}

impl Store {
    /// Opens the database, creating it or bringing its schema up to date. Nothing is written until the writer runs.
    pub async fn open(location: &Location, bounds: Bounds) -> anyhow::Result<(Self, Writer)> {
        let (writes, waiting) = mpsc::channel(QUEUED_WRITES);
        let signs = Arc::new(Signs::default());
        let (backend, writer) = match location {
            Location::Sqlite(path) => {
                let (readers, writer) = sqlite::open(path, waiting, bounds, signs.clone()).await?;
                (Backend::Sqlite(readers), Writes::Sqlite(Box::new(writer)))
            }
            Location::Postgres(options) => {
                let (readers, writer) = postgres::open(options, waiting, bounds, signs.clone()).await?;
                (Backend::Postgres(readers), Writes::Postgres(Box::new(writer)))
            }
        };
        let pieces = Arc::new(Semaphore::new(QUEUED_PIECES));
        Ok((Self { backend, writes, signs, pieces }, Writer(writer)))
    }
}

fn undecodable(what: String) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}
