//! Jobs in SQLite: what is asked about them.

pub(super) mod enqueue;
pub(super) mod write;

use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::store::{GroupCounts, Job, JobKind, JobState, Page, Paged, StoreError};

/// What a [`Job`] is made of.
macro_rules! job_columns {
    () => {
        "id, kind, owner, model, band, created_at_ms, deadline_at_ms, request, state, attempt, started_at_ms, \
         finished_at_ms, batch, line, decision, result, is_cancelling"
    };
}
use job_columns;

/// The same without texts, which lie beyond a row's first page where they are long.
const LISTED: &str = "SELECT id, kind, owner, model, band, created_at_ms, deadline_at_ms, '' AS request, state, attempt, \
     started_at_ms, finished_at_ms, batch, line, NULL AS decision, NULL AS result, is_cancelling FROM jobs WHERE owner = ";

pub async fn job(readers: &SqlitePool, owner: &str, id: &str) -> Result<Option<Job>, StoreError> {
    let query = concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = ? AND owner = ?");
    let row = sqlx::query(query).bind(id).bind(owner).fetch_optional(readers).await?;
    Ok(row.as_ref().map(read).transpose()?)
}

pub async fn job_events(readers: &SqlitePool, owner: &str, id: &str) -> Result<Option<String>, StoreError> {
    let events: Option<Option<String>> =
        sqlx::query_scalar("SELECT events FROM jobs WHERE id = ? AND owner = ?")
            .bind(id)
            .bind(owner)
            .fetch_optional(readers)
            .await?;
    Ok(events.flatten())
}

pub async fn jobs(
    readers: &SqlitePool,
    owner: &str,
    kind: JobKind,
    state: Option<JobState>,
    model: Option<&str>,
    page: &Page,
) -> Result<Option<Paged<Job>>, StoreError> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(LISTED);
    query.push_bind(owner).push(" AND kind = ").push_bind(kind.as_str());
    if let Some(id) = &page.after {
        let number: Option<i64> =
            sqlx::query_scalar("SELECT number FROM jobs WHERE id = ? AND owner = ? AND kind = ?")
                .bind(id)
                .bind(owner)
                .bind(kind.as_str())
                .fetch_optional(readers)
                .await?;
        let Some(number) = number else { return Ok(None) };
        query.push(page.order.beyond()).push_bind(number);
    }
    if let Some(state) = state {
        query.push(" AND state = ").push_bind(state.as_str());
    }
    if let Some(model) = model {
        query.push(" AND model = ").push_bind(model);
    }
    query.push(page.order.by_number()).push(" LIMIT ").push_bind(page.limit as i64 + 1);
    let rows = query.build().fetch_all(readers).await?;
    let jobs = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
    Ok(Some(Paged::of(jobs, page.limit)))
}

pub async fn group(
    readers: &SqlitePool,
    group: &str,
    after_line: Option<u32>,
    limit: u32,
) -> Result<Vec<Job>, StoreError> {
    let query =
        concat!("SELECT ", job_columns!(), " FROM jobs WHERE batch = ? AND line > ? ORDER BY line LIMIT ?");
    let rows = sqlx::query(query)
        .bind(group)
        .bind(after_line.map_or(-1, i64::from))
        .bind(limit)
        .fetch_all(readers)
        .await?;
    Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
}

pub async fn group_counts(readers: &SqlitePool, group: &str) -> Result<GroupCounts, StoreError> {
    let rows = sqlx::query("SELECT state, COUNT(*) FROM jobs WHERE batch = ? GROUP BY state")
        .bind(group)
        .fetch_all(readers)
        .await?;
    let mut counts = GroupCounts::default();
    for row in &rows {
        counts.add(JobState::parse(row.try_get(0)?)?, row.try_get::<i64, _>(1)? as u64);
    }
    Ok(counts)
}

/// All that run are this queen's: another one's were taken back when she began.
pub async fn held(readers: &SqlitePool) -> Result<Vec<(String, u32)>, StoreError> {
    Ok(sqlx::query_as("SELECT id, attempt FROM jobs WHERE state = 'running'").fetch_all(readers).await?)
}

pub async fn cancelling(readers: &SqlitePool) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar("SELECT id FROM jobs WHERE state = 'running' AND is_cancelling")
        .fetch_all(readers)
        .await?)
}

fn read(row: &SqliteRow) -> sqlx::Result<Job> {
    let group = Option::zip(row.try_get("batch")?, row.try_get("line")?);
    Ok(Job {
        id: row.try_get("id")?,
        kind: JobKind::parse(row.try_get("kind")?)?,
        owner: row.try_get("owner")?,
        model: row.try_get("model")?,
        band: row.try_get("band")?,
        created_at_ms: row.try_get("created_at_ms")?,
        deadline_at_ms: row.try_get("deadline_at_ms")?,
        request: row.try_get("request")?,
        state: JobState::parse(row.try_get("state")?)?,
        attempt: row.try_get("attempt")?,
        started_at_ms: row.try_get("started_at_ms")?,
        finished_at_ms: row.try_get("finished_at_ms")?,
        group,
        decision: row.try_get("decision")?,
        result: row.try_get("result")?,
        is_cancelling: row.try_get("is_cancelling")?,
    })
}
