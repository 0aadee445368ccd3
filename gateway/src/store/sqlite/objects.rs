//! Objects in SQLite. Each question names its owner: nobody sees what another keeps.

use protocol::openai::metadata::Metadata;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};

use super::retention::Kept;
use crate::store::objects::{
    Delete, LARGEST_CONVERSATION, LONGEST_CONVERSATION, Put, SetMetadata, metadata_json, metadata_of,
};
use crate::store::{Kind, Object, Page, Paged, StoreError};

pub async fn get(
    readers: &SqlitePool,
    owner: &str,
    kind: Kind,
    id: &str,
) -> Result<Option<Object>, StoreError> {
    let row = sqlx::query("SELECT * FROM objects WHERE id = ? AND owner = ? AND kind = ?")
        .bind(id)
        .bind(owner)
        .bind(kind.as_str())
        .fetch_optional(readers)
        .await?;
    Ok(row.as_ref().map(object).transpose()?)
}

pub async fn list(
    readers: &SqlitePool,
    owner: &str,
    kind: Kind,
    page: &Page,
    model: Option<&str>,
    metadata: &Metadata,
) -> Result<Option<Paged<Object>>, StoreError> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
        "SELECT kind, id, owner, created_at, model, metadata, previous, '' AS input, body FROM objects WHERE owner = ",
    );
    query.push_bind(owner).push(" AND kind = ").push_bind(kind.as_str());
    if let Some(id) = &page.after {
        let Some(number) = number(readers, owner, kind, id).await? else { return Ok(None) };
        query.push(page.order.beyond()).push_bind(number);
    }
    if let Some(model) = model {
        query.push(" AND model = ").push_bind(model);
    }
    for (key, value) in metadata {
        query.push(" AND EXISTS (SELECT 1 FROM json_each(objects.metadata) WHERE key = ").push_bind(key);
        query.push(" AND value = ").push_bind(value).push(")");
    }
    query.push(page.order.by_number()).push(" LIMIT ").push_bind(page.limit as i64 + 1);
    let rows = query.build().fetch_all(readers).await?;
    let objects = rows.iter().map(object).collect::<sqlx::Result<_>>()?;
    Ok(Some(Paged::of(objects, page.limit)))
}

/// The turns that were found, the first one first.
pub async fn conversation(readers: &SqlitePool, owner: &str, id: &str) -> Result<Vec<Object>, StoreError> {
    let rows = sqlx::query(
        "WITH RECURSIVE turns(number, previous, age, total) AS ( \
             SELECT number, previous, 1, bytes FROM objects WHERE id = ? AND owner = ? AND kind = 'response' \
             UNION ALL SELECT objects.number, objects.previous, age + 1, total + bytes FROM objects \
             JOIN turns ON objects.id = turns.previous \
             WHERE objects.owner = ? AND objects.kind = 'response' AND age < ? AND total + bytes <= ? \
         ) SELECT objects.* FROM turns JOIN objects USING (number) ORDER BY age DESC",
    )
    .bind(id)
    .bind(owner)
    .bind(owner)
    .bind(LONGEST_CONVERSATION)
    .bind(LARGEST_CONVERSATION)
    .fetch_all(readers)
    .await?;
    Ok(rows.iter().map(object).collect::<sqlx::Result<_>>()?)
}

pub async fn holder(readers: &SqlitePool, owner: &str, item: &str) -> Result<Option<Object>, StoreError> {
    let row = sqlx::query(
        "SELECT objects.* FROM items JOIN objects ON objects.number = items.object \
         WHERE items.id = ? AND objects.owner = ? ORDER BY objects.number DESC LIMIT 1",
    )
    .bind(item)
    .bind(owner)
    .fetch_optional(readers)
    .await?;
    Ok(row.as_ref().map(object).transpose()?)
}

async fn number(readers: &SqlitePool, owner: &str, kind: Kind, id: &str) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar("SELECT number FROM objects WHERE id = ? AND owner = ? AND kind = ?")
        .bind(id)
        .bind(owner)
        .bind(kind.as_str())
        .fetch_optional(readers)
        .await
}

fn object(row: &SqliteRow) -> sqlx::Result<Object> {
    Ok(Object {
        kind: Kind::parse(row.try_get("kind")?)?,
        id: row.try_get("id")?,
        owner: row.try_get("owner")?,
        created_at: row.try_get("created_at")?,
        model: row.try_get("model")?,
        metadata: metadata_of(row.try_get("metadata")?)?,
        previous: row.try_get("previous")?,
        input: row.try_get("input")?,
        body: row.try_get("body")?,
    })
}

pub async fn put(connection: &mut SqliteConnection, kept: &mut Kept, put: &mut Put) -> sqlx::Result<()> {
    let object = &put.object;
    let number: i64 = sqlx::query_scalar(
        "INSERT INTO objects (kind, id, owner, created_at, model, metadata, previous, bytes, input, body) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING number",
    )
    .bind(object.kind.as_str())
    .bind(&object.id)
    .bind(&object.owner)
    .bind(object.created_at)
    .bind(&object.model)
    .bind(metadata_json(&object.metadata))
    .bind(&object.previous)
    .bind(object.bytes())
    .bind(&object.input)
    .bind(&object.body)
    .fetch_one(&mut *connection)
    .await?;
    for item in &put.items {
        sqlx::query("INSERT OR IGNORE INTO items (id, object) VALUES (?, ?)")
            .bind(item)
            .bind(number)
            .execute(&mut *connection)
            .await?;
    }
    kept.objects.add(object.bytes());
    put.reply.set(());
    Ok(())
}

pub async fn set_metadata(connection: &mut SqliteConnection, change: &mut SetMetadata) -> sqlx::Result<()> {
    let changed = sqlx::query("UPDATE objects SET metadata = ? WHERE id = ? AND owner = ? AND kind = ?")
        .bind(metadata_json(&change.metadata))
        .bind(&change.name.id)
        .bind(&change.name.owner)
        .bind(change.name.kind.as_str())
        .execute(connection)
        .await?;
    change.reply.set(changed.rows_affected() > 0);
    Ok(())
}

pub async fn delete(
    connection: &mut SqliteConnection,
    kept: &mut Kept,
    delete: &mut Delete,
) -> sqlx::Result<()> {
    let bytes: Option<i64> =
        sqlx::query_scalar("DELETE FROM objects WHERE id = ? AND owner = ? AND kind = ? RETURNING bytes")
            .bind(&delete.name.id)
            .bind(&delete.name.owner)
            .bind(delete.name.kind.as_str())
            .fetch_optional(connection)
            .await?;
    if let Some(bytes) = bytes {
        kept.objects.remove(bytes);
    }
    delete.reply.set(bytes.is_some());
    Ok(())
}
