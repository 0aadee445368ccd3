//! How much is kept. Whoever writes adds what it changed to a row of its own in the same transaction; the sum of all rows
//! is the truth, and nobody waits for anybody's row.

use sqlx::postgres::PgConnection;
use sqlx::{PgExecutor, Row};

/// What changed, or how much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub objects: i64,
    pub object_bytes: i64,
    /// Jobs that have ended.
    pub ended: i64,
    pub ended_bytes: i64,
    /// Jobs that have not.
    pub unfinished: i64,
}

impl Tally {
    /// Jobs have ended.
    pub fn ended(&mut self, sizes: &[i64]) {
        self.unfinished -= sizes.len() as i64;
        self.ended += sizes.len() as i64;
        self.ended_bytes += sizes.iter().sum::<i64>();
    }
}

/// Adds to the row of one way of writing.
pub async fn add(connection: &mut PgConnection, queen: &str, lane: i32, change: Tally) -> sqlx::Result<()> {
    if change == Tally::default() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO tallies (queen, lane, objects, object_bytes, ended, ended_bytes, unfinished) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (queen, lane) DO UPDATE SET \
         objects = tallies.objects + excluded.objects, object_bytes = tallies.object_bytes + excluded.object_bytes, \
         ended = tallies.ended + excluded.ended, ended_bytes = tallies.ended_bytes + excluded.ended_bytes, \
         unfinished = tallies.unfinished + excluded.unfinished",
    )
    .bind(queen)
    .bind(lane)
    .bind(change.objects)
    .bind(change.object_bytes)
    .bind(change.ended)
    .bind(change.ended_bytes)
    .bind(change.unfinished)
    .execute(connection)
    .await?;
    Ok(())
}

/// How much there is.
pub async fn total(executor: impl PgExecutor<'_>) -> sqlx::Result<Tally> {
    let row = sqlx::query(
        "SELECT COALESCE(SUM(objects), 0)::BIGINT, COALESCE(SUM(object_bytes), 0)::BIGINT, \
         COALESCE(SUM(ended), 0)::BIGINT, COALESCE(SUM(ended_bytes), 0)::BIGINT, \
         COALESCE(SUM(unfinished), 0)::BIGINT FROM tallies",
    )
    .fetch_one(executor)
    .await?;
    read(&row)
}

/// Joins the rows of queens that are gone into one.
pub async fn join(connection: &mut PgConnection) -> sqlx::Result<()> {
    let rows = sqlx::query(
        "DELETE FROM tallies WHERE queen <> '' AND NOT EXISTS (SELECT 1 FROM queens WHERE id = queen) \
         RETURNING objects, object_bytes, ended, ended_bytes, unfinished",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut sum = Tally::default();
    for row in &rows {
        let row = read(row)?;
        sum.objects += row.objects;
        sum.object_bytes += row.object_bytes;
        sum.ended += row.ended;
        sum.ended_bytes += row.ended_bytes;
        sum.unfinished += row.unfinished;
    }
    add(connection, "", 0, sum).await
}

fn read(row: &sqlx::postgres::PgRow) -> sqlx::Result<Tally> {
    Ok(Tally {
        objects: row.try_get(0)?,
        object_bytes: row.try_get(1)?,
        ended: row.try_get(2)?,
        ended_bytes: row.try_get(3)?,
        unfinished: row.try_get(4)?,
    })
}
