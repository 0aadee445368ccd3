//! What must be true of an SQLite file.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Row};

/// What would be wrong, and how often it is.
const INVARIANTS: [(&str, &str); 9] = [
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
];

/// All that is wrong, in words.
pub async fn check(path: &Path) -> anyhow::Result<Vec<String>> {
    anyhow::ensure!(path.exists(), "there is no such file");
    let mut connection = SqliteConnectOptions::new().filename(path).read_only(true).connect().await?;
    // All that is looked at is of one moment.
    sqlx::query("BEGIN").execute(&mut connection).await?;
    let mut wrong = integrity(&mut connection).await?;
    for row in sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut connection).await? {
        let (table, parent): (String, String) = (row.try_get(0)?, row.try_get(2)?);
        wrong.push(format!("a row of {table} refers to one of {parent} that is not there"));
    }
    for (what, query) in INVARIANTS {
        let count: i64 = sqlx::query_scalar(query).fetch_one(&mut connection).await?;
        if count > 0 {
            wrong.push(format!("{count} {what}"));
        }
    }
    Ok(wrong)
}

async fn integrity(connection: &mut SqliteConnection) -> sqlx::Result<Vec<String>> {
    let mut words: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(connection).await?;
    words.retain(|word| word != "ok");
    Ok(words)
}
