//! Questions to the store. Each names its owner: nobody sees what another keeps.

use protocol::openai::metadata::Metadata;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::{Kind, Object, Store, StoreError};

/// Responses of one conversation at most, and their bytes: whatever is read is in memory at once.
const LONGEST_CONVERSATION: u32 = 1000;
const LARGEST_CONVERSATION: i64 = 64 << 20;

/// In which order a list comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// Which part of a list is wanted.
#[derive(Debug, Clone)]
pub struct Page {
    /// Entries at most.
    pub limit: usize,
    pub order: Order,
    /// The id of the entry after which it begins.
    pub after: Option<String>,
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Paged<T> {
    pub entries: Vec<T>,
    /// Whether there are more.
    pub has_more: bool,
}

impl<T> Paged<T> {
    /// Cuts off what was read to see whether there is more.
    pub fn of(mut entries: Vec<T>, limit: usize) -> Self {
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Self { entries, has_more }
    }
}

impl Store {
    /// One object.
    pub async fn get(&self, owner: &str, kind: Kind, id: &str) -> Result<Option<Object>, StoreError> {
        let row = sqlx::query("SELECT * FROM objects WHERE id = ? AND owner = ? AND kind = ?")
            .bind(id)
            .bind(owner)
            .bind(kind.as_str())
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.as_ref().map(object).transpose()?)
    }

    /// The objects of a kind that bear a model's name and all of these pairs, without what they were asked with. `None` if
    /// the page begins after an object that is not there.
    pub async fn list(
        &self,
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
            let Some(number) = self.number(owner, kind, id).await? else { return Ok(None) };
            let beyond = if page.order == Order::OldestFirst { " AND number > " } else { " AND number < " };
            query.push(beyond).push_bind(number);
        }
        if let Some(model) = model {
            query.push(" AND model = ").push_bind(model);
        }
        for (key, value) in metadata {
            query.push(" AND EXISTS (SELECT 1 FROM json_each(objects.metadata) WHERE key = ").push_bind(key);
            query.push(" AND value = ").push_bind(value).push(")");
        }
        let direction = if page.order == Order::OldestFirst { "ASC" } else { "DESC" };
        query.push(" ORDER BY number ").push(direction).push(" LIMIT ").push_bind(page.limit as i64 + 1);
        let rows = query.build().fetch_all(&self.readers).await?;
        let objects = rows.iter().map(object).collect::<sqlx::Result<_>>()?;
        Ok(Some(Paged::of(objects, page.limit)))
    }

    /// A response and those that it goes on from, the first one first. `None` if one of them is not there any more, or
    /// if they are more than a conversation may have: half a conversation would be another one.
    pub async fn conversation(&self, owner: &str, id: &str) -> Result<Option<Vec<Object>>, StoreError> {
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
        .fetch_all(&self.readers)
        .await?;
        let turns = rows.iter().map(object).collect::<sqlx::Result<Vec<_>>>()?;
        let is_whole = turns.first().is_some_and(|first| first.previous.is_none());
        Ok(is_whole.then_some(turns))
    }

    /// An object that holds the item of this id.
    pub async fn holder(&self, owner: &str, item: &str) -> Result<Option<Object>, StoreError> {
        let row = sqlx::query(
            "SELECT objects.* FROM items JOIN objects ON objects.number = items.object \
             WHERE items.id = ? AND objects.owner = ? ORDER BY objects.number DESC LIMIT 1",
        )
        .bind(item)
        .bind(owner)
        .fetch_optional(&self.readers)
        .await?;
        Ok(row.as_ref().map(object).transpose()?)
    }

    async fn number(&self, owner: &str, kind: Kind, id: &str) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar("SELECT number FROM objects WHERE id = ? AND owner = ? AND kind = ?")
            .bind(id)
            .bind(owner)
            .bind(kind.as_str())
            .fetch_optional(&self.readers)
            .await?)
    }
}

fn object(row: &SqliteRow) -> sqlx::Result<Object> {
    let kind = match row.try_get::<&str, _>("kind")? {
        "chat.completion" => Kind::ChatCompletion,
        "response" => Kind::Response,
        other => {
            return Err(sqlx::Error::Decode(format!("an object is of the unknown kind '{other}'").into()));
        }
    };
    let metadata = serde_json::from_str(row.try_get("metadata")?);
    Ok(Object {
        kind,
        id: row.try_get("id")?,
        owner: row.try_get("owner")?,
        created_at: row.try_get("created_at")?,
        model: row.try_get("model")?,
        metadata: metadata.map_err(|error| sqlx::Error::Decode(error.into()))?,
        previous: row.try_get("previous")?,
        input: row.try_get("input")?,
        body: row.try_get("body")?,
    })
}
