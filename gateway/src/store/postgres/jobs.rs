//! Jobs in PostgreSQL: what is asked about them.

pub(super) mod enqueue;
pub(super) mod write;

use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder, Row};

use super::{Readers, tallies};
use crate::store::{GroupCounts, Job, JobKind, JobState, Page, Paged, StoreError};

/// What a [`Job`] is made of, after the name of its table.
macro_rules! job_columns {
    () => {
        "jobs.id, jobs.kind, jobs.owner, jobs.model, jobs.band, jobs.created_at_ms, jobs.deadline_at_ms, jobs.request, \
         jobs.state, jobs.attempt, jobs.started_at_ms, jobs.finished_at_ms, jobs.batch, jobs.line, jobs.decision, \
         jobs.result, jobs.is_cancelling"
    };
}
use job_columns;

/// The same without texts, which lie apart where they are long.
const LISTED: &str = "SELECT id, kind, owner, model, band, created_at_ms, deadline_at_ms, '' AS request, state, attempt, \
     started_at_ms, finished_at_ms, batch, line, NULL::TEXT AS decision, NULL::TEXT AS result, is_cancelling \
     FROM jobs WHERE owner = ";

pub async fn job(readers: &Readers, owner: &str, id: &str) -> Result<Option<Job>, StoreError> {
    readers
        .ask(async |pool| {
            let query = concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = $1 AND owner = $2");
            let row = sqlx::query(query).bind(id).bind(owner).fetch_optional(pool).await?;
            row.as_ref().map(read).transpose()
        })
        .await
}

pub async fn job_events(readers: &Readers, owner: &str, id: &str) -> Result<Option<String>, StoreError> {
    readers
        .ask(async |pool| {
            let events: Option<Option<String>> =
                sqlx::query_scalar("SELECT events FROM jobs WHERE id = $1 AND owner = $2")
                    .bind(id)
                    .bind(owner)
                    .fetch_optional(pool)
                    .await?;
            Ok(events.flatten())
        })
        .await
}

pub async fn jobs(
    readers: &Readers,
    owner: &str,
    kind: JobKind,
    state: Option<JobState>,
    model: Option<&str>,
    page: &Page,
) -> Result<Option<Paged<Job>>, StoreError> {
    readers
        .ask(async |pool| {
            let mut query: QueryBuilder<Postgres> = QueryBuilder::new(LISTED);
            query.push_bind(owner).push(" AND kind = ").push_bind(kind.as_str());
            if let Some(id) = &page.after {
                let number: Option<i64> =
                    sqlx::query_scalar("SELECT number FROM jobs WHERE id = $1 AND owner = $2 AND kind = $3")
                        .bind(id)
                        .bind(owner)
                        .bind(kind.as_str())
                        .fetch_optional(pool)
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
            let rows = query.build().fetch_all(pool).await?;
            let jobs = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
            Ok(Some(Paged::of(jobs, page.limit)))
        })
        .await
}

pub async fn group(
    readers: &Readers,
    group: &str,
    after_line: Option<u32>,
    limit: u32,
) -> Result<Vec<Job>, StoreError> {
    readers
        .ask(async |pool| {
            let query = concat!(
                "SELECT ",
                job_columns!(),
                " FROM jobs WHERE batch = $1 AND line > $2 ORDER BY line LIMIT $3"
            );
            let rows = sqlx::query(query)
                .bind(group)
                .bind(after_line.map_or(-1, i64::from))
                .bind(i64::from(limit))
                .fetch_all(pool)
                .await?;
            rows.iter().map(read).collect()
        })
        .await
}

pub async fn group_counts(readers: &Readers, group: &str) -> Result<GroupCounts, StoreError> {
    readers
        .ask(async |pool| {
            let rows = sqlx::query("SELECT state, COUNT(*) FROM jobs WHERE batch = $1 GROUP BY state")
                .bind(group)
                .fetch_all(pool)
                .await?;
            let mut counts = GroupCounts::default();
            for row in &rows {
                counts.add(JobState::parse(row.try_get(0)?)?, row.try_get::<i64, _>(1)? as u64);
            }
            Ok(counts)
        })
        .await
}

pub async fn held(readers: &Readers) -> Result<Vec<(String, u32)>, StoreError> {
    let jobs = readers.ask(async |pool| {
        sqlx::query_as("SELECT id, attempt FROM jobs WHERE state = 'running' AND holder = $1")
            .bind(readers.lease.holder())
            .fetch_all(pool)
            .await
    });
    let jobs: Vec<(String, i64)> = jobs.await?;
    Ok(jobs.into_iter().map(|(id, attempt)| (id, attempt as u32)).collect())
}

pub async fn cancelling(readers: &Readers) -> Result<Vec<String>, StoreError> {
    readers
        .ask(async |pool| {
            sqlx::query_scalar(
                "SELECT id FROM jobs WHERE state = 'running' AND holder = $1 AND is_cancelling",
            )
            .bind(readers.lease.holder())
            .fetch_all(pool)
            .await
        })
        .await
}

pub async fn unfinished(readers: &Readers) -> Result<u64, StoreError> {
    readers.ask(async |pool| Ok(tallies::total(pool).await?.unfinished.max(0) as u64)).await
}

fn read(row: &PgRow) -> sqlx::Result<Job> {
    let batch: Option<String> = row.try_get("batch")?;
    let line: Option<i64> = row.try_get("line")?;
    Ok(Job {
        id: row.try_get("id")?,
        kind: JobKind::parse(row.try_get("kind")?)?,
        owner: row.try_get("owner")?,
        model: row.try_get("model")?,
        band: row.try_get::<i16, _>("band")? as u8,
        created_at_ms: row.try_get("created_at_ms")?,
        deadline_at_ms: row.try_get("deadline_at_ms")?,
        request: row.try_get("request")?,
        state: JobState::parse(row.try_get("state")?)?,
        attempt: row.try_get::<i64, _>("attempt")? as u32,
        started_at_ms: row.try_get("started_at_ms")?,
        finished_at_ms: row.try_get("finished_at_ms")?,
        group: batch.zip(line.map(|line| line as u32)),
        decision: row.try_get("decision")?,
        result: row.try_get("result")?,
        is_cancelling: row.try_get("is_cancelling")?,
    })
}
