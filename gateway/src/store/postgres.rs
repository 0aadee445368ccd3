//! A server that several queens may share. Each has a lease; whoever has none is dead, and what it held is done again.

pub(super) mod batches;
pub(super) mod check;
pub(super) mod copy;
pub(super) mod files;
pub(super) mod jobs;
mod keeper;
mod lanes;
mod lease;
pub(super) mod objects;
mod retention;
mod tallies;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, SqlSafeStr};
use tokio::sync::mpsc;

pub use lanes::Writer;
use lease::Lease;

use super::write::Write;
use super::{Bounds, Location, Signs, StoreError};

/// Reads at once.
const READERS: u32 = 8;
/// A connection that is not had within this is not had.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A server that is silent for longer is as good as gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// PostgreSQL's code for text that it cannot hold, which is a NUL.
const NO_TEXT: &str = "22021";

/// The way to read.
#[derive(Clone)]
pub(super) struct Readers {
    pool: PgPool,
    lease: Arc<Lease>,
}

impl Readers {
    /// Asks, but not for ever.
    async fn ask<T: Default>(
        &self,
        question: impl AsyncFnOnce(&PgPool) -> sqlx::Result<T>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(ANSWER_WITHIN, question(&self.pool)).await {
            Ok(Ok(answer)) => Ok(answer),
            // What cannot be written down was never kept.
            Ok(Err(error)) if code(&error).as_deref() == Some(NO_TEXT) => Ok(T::default()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(StoreError::Unavailable("it does not answer".to_owned())),
        }
    }
}

/// Connects, and brings the schema up to date.
pub(super) async fn open(
    options: &PgConnectOptions,
    waiting: mpsc::Receiver<Write>,
    bounds: Bounds,
    signs: Arc<Signs>,
) -> anyhow::Result<(Readers, Writer)> {
    let location = Location::Postgres(Box::new(options.clone()));
    let unusable = || format!("cannot use the database {location}");
    let options = options
        .clone()
        .application_name("queen-rbee")
        // That something is there already is no news.
        .options([("client_min_messages", "warning")]);
    // A pool would only say that it has no connection.
    let connecting = tokio::time::timeout(CONNECT_WITHIN, options.connect()).await;
    connecting.context("it does not answer").with_context(unusable)?.with_context(unusable)?.close().await?;
    let keeper = pool(4, options.clone());
    migrate(&keeper).await.with_context(|| format!("cannot bring the database {location} up to date"))?;
    let reading = options.clone().options([("default_transaction_read_only", "on")]);
    let writer = Writer::new(keeper, options, waiting, bounds, signs).await.with_context(unusable)?;
    Ok((Readers { pool: pool(READERS, reading), lease: writer.lease() }, writer))
}

fn pool(connections: u32, options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECT_WITHIN)
        .connect_lazy_with(options)
}

async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    let step = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let steps = vec![
        step(1, "objects", include_str!("../../migrations/postgres/0001_objects.sql")),
        step(2, "jobs", include_str!("../../migrations/postgres/0002_jobs.sql")),
        step(3, "files", include_str!("../../migrations/postgres/0003_files.sql")),
        step(4, "batch output", include_str!("../../migrations/postgres/0004_batch_output.sql")),
    ];
    // Of several queens that start at once one does it, and the others wait.
    Ok(Migrator::with_migrations(steps).run(pool).await?)
}

/// The code by which PostgreSQL says what is wrong.
fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned))
}
