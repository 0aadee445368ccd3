//! An SQLite file as an end of a copy.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use futures::{Stream, TryStreamExt};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, QueryBuilder, Row, Sqlite};

use crate::store::copy::{Cell, Source, Table, Type};

/// Values of one statement at most are 32,766; no table has more columns than would allow this.
const ROWS: usize = 500;

/// Reads one moment.
pub struct Reader(SqliteConnection);

impl Reader {
    pub async fn open(path: &Path, source: Source) -> anyhow::Result<Self> {
        anyhow::ensure!(path.exists(), "there is no such file");
        if source == Source::AtRest {
            // An older queen may have left it.
            let mut connection = super::writing(path).connect().await?;
            super::migrate(&mut connection).await?;
            connection.close().await?;
        }
        let mut connection = SqliteConnectOptions::new().filename(path).read_only(true).connect().await?;
        sqlx::query("BEGIN").execute(&mut connection).await?;
        Ok(Self(connection))
    }

    pub fn rows<'reader>(
        &'reader mut self,
        table: &'reader Table,
    ) -> impl Stream<Item = sqlx::Result<Vec<Cell>>> + 'reader {
        let query = format!("SELECT {} FROM {} ORDER BY 1, 2", table.names(), table.name);
        let rows = sqlx::query(AssertSqlSafe(query)).fetch(&mut self.0);
        rows.and_then(async |row| cells(&row, table))
    }

    pub async fn count(&mut self, table: &Table) -> sqlx::Result<u64> {
        count(&mut self.0, table).await
    }
}

fn cells(row: &SqliteRow, table: &Table) -> sqlx::Result<Vec<Cell>> {
    let cell = |(place, (_, what)): (usize, &(&str, Type))| {
        Ok(match what {
            Type::Number => Cell::Number(row.try_get(place)?),
            Type::Flag => Cell::Flag(row.try_get(place)?),
            Type::Text => Cell::Text(row.try_get(place)?),
            Type::Bytes => Cell::Bytes(row.try_get(place)?),
        })
    };
    table.columns.iter().enumerate().map(cell).collect()
}

async fn count(connection: &mut SqliteConnection, table: &Table) -> sqlx::Result<u64> {
    let query = format!("SELECT COUNT(*) FROM {}", table.name);
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(connection).await?;
    Ok(rows as u64)
}

/// Writes all or nothing.
pub struct Writer(SqliteConnection);

impl Writer {
    pub async fn open(path: &Path) -> anyhow::Result<Self> {
        super::create_private(path)?;
        let options = super::writing(path).synchronous(SqliteSynchronous::Full);
        let mut connection = options.connect().await?;
        super::migrate(&mut connection).await?;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await?;
        Ok(Self(connection))
    }

    pub async fn insert(&mut self, table: &Table, mut rows: Vec<Vec<Cell>>) -> sqlx::Result<()> {
        while !rows.is_empty() {
            let some = rows.drain(..rows.len().min(ROWS));
            let head = format!("INSERT INTO {} ({}) ", table.name, table.names());
            let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(head);
            query.push_values(some, |mut values, row| {
                for cell in row {
                    match cell {
                        Cell::Number(number) => values.push_bind(number),
                        Cell::Flag(flag) => values.push_bind(flag),
                        Cell::Text(text) => values.push_bind(text),
                        Cell::Bytes(bytes) => values.push_bind(bytes),
                    };
                }
            });
            query.build().persistent(false).execute(&mut self.0).await?;
        }
        Ok(())
    }

    pub async fn count(&mut self, table: &Table) -> sqlx::Result<u64> {
        count(&mut self.0, table).await
    }

    pub async fn finish(mut self) -> sqlx::Result<()> {
        sqlx::query("COMMIT").execute(&mut self.0).await?;
        self.0.close().await
    }
}

/// Writes a file's content of one moment into a new file, while a queen may go on writing to it.
pub async fn vacuum_into(path: &Path, to: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(path.exists(), "there is no such file");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut connection = SqliteConnectOptions::new().filename(path).read_only(true).connect().await?;
    sqlx::query("VACUUM INTO ?").bind(to.display().to_string()).execute(&mut connection).await?;
    connection.close().await?;
    file.sync_all()?;
    Ok(())
}
