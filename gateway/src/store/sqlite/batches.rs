//! Batches in SQLite.

use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::store::batches::{CancelBatch, ClaimBatches, PutBatch, UpdateBatch};
use crate::store::objects::{metadata_json, metadata_of};
use crate::store::{Batch, BatchStatus, Page, Paged, StoreError};

pub async fn batch(readers: &SqlitePool, owner: &str, id: &str) -> Result<Option<Batch>, StoreError> {
    let row = sqlx::query("SELECT * FROM batches WHERE id = ? AND owner = ?")
        .bind(id)
        .bind(owner)
        .fetch_optional(readers)
        .await?;
    Ok(row.as_ref().map(read).transpose()?)
}

pub async fn batches(
    readers: &SqlitePool,
    owner: &str,
    page: &Page,
) -> Result<Option<Paged<Batch>>, StoreError> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new("SELECT * FROM batches WHERE owner = ");
    query.push_bind(owner);
    if let Some(id) = &page.after {
        let number: Option<i64> = sqlx::query_scalar("SELECT number FROM batches WHERE id = ? AND owner = ?")
            .bind(id)
            .bind(owner)
            .fetch_optional(readers)
            .await?;
        let Some(number) = number else { return Ok(None) };
        query.push(page.order.beyond()).push_bind(number);
    }
    query.push(page.order.by_number()).push(" LIMIT ").push_bind(page.limit as i64 + 1);
    let rows = query.build().fetch_all(readers).await?;
    let batches = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
    Ok(Some(Paged::of(batches, page.limit)))
}

fn read(row: &SqliteRow) -> sqlx::Result<Batch> {
    Ok(Batch {
        id: row.try_get("id")?,
        owner: row.try_get("owner")?,
        created_at: row.try_get("created_at")?,
        endpoint: row.try_get("endpoint")?,
        model: row.try_get("model")?,
        input_file_id: row.try_get("input_file_id")?,
        completion_window: row.try_get("completion_window")?,
        status: BatchStatus::parse(row.try_get("status")?)?,
        expires_at: row.try_get("expires_at")?,
        in_progress_at: row.try_get("in_progress_at")?,
        finalizing_at: row.try_get("finalizing_at")?,
        completed_at: row.try_get("completed_at")?,
        failed_at: row.try_get("failed_at")?,
        expired_at: row.try_get("expired_at")?,
        cancelling_at: row.try_get("cancelling_at")?,
        cancelled_at: row.try_get("cancelled_at")?,
        output_file_id: row.try_get("output_file_id")?,
        error_file_id: row.try_get("error_file_id")?,
        output_seconds: row.try_get("output_seconds")?,
        errors: row.try_get("errors")?,
        metadata: metadata_of(row.try_get("metadata")?)?,
    })
}

/// What changes in a batch's life, in the order in which both statements name it.
fn bind<'query>(
    query: sqlx::query::Query<'query, Sqlite, SqliteArguments>,
    batch: &Batch,
) -> sqlx::query::Query<'query, Sqlite, SqliteArguments> {
    query
        .bind(batch.model.clone())
        .bind(batch.status.as_str())
        .bind(batch.expires_at)
        .bind(batch.in_progress_at)
        .bind(batch.finalizing_at)
        .bind(batch.completed_at)
        .bind(batch.failed_at)
        .bind(batch.expired_at)
        .bind(batch.cancelling_at)
        .bind(batch.cancelled_at)
        .bind(batch.output_file_id.clone())
        .bind(batch.error_file_id.clone())
        .bind(batch.errors.clone())
        .bind(metadata_json(&batch.metadata))
}

pub async fn put(connection: &mut SqliteConnection, holder: &str, put: &mut PutBatch) -> sqlx::Result<()> {
    let batch = &put.batch;
    let query = sqlx::query(
        "INSERT INTO batches (model, status, expires_at, in_progress_at, finalizing_at, completed_at, failed_at, \
         expired_at, cancelling_at, cancelled_at, output_file_id, error_file_id, errors, metadata, id, owner, \
         created_at, endpoint, input_file_id, completion_window, output_seconds, holder) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
    );
    let inserted = bind(query, batch)
        .bind(&batch.id)
        .bind(&batch.owner)
        .bind(batch.created_at)
        .bind(&batch.endpoint)
        .bind(&batch.input_file_id)
        .bind(&batch.completion_window)
        .bind(batch.output_seconds)
        .bind(holder)
        .execute(connection)
        .await?;
    put.reply.set(inserted.rows_affected() > 0);
    Ok(())
}

pub async fn update(
    connection: &mut SqliteConnection,
    holder: &str,
    update: &mut UpdateBatch,
) -> sqlx::Result<()> {
    let query = sqlx::query(
        "UPDATE batches SET model = ?, status = ?, expires_at = ?, in_progress_at = ?, finalizing_at = ?, \
         completed_at = ?, failed_at = ?, expired_at = ?, cancelling_at = ?, cancelled_at = ?, output_file_id = ?, \
         error_file_id = ?, errors = ?, metadata = ? WHERE id = ? AND status = ? AND holder = ?",
    );
    let updated = bind(query, &update.batch)
        .bind(&update.batch.id)
        .bind(update.from.as_str())
        .bind(holder)
        .execute(connection)
        .await?;
    update.reply.set(updated.rows_affected() > 0);
    Ok(())
}

pub async fn cancel(connection: &mut SqliteConnection, cancel: &mut CancelBatch) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE batches SET status = 'cancelling', cancelling_at = ? \
         WHERE id = ? AND owner = ? AND status IN ('validating', 'in_progress')",
    )
    .bind(cancel.now)
    .bind(&cancel.id)
    .bind(&cancel.owner)
    .execute(&mut *connection)
    .await?;
    let row = sqlx::query("SELECT * FROM batches WHERE id = ? AND owner = ?")
        .bind(&cancel.id)
        .bind(&cancel.owner)
        .fetch_optional(connection)
        .await?;
    cancel.reply.set(row.as_ref().map(read).transpose()?);
    Ok(())
}

/// There is one queen: whoever else saw to a batch is gone.
pub async fn claim(
    connection: &mut SqliteConnection,
    holder: &str,
    claim: &mut ClaimBatches,
) -> sqlx::Result<()> {
    let mut rows = sqlx::query(
        "UPDATE batches SET holder = ?1 WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') \
         AND (holder IS NULL OR holder <> ?1) RETURNING *",
    )
    .bind(holder)
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|row| Ok((row.try_get::<i64, _>("number")?, read(&row)?)))
    .collect::<sqlx::Result<Vec<_>>>()?;
    rows.sort_unstable_by_key(|(number, _)| *number);
    claim.reply.set(rows.into_iter().map(|(_, batch)| batch).collect());
    Ok(())
}

/// Gives back all that this queen sees to.
pub async fn release_all(connection: &mut SqliteConnection, holder: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE batches SET holder = NULL \
         WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') AND holder = ?",
    )
    .bind(holder)
    .execute(connection)
    .await?;
    Ok(())
}
