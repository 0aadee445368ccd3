//! Jobs come in, many at once as one statement.

use std::collections::HashSet;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::{job_columns, read};
use crate::store::jobs::{Enqueue, Found, compare};
use crate::store::postgres::tallies::Tally;
use crate::store::{Enqueued, Idempotency, NewJob};

/// Rows of one statement at most.
const ROWS: usize = 1024;

pub async fn enqueue(
    connection: &mut PgConnection,
    change: &mut Tally,
    holder: &str,
    writes: &mut [&mut Enqueue],
) -> sqlx::Result<()> {
    let jobs: Vec<&NewJob> = writes.iter().flat_map(|write| &write.jobs).collect();
    let mut inserted = HashSet::new();
    for rows in jobs.chunks(ROWS) {
        inserted.extend(insert(connection, holder, rows).await?);
    }
    change.unfinished += inserted.len() as i64;
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
async fn insert(connection: &mut PgConnection, holder: &str, jobs: &[&NewJob]) -> sqlx::Result<Vec<String>> {
    fn column<'job, T>(jobs: &[&'job NewJob], of: impl Fn(&'job NewJob) -> T) -> Vec<T> {
        jobs.iter().map(|job| of(job)).collect()
    }
    sqlx::query_scalar(
        "INSERT INTO jobs (id, kind, owner, model, band, state, attempt, holder, created_at_ms, deadline_at_ms, \
         idempotency_key, idempotency_digest, batch, line, bytes, request) \
         SELECT id, kind, owner, model, band, CASE WHEN is_claimed THEN 'running' ELSE 'queued' END, \
         is_claimed::INTEGER, CASE WHEN is_claimed THEN $1 END, created_at_ms, deadline_at_ms, \
         idempotency_key, idempotency_digest, batch, line, \
         OCTET_LENGTH(request), request \
         FROM UNNEST($2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::SMALLINT[], $7::BOOLEAN[], $8::BIGINT[], \
         $9::BIGINT[], $10::TEXT[], $11::TEXT[], $12::TEXT[], $13::BIGINT[], $14::TEXT[]) WITH ORDINALITY \
         AS new(id, kind, owner, model, band, is_claimed, created_at_ms, deadline_at_ms, idempotency_key, \
         idempotency_digest, batch, line, request, place) ORDER BY place \
         ON CONFLICT DO NOTHING RETURNING id",
    )
    .bind(holder)
    .bind(column(jobs, |job| job.id.as_str()))
    .bind(column(jobs, |job| job.kind.as_str()))
    .bind(column(jobs, |job| job.owner.as_str()))
    .bind(column(jobs, |job| job.model.as_str()))
    .bind(column(jobs, |job| i16::from(job.band)))
    .bind(column(jobs, |job| job.is_claimed))
    .bind(column(jobs, |job| job.created_at_ms))
    .bind(column(jobs, |job| job.deadline_at_ms))
    .bind(column(jobs, |job| job.idempotency.as_ref().map(|idempotency| idempotency.key.as_str())))
    .bind(column(jobs, |job| job.idempotency.as_ref().map(|idempotency| idempotency.digest.as_str())))
    .bind(column(jobs, |job| job.group.as_ref().map(|(group, _)| group.as_str())))
    .bind(column(jobs, |job| job.group.as_ref().map(|(_, line)| i64::from(*line))))
    .bind(column(jobs, |job| job.request.as_str()))
    .fetch_all(connection)
    .await
}

/// Those that stand in a job's way.
async fn find(connection: &mut PgConnection, job: &NewJob) -> sqlx::Result<Vec<Found>> {
    let query = concat!(
        "SELECT idempotency_key, idempotency_digest, ",
        job_columns!(),
        " FROM jobs WHERE id = $1 OR (owner = $2 AND idempotency_key = $3) OR (batch = $4 AND line = $5)"
    );
    let rows = sqlx::query(query)
        .bind(&job.id)
        .bind(&job.owner)
        .bind(job.idempotency.as_ref().map(|idempotency| &idempotency.key))
        .bind(job.group.as_ref().map(|(group, _)| group))
        .bind(job.group.as_ref().map(|(_, line)| i64::from(*line)))
        .fetch_all(connection)
        .await?;
    let found = |row: &PgRow| {
        let key: Option<String> = row.try_get("idempotency_key")?;
        let digest: Option<String> = row.try_get("idempotency_digest")?;
        let idempotency = key.zip(digest).map(|(key, digest)| Idempotency { key, digest });
        Ok(Found { job: read(row)?, idempotency })
    };
    rows.iter().map(found).collect()
}
