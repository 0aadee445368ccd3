//! Jobs are claimed, ended, given back, cancelled and taken from the dead.
//!
//! The server learns late how many jobs run or wait, and would rather go through all of these than look up each of many by
//! its id. `state || ''` keeps the indexes of running and queued jobs out of where they are not meant.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Postgres, QueryBuilder, Row};

use super::{job_columns, read};
use crate::clock::unix_millis;
use crate::store::Outcome;
use crate::store::jobs::{Begin, Cancel, CancelGroup, Claim, Complete, Forget, RECLAIMS_MAX, Release};
use crate::store::postgres::tallies::{self, Tally};

/// A queen that has lost her lease claims nothing: it would be taken from her again.
pub async fn claim(connection: &mut PgConnection, holder: &str, claim: &mut Claim) -> sqlx::Result<()> {
    let query = concat!(
        "WITH next AS MATERIALIZED (SELECT number FROM jobs WHERE state = 'queued' \
         AND EXISTS (SELECT 1 FROM queens WHERE id = $1) ORDER BY band, number LIMIT $2 FOR UPDATE OF jobs SKIP LOCKED) \
         UPDATE jobs SET state = 'running', attempt = attempt + 1, holder = $1, started_at_ms = NULL \
         FROM next WHERE jobs.number = next.number RETURNING jobs.number, ",
        job_columns!()
    );
    let mut rows = sqlx::query(query)
        .bind(holder)
        .bind(i64::from(claim.limit))
        .fetch_all(connection)
        .await?
        .into_iter()
        .map(|row| Ok(((row.try_get::<i16, _>("band")?, row.try_get::<i64, _>("number")?), read(&row)?)))
        .collect::<sqlx::Result<Vec<_>>>()?;
    // What is returned comes in no order.
    rows.sort_unstable_by_key(|(place, _)| *place);
    claim.reply.set(rows.into_iter().map(|(_, job)| job).collect());
    Ok(())
}

pub async fn begin(connection: &mut PgConnection, holder: &str, begin: &Begin) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE jobs SET started_at_ms = $1 WHERE id = $2 AND attempt = $3 AND state = 'running' AND holder = $4",
    )
    .bind(begin.now_ms)
    .bind(&begin.id)
    .bind(i64::from(begin.attempt))
    .bind(holder)
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn complete(
    connection: &mut PgConnection,
    change: &mut Tally,
    holder: &str,
    writes: &mut [&mut Complete],
) -> sqlx::Result<()> {
    // Of two that end one attempt the first is applied.
    let mut seen = HashSet::new();
    let (firsts, repeats): (Vec<_>, Vec<_>) =
        writes.iter_mut().map(|write| &mut **write).partition(|write| seen.insert(write.id.clone()));
    let mut applied =
        if firsts.is_empty() { HashMap::new() } else { apply(connection, holder, &firsts).await? };
    change.ended(&applied.values().copied().collect::<Vec<_>>());
    for write in firsts.into_iter().chain(repeats) {
        let is_applied =
            applied.remove(&write.id).is_some() || was_applied(connection, holder, write).await?;
        write.reply.set(is_applied);
    }
    Ok(())
}

/// Ends those that this queen holds; returns their ids and sizes. Rows are locked in order, so that two groups do not wait
/// for each other.
async fn apply(
    connection: &mut PgConnection,
    holder: &str,
    writes: &[&mut Complete],
) -> sqlx::Result<HashMap<String, i64>> {
    fn column<'write, T>(writes: &'write [&mut Complete], of: impl Fn(&'write Complete) -> T) -> Vec<T> {
        writes.iter().map(|write| of(write)).collect()
    }
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "WITH ends AS (SELECT * FROM UNNEST($2::TEXT[], $3::BIGINT[], $4::TEXT[], $5::BIGINT[], $6::BIGINT[], \
         $7::TEXT[], $8::TEXT[], $9::TEXT[]) \
         AS ends(id, attempt, state, finished_at_ms, bytes, result, decision, events)), \
         held AS MATERIALIZED (SELECT jobs.number, ends.* FROM ends JOIN jobs ON jobs.id = ends.id \
         AND jobs.attempt = ends.attempt WHERE jobs.state || '' = 'running' AND jobs.holder = $1 \
         ORDER BY jobs.number FOR UPDATE OF jobs) \
         UPDATE jobs SET state = held.state, finished_at_ms = held.finished_at_ms, bytes = jobs.bytes + held.bytes, \
         result = held.result, decision = held.decision, events = held.events, is_cancelling = FALSE \
         FROM held WHERE jobs.number = held.number RETURNING jobs.id, jobs.bytes",
    )
    .bind(holder)
    .bind(column(writes, |write| write.id.as_str()))
    .bind(column(writes, |write| i64::from(write.attempt)))
    .bind(column(writes, |write| write.outcome.state.as_str()))
    .bind(column(writes, |write| write.outcome.finished_at_ms))
    .bind(column(writes, |write| write.outcome.bytes()))
    .bind(column(writes, |write| write.outcome.result.as_str()))
    .bind(column(writes, |write| write.outcome.decision.as_deref()))
    .bind(column(writes, |write| write.outcome.events.as_str()))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Whether this very outcome is the job's.
async fn was_applied(connection: &mut PgConnection, holder: &str, write: &Complete) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE id = $1 AND attempt = $2 AND holder = $3 AND state = $4 \
         AND finished_at_ms = $5 AND result = $6)",
    )
    .bind(&write.id)
    .bind(i64::from(write.attempt))
    .bind(holder)
    .bind(write.outcome.state.as_str())
    .bind(write.outcome.finished_at_ms)
    .bind(&write.outcome.result)
    .fetch_one(connection)
    .await
}

pub async fn release(connection: &mut PgConnection, holder: &str, release: &mut Release) -> sqlx::Result<()> {
    let released = sqlx::query(
        "UPDATE jobs SET state = 'queued', holder = NULL, started_at_ms = NULL \
         WHERE id = $1 AND attempt = $2 AND state || '' = 'running' AND holder = $3",
    )
    .bind(&release.id)
    .bind(i64::from(release.attempt))
    .bind(holder)
    .execute(connection)
    .await?;
    release.reply.set(released.rows_affected() > 0);
    Ok(())
}

/// Gives back all that this queen holds.
pub async fn release_all(connection: &mut PgConnection, holder: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE jobs SET state = 'queued', holder = NULL, started_at_ms = NULL \
         WHERE state = 'running' AND holder = $1",
    )
    .bind(holder)
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn cancel(
    connection: &mut PgConnection,
    change: &mut Tally,
    cancel: &mut Cancel,
) -> sqlx::Result<()> {
    // Whoever claims or ends it meanwhile is waited for, so that it is either queued or running from here on.
    sqlx::query("SELECT 1 FROM jobs WHERE id = $1 AND owner = $2 FOR UPDATE")
        .bind(&cancel.id)
        .bind(&cancel.owner)
        .execute(&mut *connection)
        .await?;
    let mut query = ending(&cancel.outcome);
    query.push("id = ").push_bind(&cancel.id).push(" AND owner = ").push_bind(&cancel.owner);
    change.ended(&end(connection, query.push(" AND state || '' = 'queued'")).await?);
    sqlx::query(
        "UPDATE jobs SET is_cancelling = TRUE WHERE id = $1 AND owner = $2 AND state || '' = 'running'",
    )
    .bind(&cancel.id)
    .bind(&cancel.owner)
    .execute(&mut *connection)
    .await?;
    let query = concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = $1 AND owner = $2");
    let row = sqlx::query(query).bind(&cancel.id).bind(&cancel.owner).fetch_optional(connection).await?;
    cancel.reply.set(row.as_ref().map(read).transpose()?);
    Ok(())
}

pub async fn forget(
    connection: &mut PgConnection,
    change: &mut Tally,
    forget: &mut Forget,
) -> sqlx::Result<()> {
    let bytes: Option<i64> = sqlx::query_scalar(
        "DELETE FROM jobs WHERE id = $1 AND owner = $2 AND finished_at_ms IS NOT NULL RETURNING bytes",
    )
    .bind(&forget.id)
    .bind(&forget.owner)
    .fetch_optional(connection)
    .await?;
    if let Some(bytes) = bytes {
        change.ended -= 1;
        change.ended_bytes -= bytes;
    }
    forget.reply.set(bytes.is_some());
    Ok(())
}

pub async fn cancel_group(
    connection: &mut PgConnection,
    change: &mut Tally,
    cancel: &mut CancelGroup,
) -> sqlx::Result<()> {
    sqlx::query("SELECT 1 FROM jobs WHERE batch = $1 AND finished_at_ms IS NULL ORDER BY number FOR UPDATE")
        .bind(&cancel.group)
        .execute(&mut *connection)
        .await?;
    let mut query = ending(&cancel.outcome);
    query.push("finished_at_ms IS NULL AND state || '' = 'queued' AND batch = ").push_bind(&cancel.group);
    let ended = end(connection, &mut query).await?;
    change.ended(&ended);
    let marked = sqlx::query(
        "UPDATE jobs SET is_cancelling = TRUE \
         WHERE batch = $1 AND finished_at_ms IS NULL AND state || '' = 'running' AND NOT is_cancelling",
    )
    .bind(&cancel.group)
    .execute(connection)
    .await?;
    cancel.reply.set(ended.len() as u64 + marked.rows_affected());
    Ok(())
}

/// [`take_back`] as a transaction of its own.
pub async fn reclaim(connection: &mut PgConnection, holder: &str) -> sqlx::Result<u64> {
    let mut transaction = connection.begin().await?;
    let mut change = Tally::default();
    let reclaimed = take_back(&mut transaction, &mut change, holder).await?;
    // The sum of what dead queens left is a row that all may add to: it is touched where there is something to add only.
    tallies::add(&mut transaction, "", 0, change).await?;
    tallies::join(&mut transaction).await?;
    transaction.commit().await?;
    Ok(reclaimed)
}

/// Ends the leases of dead queens and takes back what they hold; returns how many are queued again.
pub async fn take_back(connection: &mut PgConnection, change: &mut Tally, holder: &str) -> sqlx::Result<u64> {
    let dead = sqlx::query("DELETE FROM queens WHERE lease_until < clock_timestamp() AND id <> $1")
        .bind(holder)
        .execute(&mut *connection)
        .await?;
    // Their names are asked for first: who comes to live meanwhile must not be taken for dead.
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT holder FROM jobs WHERE state = 'running' \
         AND NOT EXISTS (SELECT 1 FROM queens WHERE id = jobs.holder)",
    )
    .fetch_all(&mut *connection)
    .await?;
    if missing.is_empty() {
        return Ok(0);
    }
    let mut query = ending(&Outcome::worn_out(unix_millis()));
    query
        .push("number IN (SELECT number FROM jobs WHERE state = 'running' AND holder = ANY(")
        .push_bind(&missing);
    query
        .push(") AND started_at_ms IS NOT NULL AND reclaims + 1 >= ")
        .push_bind(RECLAIMS_MAX)
        .push(" FOR UPDATE SKIP LOCKED)");
    let failed = end(connection, &mut query).await?;
    change.ended(&failed);
    if !failed.is_empty() {
        tracing::error!(jobs = failed.len(), "jobs were given up: queens died over them again and again");
    }
    let queued = sqlx::query(
        "UPDATE jobs SET state = 'queued', holder = NULL, started_at_ms = NULL, \
         reclaims = reclaims + (started_at_ms IS NOT NULL)::INTEGER \
         WHERE number IN (SELECT number FROM jobs WHERE state = 'running' AND holder = ANY($1) \
         AND (reclaims + 1 < $2 OR started_at_ms IS NULL) FOR UPDATE SKIP LOCKED)",
    )
    .bind(&missing)
    .bind(RECLAIMS_MAX)
    .execute(connection)
    .await?;
    let queued = queued.rows_affected();
    tracing::warn!(
        queens = dead.rows_affected(),
        jobs = queued,
        "queens have died; their running jobs are queued again"
    );
    Ok(queued)
}

/// A statement that ends the jobs of which the condition holds that is still to be said.
fn ending(outcome: &Outcome) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("UPDATE jobs SET state = ");
    query
        .push_bind(outcome.state.as_str())
        .push(", holder = NULL, is_cancelling = FALSE, finished_at_ms = ")
        .push_bind(outcome.finished_at_ms)
        .push(", bytes = bytes + ")
        .push_bind(outcome.bytes())
        .push(", result = ")
        .push_bind(&outcome.result)
        .push(", decision = ")
        .push_bind(&outcome.decision)
        .push(", events = ")
        .push_bind(&outcome.events)
        .push(" WHERE ");
    query
}

/// Runs it; the sizes of what ended.
async fn end(connection: &mut PgConnection, ending: &mut QueryBuilder<Postgres>) -> sqlx::Result<Vec<i64>> {
    ending.push(" RETURNING bytes").build_query_scalar().fetch_all(connection).await
}
