//! What must be true of a PostgreSQL database.

use anyhow::Context;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor};

/// What would be wrong, and how often it is. References are the server's own affair.
const INVARIANTS: [(&str, &str); 10] = [
    (
        "objects whose size is not that of their texts",
        "SELECT COUNT(*) FROM objects WHERE bytes <> OCTET_LENGTH(input) + OCTET_LENGTH(body)",
    ),
    (
        "jobs whose size is not that of their texts",
        "SELECT COUNT(*) FROM jobs WHERE bytes <> OCTET_LENGTH(request) + COALESCE(OCTET_LENGTH(decision), 0) \
         + COALESCE(OCTET_LENGTH(result), 0) + COALESCE(OCTET_LENGTH(events), 0)",
    ),
    (
        "running jobs that nobody holds",
        "SELECT COUNT(*) FROM jobs WHERE state = 'running' AND holder IS NULL",
    ),
    (
        "queued jobs that somebody holds",
        "SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND holder IS NOT NULL",
    ),
    (
        "ended jobs without a result",
        "SELECT COUNT(*) FROM jobs WHERE finished_at_ms IS NOT NULL AND result IS NULL",
    ),
    (
        "running jobs that were never claimed",
        "SELECT COUNT(*) FROM jobs WHERE state = 'running' AND attempt = 0",
    ),
    (
        "files that are not as long as their pieces",
        "SELECT COUNT(*) FROM files WHERE status <> 'deleted' AND bytes <> \
         (SELECT COALESCE(SUM(OCTET_LENGTH(data)), 0) FROM file_chunks WHERE file = files.number)",
    ),
    (
        "files whose pieces have gaps",
        "SELECT COUNT(*) FROM files WHERE status <> 'deleted' AND \
         (SELECT COUNT(*) FROM file_chunks WHERE file = files.number) <> \
         (SELECT COALESCE(MAX(file_chunks.number) + 1, 0) FROM file_chunks WHERE file = files.number)",
    ),
    (
        "callers whose files are counted wrongly",
        "SELECT COUNT(*) FROM file_usage WHERE bytes <> (SELECT COALESCE(SUM(bytes), 0) FROM files \
         WHERE files.owner = file_usage.owner AND status <> 'deleted')",
    ),
    (
        "sums of what is kept that are not what is there",
        "SELECT (ROW(SUM(objects), SUM(object_bytes), SUM(ended), SUM(ended_bytes), SUM(unfinished)) <> ROW( \
         (SELECT COUNT(*) FROM objects), (SELECT COALESCE(SUM(bytes), 0) FROM objects), \
         (SELECT COUNT(*) FROM jobs WHERE finished_at_ms IS NOT NULL), \
         (SELECT COALESCE(SUM(bytes), 0) FROM jobs WHERE finished_at_ms IS NOT NULL), \
         (SELECT COUNT(*) FROM jobs WHERE finished_at_ms IS NULL)))::INTEGER::BIGINT FROM \
         (SELECT * FROM tallies UNION ALL SELECT '', -1, 0, 0, 0, 0, 0) AS tallies",
    ),
];

/// All that is wrong, in words.
pub async fn check(options: &PgConnectOptions) -> anyhow::Result<Vec<String>> {
    let mut connection = options.connect().await?;
    // All that is looked at is of one moment.
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let mut wrong = Vec::new();
    for (what, query) in INVARIANTS {
        let count: i64 = sqlx::query_scalar(query)
            .fetch_one(&mut connection)
            .await
            .with_context(|| format!("cannot look for {what}"))?;
        if count > 0 {
            wrong.push(format!("{count} {what}"));
        }
    }
    Ok(wrong)
}
