//! Objects in PostgreSQL. Each question names its owner: nobody sees what another keeps.

use protocol::openai::metadata::Metadata;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{Postgres, QueryBuilder, Row};

use super::Readers;
use super::tallies::Tally;
use crate::store::objects::{
    Delete, LARGEST_CONVERSATION, LONGEST_CONVERSATION, Put, SetMetadata, metadata_json, metadata_of,
};
use crate::store::{Kind, Object, Page, Paged, StoreError};

pub async fn get(readers: &Readers, owner: &str, kind: Kind, id: &str) -> Result<Option<Object>, StoreError> {
    readers
        .ask(async |pool| {
            let row = sqlx::query("SELECT * FROM objects WHERE id = $1 AND owner = $2 AND kind = $3")
                .bind(id)
                .bind(owner)
                .bind(kind.as_str())
                .fetch_optional(pool)
                .await?;
            row.as_ref().map(object).transpose()
        })
        .await
}

pub async fn list(
    readers: &Readers,
    owner: &str,
    kind: Kind,
    page: &Page,
    model: Option<&str>,
    metadata: &Metadata,
) -> Result<Option<Paged<Object>>, StoreError> {
    readers
        .ask(async |pool| {
            let mut query: QueryBuilder<Postgres> = QueryBuilder::new(
                "SELECT kind, id, owner, created_at, model, metadata, previous, '' AS input, body \
                 FROM objects WHERE owner = ",
            );
            query.push_bind(owner).push(" AND kind = ").push_bind(kind.as_str());
            if let Some(id) = &page.after {
                let Some(number) = number(pool, owner, kind, id).await? else { return Ok(None) };
                query.push(page.order.beyond()).push_bind(number);
            }
            if let Some(model) = model {
                query.push(" AND model = ").push_bind(model);
            }
            if !metadata.is_empty() {
                query.push(" AND pairs @> ").push_bind(pairs(metadata));
            }
            query.push(page.order.by_number()).push(" LIMIT ").push_bind(page.limit as i64 + 1);
            let rows = query.build().fetch_all(pool).await?;
            let objects = rows.iter().map(object).collect::<sqlx::Result<_>>()?;
            Ok(Some(Paged::of(objects, page.limit)))
        })
        .await
}

/// The turns that were found, the first one first.
pub async fn conversation(readers: &Readers, owner: &str, id: &str) -> Result<Vec<Object>, StoreError> {
    readers
        .ask(async |pool| {
            let rows = sqlx::query(
                "WITH RECURSIVE turns(number, previous, age, total) AS ( \
                     SELECT number, previous, 1, bytes FROM objects WHERE id = $1 AND owner = $2 AND kind = 'response' \
                     UNION ALL SELECT objects.number, objects.previous, age + 1, total + bytes FROM objects \
                     JOIN turns ON objects.id = turns.previous \
                     WHERE objects.owner = $2 AND objects.kind = 'response' AND age < $3 AND total + bytes <= $4 \
                 ) SELECT objects.* FROM turns JOIN objects USING (number) ORDER BY age DESC",
            )
            .bind(id)
            .bind(owner)
            .bind(LONGEST_CONVERSATION as i32)
            .bind(LARGEST_CONVERSATION)
            .fetch_all(pool)
            .await?;
            rows.iter().map(object).collect()
        })
        .await
}

pub async fn holder(readers: &Readers, owner: &str, item: &str) -> Result<Option<Object>, StoreError> {
    readers
        .ask(async |pool| {
            let row = sqlx::query(
                "SELECT objects.* FROM items JOIN objects ON objects.number = items.object \
                 WHERE items.id = $1 AND objects.owner = $2 ORDER BY objects.number DESC LIMIT 1",
            )
            .bind(item)
            .bind(owner)
            .fetch_optional(pool)
            .await?;
            row.as_ref().map(object).transpose()
        })
        .await
}

async fn number(pool: &PgPool, owner: &str, kind: Kind, id: &str) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar("SELECT number FROM objects WHERE id = $1 AND owner = $2 AND kind = $3")
        .bind(id)
        .bind(owner)
        .bind(kind.as_str())
        .fetch_optional(pool)
        .await
}

fn object(row: &PgRow) -> sqlx::Result<Object> {
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

/// Each pair as JSON, in which no character is one that PostgreSQL cannot hold.
pub fn pairs(metadata: &Metadata) -> Vec<String> {
    let json = |text: &str| serde_json::Value::from(text).to_string();
    metadata.iter().map(|(key, value)| format!("{}:{}", json(key), json(value))).collect()
}

pub async fn put(
    connection: &mut PgConnection,
    change: &mut Tally,
    puts: &mut [&mut Put],
) -> sqlx::Result<()> {
    for put in puts {
        let object = &put.object;
        let number: i64 = sqlx::query_scalar(
            "INSERT INTO objects (kind, id, owner, created_at, model, metadata, pairs, previous, bytes, input, body) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING number",
        )
        .bind(object.kind.as_str())
        .bind(&object.id)
        .bind(&object.owner)
        .bind(object.created_at)
        .bind(&object.model)
        .bind(metadata_json(&object.metadata))
        .bind(pairs(&object.metadata))
        .bind(&object.previous)
        .bind(object.bytes())
        .bind(&object.input)
        .bind(&object.body)
        .fetch_one(&mut *connection)
        .await?;
        if !put.items.is_empty() {
            sqlx::query("INSERT INTO items (id, object) SELECT id, $2 FROM UNNEST($1::TEXT[]) AS new(id) ON CONFLICT DO NOTHING")
                .bind(&put.items)
                .bind(number)
                .execute(&mut *connection)
                .await?;
        }
        change.objects += 1;
        change.object_bytes += object.bytes();
        put.reply.set(());
    }
    Ok(())
}

pub async fn set_metadata(connection: &mut PgConnection, set: &mut SetMetadata) -> sqlx::Result<()> {
    let changed = sqlx::query(
        "UPDATE objects SET metadata = $1, pairs = $2 WHERE id = $3 AND owner = $4 AND kind = $5",
    )
    .bind(metadata_json(&set.metadata))
    .bind(pairs(&set.metadata))
    .bind(&set.name.id)
    .bind(&set.name.owner)
    .bind(set.name.kind.as_str())
    .execute(connection)
    .await?;
    set.reply.set(changed.rows_affected() > 0);
    Ok(())
}

pub async fn delete(
    connection: &mut PgConnection,
    change: &mut Tally,
    delete: &mut Delete,
) -> sqlx::Result<()> {
    let bytes: Option<i64> =
        sqlx::query_scalar("DELETE FROM objects WHERE id = $1 AND owner = $2 AND kind = $3 RETURNING bytes")
            .bind(&delete.name.id)
            .bind(&delete.name.owner)
            .bind(delete.name.kind.as_str())
            .fetch_optional(connection)
            .await?;
    if let Some(bytes) = bytes {
        change.objects -= 1;
        change.object_bytes -= bytes;
    }
    delete.reply.set(bytes.is_some());
    Ok(())
}
