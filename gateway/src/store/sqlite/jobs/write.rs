//! Jobs are claimed, ended, given back, cancelled and taken from the dead.

use std::collections::{HashMap, HashSet};

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};

use super::{job_columns, read};
use crate::store::Outcome;
use crate::store::jobs::{Begin, Cancel, CancelGroup, Claim, Complete, Forget, RECLAIMS_MAX, Release};
use crate::store::sqlite::retention::Kept;

/// Rows of one statement at most.
const ROWS: usize = 128;

pub async fn claim(connection: &mut SqliteConnection, holder: &str, claim: &mut Claim) -> sqlx::Result<()> {
    let query = concat!(
        "UPDATE jobs SET state = 'running', attempt = attempt + 1, holder = ?, started_at_ms = NULL WHERE number IN \
         (SELECT number FROM jobs WHERE state = 'queued' ORDER BY band, number LIMIT ?) RETURNING number, ",
        job_columns!()
    );
    let mut rows = sqlx::query(query)
        .bind(holder)
        .bind(claim.limit)
        .fetch_all(connection)
        .await?
        .into_iter()
        .map(|row| Ok(((row.try_get::<u8, _>("band")?, row.try_get::<i64, _>("number")?), read(&row)?)))
        .collect::<sqlx::Result<Vec<_>>>()?;
    // What is returned comes in no order.
    rows.sort_unstable_by_key(|(place, _)| *place);
    claim.reply.set(rows.into_iter().map(|(_, job)| job).collect());
    Ok(())
}

pub async fn begin(connection: &mut SqliteConnection, holder: &str, begin: &Begin) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE jobs SET started_at_ms = ? WHERE id = ? AND attempt = ? AND state = 'running' AND holder = ?",
    )
    .bind(begin.now_ms)
    .bind(&begin.id)
    .bind(begin.attempt)
    .bind(holder)
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn complete(
    connection: &mut SqliteConnection,
    kept: &mut Kept,
    holder: &str,
    writes: &mut [&mut Complete],
) -> sqlx::Result<()> {
    for rows in writes.chunks_mut(ROWS) {
        // Of two that end one attempt the first is applied.
        let mut seen = HashSet::new();
        let (firsts, repeats): (Vec<_>, Vec<_>) =
            rows.iter_mut().map(|write| &mut **write).partition(|write| seen.insert(write.id.clone()));
        let mut applied = apply(connection, holder, &firsts).await?;
        for bytes in applied.values() {
            kept.unfinished = kept.unfinished.saturating_sub(1);
            kept.ended.add(*bytes);
        }
        for write in firsts.into_iter().chain(repeats) {
            let is_applied =
                applied.remove(&write.id).is_some() || was_applied(connection, holder, write).await?;
            write.reply.set(is_applied);
        }
    }
    Ok(())
}

/// Ends those that this queen holds; returns their ids and sizes.
async fn apply(
    connection: &mut SqliteConnection,
    holder: &str,
    writes: &[&mut Complete],
) -> sqlx::Result<HashMap<String, i64>> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
        "WITH ends(id, attempt, state, finished_at_ms, bytes, result, decision, events) AS (",
    );
    query.push_values(writes, |mut row, write| {
        let outcome = &write.outcome;
        row.push_bind(&write.id)
            .push_bind(write.attempt)
            .push_bind(outcome.state.as_str())
            .push_bind(outcome.finished_at_ms)
            .push_bind(outcome.bytes())
            .push_bind(&outcome.result)
            .push_bind(&outcome.decision)
            .push_bind(&outcome.events);
    });
    query.push(
        ") UPDATE jobs SET state = ends.state, finished_at_ms = ends.finished_at_ms, bytes = jobs.bytes + ends.bytes, \
         result = ends.result, decision = ends.decision, events = ends.events, is_cancelling = 0 FROM ends \
         WHERE jobs.id = ends.id AND jobs.attempt = ends.attempt AND jobs.state = 'running' AND jobs.holder = ",
    );
    query.push_bind(holder).push(" RETURNING id, bytes");
    // The statement is another one for each number of rows: nothing is won by keeping it.
    query
        .build_query_as()
        .persistent(false)
        .fetch_all(connection)
        .await
        .map(|rows| rows.into_iter().collect())
}

/// Whether this very outcome is the job's.
async fn was_applied(
    connection: &mut SqliteConnection,
    holder: &str,
    write: &Complete,
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE id = ? AND attempt = ? AND holder = ? AND state = ? \
         AND finished_at_ms = ? AND result = ?)",
    )
    .bind(&write.id)
    .bind(write.attempt)
    .bind(holder)
    .bind(write.outcome.state.as_str())
    .bind(write.outcome.finished_at_ms)
    .bind(&write.outcome.result)
    .fetch_one(connection)
    .await
}

pub async fn release(
    connection: &mut SqliteConnection,
    holder: &str,
    release: &mut Release,
) -> sqlx::Result<()> {
    let released = sqlx::query(
        "UPDATE jobs SET state = 'queued', holder = NULL, started_at_ms = NULL \
         WHERE id = ? AND attempt = ? AND state = 'running' AND holder = ?",
    )
    .bind(&release.id)
    .bind(release.attempt)
    .bind(holder)
    .execute(connection)
    .await?;
    release.reply.set(released.rows_affected() > 0);
    Ok(())
}

/// Gives back all that this queen holds.
pub async fn release_all(connection: &mut SqliteConnection, holder: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE jobs SET state = 'queued', holder = NULL, started_at_ms = NULL WHERE state = 'running' AND holder = ?",
    )
    .bind(holder)
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn cancel(
    connection: &mut SqliteConnection,
    kept: &mut Kept,
    cancel: &mut Cancel,
) -> sqlx::Result<()> {
    let ended = end(
        connection,
        &cancel.outcome,
        "id = ? AND owner = ? AND state = 'queued'",
        &[&cancel.id, &cancel.owner],
    )
    .await?;
    count_ended(&ended, kept)?;
    sqlx::query("UPDATE jobs SET is_cancelling = 1 WHERE id = ? AND owner = ? AND state = 'running'")
        .bind(&cancel.id)
        .bind(&cancel.owner)
        .execute(&mut *connection)
        .await?;
    let query = concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = ? AND owner = ?");
    let row = sqlx::query(query).bind(&cancel.id).bind(&cancel.owner).fetch_optional(connection).await?;
    cancel.reply.set(row.as_ref().map(read).transpose()?);
    Ok(())
}

pub async fn forget(
    connection: &mut SqliteConnection,
    kept: &mut Kept,
    forget: &mut Forget,
) -> sqlx::Result<()> {
    let bytes: Option<i64> = sqlx::query_scalar(
        "DELETE FROM jobs WHERE id = ? AND owner = ? AND finished_at_ms IS NOT NULL RETURNING bytes",
    )
    .bind(&forget.id)
    .bind(&forget.owner)
    .fetch_optional(connection)
    .await?;
    if let Some(bytes) = bytes {
        kept.ended.remove(bytes);
    }
    forget.reply.set(bytes.is_some());
    Ok(())
}

pub async fn cancel_group(
    connection: &mut SqliteConnection,
    kept: &mut Kept,
    cancel: &mut CancelGroup,
) -> sqlx::Result<()> {
    let queued = "batch = ? AND finished_at_ms IS NULL AND state = 'queued'";
    let ended = end(connection, &cancel.outcome, queued, &[&cancel.group]).await?;
    count_ended(&ended, kept)?;
    let marked = sqlx::query(
        "UPDATE jobs SET is_cancelling = 1 \
         WHERE batch = ? AND finished_at_ms IS NULL AND state = 'running' AND NOT is_cancelling",
    )
    .bind(&cancel.group)
    .execute(connection)
    .await?;
    cancel.reply.set(ended.len() as u64 + marked.rows_affected());
    Ok(())
}

/// Takes back what queens hold that are not this one; returns how many are queued again.
pub async fn reclaim(
    connection: &mut SqliteConnection,
    kept: &mut Kept,
    holder: &str,
    now_ms: i64,
) -> sqlx::Result<u64> {
    let worn_out = format!(
        "state = 'running' AND holder <> ? AND started_at_ms IS NOT NULL AND reclaims + 1 >= {RECLAIMS_MAX}"
    );
    let failed = end(connection, &Outcome::worn_out(now_ms), &worn_out, &[holder]).await?;
    count_ended(&failed, kept)?;
    if !failed.is_empty() {
        tracing::error!(jobs = failed.len(), "jobs were given up: queens died over them again and again");
    }
    let queued = sqlx::query(
        "UPDATE jobs SET state = 'queued', holder = NULL, started_at_ms = NULL, \
         reclaims = reclaims + (started_at_ms IS NOT NULL) \
         WHERE state = 'running' AND holder <> ?",
    )
    .bind(holder)
    .execute(connection)
    .await?;
    Ok(queued.rows_affected())
}

/// Ends all jobs of which a condition holds; their sizes.
async fn end(
    connection: &mut SqliteConnection,
    outcome: &Outcome,
    condition: &str,
    values: &[&str],
) -> sqlx::Result<Vec<SqliteRow>> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new("UPDATE jobs SET state = ");
    query
        .push_bind(outcome.state.as_str())
        .push(", holder = NULL, is_cancelling = 0, finished_at_ms = ")
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
    let mut parts = condition.split('?');
    query.push(parts.next().unwrap_or_default());
    for (part, value) in parts.zip(values) {
        query.push_bind(*value).push(part);
    }
    query.push(" RETURNING bytes").build().fetch_all(connection).await
}

fn count_ended(rows: &[SqliteRow], kept: &mut Kept) -> sqlx::Result<()> {
    for row in rows {
        kept.unfinished = kept.unfinished.saturating_sub(1);
        kept.ended.add(row.try_get(0)?);
    }
    Ok(())
}
