//! Batches in PostgreSQL.

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{Postgres, QueryBuilder, Row};

use super::Readers;
use crate::store::batches::{CancelBatch, ClaimBatches, PutBatch, UpdateBatch};
use crate::store::objects::{metadata_json, metadata_of};
use crate::store::{Batch, BatchStatus, Page, Paged, StoreError};

pub async fn batch(readers: &Readers, owner: &str, id: &str) -> Result<Option<Batch>, StoreError> {
    readers
        .ask(async |pool| {
            let row = sqlx::query("SELECT * FROM batches WHERE id = $1 AND owner = $2")
                .bind(id)
                .bind(owner)
                .fetch_optional(pool)
                .await?;
            row.as_ref().map(read).transpose()
        })
        .await
}

pub async fn batches(
    readers: &Readers,
    owner: &str,
    page: &Page,
) -> Result<Option<Paged<Batch>>, StoreError> {
    readers
        .ask(async |pool| {
            let mut query: QueryBuilder<Postgres> = QueryBuilder::new("SELECT * FROM batches WHERE owner = ");
            query.push_bind(owner);
            if let Some(id) = &page.after {
                let number: Option<i64> =
                    sqlx::query_scalar("SELECT number FROM batches WHERE id = $1 AND owner = $2")
                        .bind(id)
                        .bind(owner)
                        .fetch_optional(pool)
                        .await?;
                let Some(number) = number else { return Ok(None) };
                query.push(page.order.beyond()).push_bind(number);
            }
            query.push(page.order.by_number()).push(" LIMIT ").push_bind(page.limit as i64 + 1);
            let rows = query.build().fetch_all(pool).await?;
            let batches = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
            Ok(Some(Paged::of(batches, page.limit)))
        })
        .await
}

fn read(row: &PgRow) -> sqlx::Result<Batch> {
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
    query: sqlx::query::Query<'query, Postgres, PgArguments>,
    batch: &Batch,
) -> sqlx::query::Query<'query, Postgres, PgArguments> {
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

pub async fn put(connection: &mut PgConnection, holder: &str, put: &mut PutBatch) -> sqlx::Result<()> {
    let batch = &put.batch;
    let query = sqlx::query(
        "INSERT INTO batches (model, status, expires_at, in_progress_at, finalizing_at, completed_at, failed_at, \
         expired_at, cancelling_at, cancelled_at, output_file_id, error_file_id, errors, metadata, id, owner, \
         created_at, endpoint, input_file_id, completion_window, output_seconds, holder) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22) ON CONFLICT (id) DO NOTHING",
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
    connection: &mut PgConnection,
    holder: &str,
    update: &mut UpdateBatch,
) -> sqlx::Result<()> {
    let query = sqlx::query(
        "UPDATE batches SET model = $1, status = $2, expires_at = $3, in_progress_at = $4, finalizing_at = $5, \
         completed_at = $6, failed_at = $7, expired_at = $8, cancelling_at = $9, cancelled_at = $10, output_file_id = $11, \
         error_file_id = $12, errors = $13, metadata = $14 WHERE id = $15 AND status = $16 AND holder = $17",
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

pub async fn cancel(connection: &mut PgConnection, cancel: &mut CancelBatch) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE batches SET status = 'cancelling', cancelling_at = $1 \
         WHERE id = $2 AND owner = $3 AND status IN ('validating', 'in_progress')",
    )
    .bind(cancel.now)
    .bind(&cancel.id)
    .bind(&cancel.owner)
    .execute(&mut *connection)
    .await?;
    let row = sqlx::query("SELECT * FROM batches WHERE id = $1 AND owner = $2")
        .bind(&cancel.id)
        .bind(&cancel.owner)
        .fetch_optional(connection)
        .await?;
    cancel.reply.set(row.as_ref().map(read).transpose()?);
    Ok(())
}

/// Takes those whose queen has no lease.
pub async fn claim(
    connection: &mut PgConnection,
    holder: &str,
    claim: &mut ClaimBatches,
) -> sqlx::Result<()> {
    let mut rows = sqlx::query(
        "UPDATE batches SET holder = $1 WHERE EXISTS (SELECT 1 FROM queens WHERE id = $1) AND number IN \
         (SELECT number FROM batches WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') \
         AND holder IS DISTINCT FROM $1 AND NOT EXISTS (SELECT 1 FROM queens WHERE id = batches.holder \
         AND lease_until >= clock_timestamp()) FOR UPDATE SKIP LOCKED) RETURNING *",
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
pub async fn release_all(connection: &mut PgConnection, holder: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE batches SET holder = NULL \
         WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') AND holder = $1",
    )
    .bind(holder)
    .execute(connection)
    .await?;
    Ok(())
}
