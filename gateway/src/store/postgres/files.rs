//! Files in PostgreSQL. Each question names its owner: nobody sees what another keeps.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Postgres, QueryBuilder, Row};

use super::Readers;
use crate::store::files::{AppendFile, Appended, BeginFile, DeleteFile, FinishFile, Quota, UPLOAD_SECONDS};
use crate::store::{Bounds, File, FileStatus, Page, Paged, StoreError};

/// Pieces that are thrown out at once.
pub const PIECES_AT_ONCE: i64 = 16;

pub async fn file(readers: &Readers, owner: &str, id: &str, now: i64) -> Result<Option<File>, StoreError> {
    readers
        .ask(async |pool| {
            let row = sqlx::query(
                "SELECT * FROM files WHERE id = $1 AND owner = $2 AND status = 'uploaded' \
                 AND (expires_at IS NULL OR expires_at > $3)",
            )
            .bind(id)
            .bind(owner)
            .bind(now)
            .fetch_optional(pool)
            .await?;
            row.as_ref().map(read).transpose()
        })
        .await
}

pub async fn chunk(
    readers: &Readers,
    owner: &str,
    id: &str,
    number: u32,
    now: i64,
) -> Result<Option<Vec<u8>>, StoreError> {
    readers
        .ask(async |pool| {
            sqlx::query_scalar(
                "SELECT data FROM files JOIN file_chunks ON file_chunks.file = files.number \
                 WHERE id = $1 AND owner = $2 AND status = 'uploaded' AND (expires_at IS NULL OR expires_at > $3) \
                 AND file_chunks.number = $4",
            )
            .bind(id)
            .bind(owner)
            .bind(now)
            .bind(number as i32)
            .fetch_optional(pool)
            .await
        })
        .await
}

pub async fn files(
    readers: &Readers,
    owner: &str,
    purpose: Option<&str>,
    page: &Page,
    now: i64,
) -> Result<Option<Paged<File>>, StoreError> {
    readers
        .ask(async |pool| {
            let mut query: QueryBuilder<Postgres> =
                QueryBuilder::new("SELECT * FROM files WHERE status = 'uploaded' AND owner = ");
            query.push_bind(owner).push(" AND (expires_at IS NULL OR expires_at > ").push_bind(now).push(")");
            if let Some(id) = &page.after {
                let number: Option<i64> =
                    sqlx::query_scalar("SELECT number FROM files WHERE id = $1 AND owner = $2")
                        .bind(id)
                        .bind(owner)
                        .fetch_optional(pool)
                        .await?;
                let Some(number) = number else { return Ok(None) };
                query.push(page.order.beyond()).push_bind(number);
            }
            if let Some(purpose) = purpose {
                query.push(" AND purpose = ").push_bind(purpose);
            }
            query.push(page.order.by_number()).push(" LIMIT ").push_bind(page.limit as i64 + 1);
            let rows = query.build().fetch_all(pool).await?;
            let files = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
            Ok(Some(Paged::of(files, page.limit)))
        })
        .await
}

fn read(row: &PgRow) -> sqlx::Result<File> {
    Ok(File {
        id: row.try_get("id")?,
        owner: row.try_get("owner")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        filename: row.try_get("filename")?,
        purpose: row.try_get("purpose")?,
        bytes: row.try_get::<i64, _>("bytes")? as u64,
        status: FileStatus::parse(row.try_get("status")?)?,
    })
}

pub async fn begin(connection: &mut PgConnection, begin: &mut BeginFile) -> sqlx::Result<()> {
    let file = &begin.file;
    sqlx::query(
        "INSERT INTO files (id, owner, created_at, expires_at, filename, purpose, bytes, status) \
         VALUES ($1, $2, $3, $4, $5, $6, 0, 'uploading')",
    )
    .bind(&file.id)
    .bind(&file.owner)
    .bind(file.created_at)
    .bind(file.expires_at)
    .bind(&file.filename)
    .bind(&file.purpose)
    .execute(&mut *connection)
    .await?;
    sqlx::query("INSERT INTO file_usage (owner, bytes) VALUES ($1, 0) ON CONFLICT DO NOTHING")
        .bind(&file.owner)
        .execute(connection)
        .await?;
    begin.reply.set(());
    Ok(())
}

pub async fn append(
    connection: &mut PgConnection,
    bounds: &Bounds,
    append: &mut AppendFile,
) -> sqlx::Result<()> {
    let appended = try_append(connection, bounds, append).await?;
    append.reply.set(appended);
    Ok(())
}

async fn try_append(
    connection: &mut PgConnection,
    bounds: &Bounds,
    append: &AppendFile,
) -> sqlx::Result<Appended> {
    let bytes = append.data.len() as i64;
    // Of several uploads of one owner each sees what the others have added.
    sqlx::query("SELECT 1 FROM file_usage WHERE owner = $1 FOR UPDATE")
        .bind(&append.owner)
        .execute(&mut *connection)
        .await?;
    let (own, all): (i64, i64) = sqlx::query_as(
        "SELECT COALESCE((SELECT bytes FROM file_usage WHERE owner = $1), 0)::BIGINT, \
         COALESCE((SELECT SUM(bytes) FROM file_usage), 0)::BIGINT",
    )
    .bind(&append.owner)
    .fetch_one(&mut *connection)
    .await?;
    if own + bytes > bounds.owner_file_bytes as i64 {
        return Ok(Appended::Over(Quota::Owner(bounds.owner_file_bytes)));
    }
    if all + bytes > bounds.file_bytes as i64 {
        return Ok(Appended::Over(Quota::All(bounds.file_bytes)));
    }
    let number: Option<i64> = sqlx::query_scalar(
        "UPDATE files SET bytes = bytes + $1 WHERE id = $2 AND owner = $3 AND status = 'uploading' RETURNING number",
    )
    .bind(bytes)
    .bind(&append.id)
    .bind(&append.owner)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(number) = number else { return Ok(Appended::Gone) };
    sqlx::query("INSERT INTO file_chunks (file, number, data) VALUES ($1, $2, $3)")
        .bind(number)
        .bind(append.number as i32)
        .bind(&append.data)
        .execute(&mut *connection)
        .await?;
    count(connection, &append.owner, bytes).await?;
    Ok(Appended::Kept)
}

pub async fn finish(connection: &mut PgConnection, finish: &mut FinishFile) -> sqlx::Result<()> {
    // A repeated word of a file that is complete is true.
    let row = sqlx::query(
        "UPDATE files SET status = 'uploaded' WHERE id = $1 AND owner = $2 AND status <> 'deleted' RETURNING *",
    )
    .bind(&finish.id)
    .bind(&finish.owner)
    .fetch_optional(connection)
    .await?;
    finish.reply.set(row.as_ref().map(read).transpose()?);
    Ok(())
}

pub async fn delete(connection: &mut PgConnection, delete: &mut DeleteFile) -> sqlx::Result<()> {
    let bytes: Option<i64> = sqlx::query_scalar(
        "UPDATE files SET status = 'deleted' WHERE id = $1 AND owner = $2 AND status = 'uploaded' \
         AND (expires_at IS NULL OR expires_at > $3) RETURNING bytes",
    )
    .bind(&delete.id)
    .bind(&delete.owner)
    .bind(delete.now)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(bytes) = bytes {
        count(connection, &delete.owner, -bytes).await?;
    }
    delete.reply.set(bytes.is_some());
    Ok(())
}

/// Files whose time is over, and uploads that came to nothing.
pub async fn expire(connection: &mut PgConnection, now: i64) -> sqlx::Result<()> {
    let rows = sqlx::query_as(
        "UPDATE files SET status = 'deleted' WHERE (status = 'uploaded' AND expires_at <= $1) \
         OR (status = 'uploading' AND created_at < $2) RETURNING owner, bytes",
    )
    .bind(now)
    .bind(now - UPLOAD_SECONDS)
    .fetch_all(&mut *connection)
    .await?;
    count_out(connection, rows).await
}

async fn count_out(connection: &mut PgConnection, gone: Vec<(String, i64)>) -> sqlx::Result<()> {
    for (owner, bytes) in gone {
        count(connection, &owner, -bytes).await?;
    }
    Ok(())
}

async fn count(connection: &mut PgConnection, owner: &str, bytes: i64) -> sqlx::Result<()> {
    sqlx::query("UPDATE file_usage SET bytes = bytes + $1 WHERE owner = $2")
        .bind(bytes)
        .bind(owner)
        .execute(connection)
        .await?;
    Ok(())
}

/// Throws out some pieces of deleted files; how many.
pub async fn throw_out(connection: &mut PgConnection) -> sqlx::Result<i64> {
    let gone = sqlx::query(
        "DELETE FROM file_chunks WHERE (file, number) IN (SELECT file_chunks.file, file_chunks.number FROM files \
         JOIN file_chunks ON file_chunks.file = files.number WHERE status = 'deleted' LIMIT $1)",
    )
    .bind(PIECES_AT_ONCE)
    .execute(&mut *connection)
    .await?
    .rows_affected() as i64;
    if gone < PIECES_AT_ONCE {
        sqlx::query(
            "DELETE FROM files WHERE status = 'deleted' \
             AND NOT EXISTS (SELECT 1 FROM file_chunks WHERE file = files.number)",
        )
        .execute(connection)
        .await?;
    }
    Ok(gone)
}
