//! The embedded database: one file, one writer, readers beside it.

pub(super) mod batches;
pub(super) mod check;
pub(super) mod copy;
pub(super) mod files;
pub(super) mod jobs;
pub(super) mod objects;
mod retention;
mod writer;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqlSafeStr};
use tokio::sync::mpsc;

pub use writer::Writer;

use super::write::Write;
use super::{Bounds, Signs};

/// Reads at once.
const READERS: u32 = 4;
/// Whoever else has the file open gets this long to let go of it.
const BUSY_WITHIN: Duration = Duration::from_secs(5);

/// Opens the file, creating it or bringing its schema up to date.
pub(super) async fn open(
    path: &Path,
    waiting: mpsc::Receiver<Write>,
    bounds: Bounds,
    signs: Arc<Signs>,
) -> anyhow::Result<(SqlitePool, Writer)> {
    let unusable = || format!("cannot open the database {}", path.display());
    create_private(path).with_context(unusable)?;
    let reading = SqliteConnectOptions::new()
        .filename(path)
        .pragma("temp_store", "MEMORY")
        .busy_timeout(BUSY_WITHIN)
        .read_only(true);
    let mut connection = writing(path).connect().await.with_context(unusable)?;
    migrate(&mut connection)
        .await
        .with_context(|| format!("cannot bring the database {} up to date", path.display()))?;
    let readers = SqlitePoolOptions::new().max_connections(READERS).connect_lazy_with(reading);
    let writer = Writer::new(connection, waiting, bounds, signs).await.with_context(unusable)?;
    Ok((readers, writer))
}

/// How the one connection that writes is opened.
fn writing(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .pragma("temp_store", "MEMORY")
        .busy_timeout(BUSY_WITHIN)
        .journal_mode(SqliteJournalMode::Wal)
        // Where a commit must outlive a crash of the machine, the writer asks for more.
        .synchronous(SqliteSynchronous::Normal)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        // What is deleted is overwritten: it was said in confidence.
        .pragma("secure_delete", "ON")
        .pragma("journal_size_limit", "67108864")
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
    let step = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let steps = vec![
        step(1, "objects", include_str!("../../migrations/sqlite/0001_objects.sql")),
        step(2, "jobs", include_str!("../../migrations/sqlite/0002_jobs.sql")),
        step(3, "files", include_str!("../../migrations/sqlite/0003_files.sql")),
        step(4, "batch output", include_str!("../../migrations/sqlite/0004_batch_output.sql")),
    ];
    Ok(Migrator::with_migrations(steps).run(connection).await?)
}
