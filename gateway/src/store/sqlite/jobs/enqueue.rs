//! Jobs come in, many at once as one statement.

use std::collections::HashSet;

use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::{job_columns, read};
use crate::store::jobs::{Enqueue, Found, compare};
use crate::store::sqlite::retention::Kept;
use crate::store::{Enqueued, Idempotency, JobState, NewJob};

/// Rows of one statement at most; SQLite takes 32,766 values.
const ROWS: usize = 128;

pub async fn enqueue(
    connection: &mut SqliteConnection,
    kept: &mut Kept,
    holder: &str,
    writes: &mut [&mut Enqueue],
) -> sqlx::Result<()> {
    let jobs: Vec<&NewJob> = writes.iter().flat_map(|write| &write.jobs).collect();
    let mut inserted = HashSet::new();
    for rows in jobs.chunks(ROWS) {
        inserted.extend(insert(connection, holder, rows).await?);
    }
    kept.unfinished += inserted.len() as u64;
    let mut verdicts = Vec::with_capacity(jobs.len());
    for job in jobs {
        // The first of two with one id is the one that was put.
        let verdict = if inserted.remove(&job.id) {
            Enqueued::New
        } else {
            compare(job, &find(connection, job).await?)
        };
        verdicts.push(verdict);
    }
    let mut verdicts = verdicts.into_iter();
    for write in writes {
        let own = verdicts.by_ref().take(write.jobs.len()).collect();
        write.reply.set(own);
    }
    Ok(())
}

/// Puts those that are not there; returns their ids.
async fn insert(
    connection: &mut SqliteConnection,
    holder: &str,
    jobs: &[&NewJob],
) -> sqlx::Result<Vec<String>> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
        "INSERT INTO jobs (id, kind, owner, model, band, state, attempt, holder, created_at_ms, deadline_at_ms, \
         idempotency_key, idempotency_digest, batch, line, bytes, request) ",
    );
    query.push_values(jobs, |mut row, job| {
        let state = if job.is_claimed { JobState::Running } else { JobState::Queued };
        row.push_bind(&job.id)
            .push_bind(job.kind.as_str())
            .push_bind(&job.owner)
            .push_bind(&job.model)
            .push_bind(job.band)
            .push_bind(state.as_str())
            .push_bind(i64::from(job.is_claimed))
            .push_bind(job.is_claimed.then_some(holder))
            .push_bind(job.created_at_ms)
            .push_bind(job.deadline_at_ms)
            .push_bind(job.idempotency.as_ref().map(|idempotency| &idempotency.key))
            .push_bind(job.idempotency.as_ref().map(|idempotency| &idempotency.digest))
            .push_bind(job.group.as_ref().map(|(group, _)| group))
            .push_bind(job.group.as_ref().map(|(_, line)| *line))
            .push_bind(job.request.len() as i64)
            .push_bind(&job.request);
    });
    query.push(" ON CONFLICT DO NOTHING RETURNING id");
    // The statement is another one for each number of rows: nothing is won by keeping it.
    query.build_query_scalar().persistent(false).fetch_all(connection).await
}

/// Those that stand in a job's way.
async fn find(connection: &mut SqliteConnection, job: &NewJob) -> sqlx::Result<Vec<Found>> {
    let query = concat!(
        "SELECT idempotency_key, idempotency_digest, ",
        job_columns!(),
        " FROM jobs WHERE id = ? OR (owner = ? AND idempotency_key = ?) OR (batch = ? AND line = ?)"
    );
    let rows = sqlx::query(query)
        .bind(&job.id)
        .bind(&job.owner)
        .bind(job.idempotency.as_ref().map(|idempotency| &idempotency.key))
        .bind(job.group.as_ref().map(|(group, _)| group))
        .bind(job.group.as_ref().map(|(_, line)| *line))
        .fetch_all(connection)
        .await?;
    let found = |row| {
        let idempotency = Option::zip(row_get(row, "idempotency_key")?, row_get(row, "idempotency_digest")?)
            .map(|(key, digest)| Idempotency { key, digest });
        Ok(Found { job: read(row)?, idempotency })
    };
    rows.iter().map(found).collect()
}

fn row_get(row: &sqlx::sqlite::SqliteRow, column: &str) -> sqlx::Result<Option<String>> {
    row.try_get(column)
}
