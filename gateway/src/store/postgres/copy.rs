//! A PostgreSQL database as an end of a copy.

use futures::{Stream, TryStreamExt};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Postgres, QueryBuilder, Row};

use super::objects::pairs;
use super::tallies::{self, Tally};
use crate::store::copy::{Cell, Source, Table, Type};
use crate::store::objects::metadata_of;

/// Reads one moment.
pub struct Reader(PgConnection);

impl Reader {
    pub async fn open(options: &PgConnectOptions, source: Source) -> anyhow::Result<Self> {
        if source == Source::AtRest {
            // An older queen may have left it.
            super::migrate(&super::pool(1, options.clone())).await?;
        }
        let mut connection = options.connect().await?;
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        if source == Source::AtRest {
            refuse_living(&mut connection).await?;
        }
        Ok(Self(connection))
    }

    pub fn rows<'reader>(
        &'reader mut self,
        table: &'reader Table,
    ) -> impl Stream<Item = sqlx::Result<Vec<Cell>>> + 'reader {
        let column = |(name, what): &(&str, Type)| match what {
            // Numbers are of several sizes.
            Type::Number => format!("{name}::BIGINT"),
            Type::Flag | Type::Text | Type::Bytes => (*name).to_owned(),
        };
        let columns = table.columns.iter().map(column).collect::<Vec<_>>().join(", ");
        let query = format!("SELECT {columns} FROM {} ORDER BY 1, 2", table.name);
        let rows = sqlx::query(AssertSqlSafe(query)).fetch(&mut self.0);
        rows.and_then(async |row| cells(&row, table))
    }

    pub async fn count(&mut self, table: &Table) -> sqlx::Result<u64> {
        count(&mut self.0, table).await
    }
}

/// Who writes meanwhile would write what is not copied.
async fn refuse_living(connection: &mut PgConnection) -> anyhow::Result<()> {
    let queens: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM queens WHERE lease_until >= clock_timestamp()")
            .fetch_one(connection)
            .await?;
    anyhow::ensure!(
        queens == 0,
        "{queens} queens run on it; stop them first, or wait 15 s after one that was killed"
    );
    Ok(())
}

fn cells(row: &PgRow, table: &Table) -> sqlx::Result<Vec<Cell>> {
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

async fn count(connection: &mut PgConnection, table: &Table) -> sqlx::Result<u64> {
    let query = format!("SELECT COUNT(*) FROM {}", table.name);
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(connection).await?;
    Ok(rows as u64)
}

/// Writes all or nothing.
pub struct Writer(PgConnection);

impl Writer {
    pub async fn open(options: &PgConnectOptions) -> anyhow::Result<Self> {
        super::migrate(&super::pool(1, options.clone())).await?;
        let mut connection = options.connect().await?;
        connection.execute("BEGIN").await?;
        refuse_living(&mut connection).await?;
        Ok(Self(connection))
    }

    pub async fn insert(&mut self, table: &Table, rows: Vec<Vec<Cell>>) -> sqlx::Result<()> {
        // Objects have their pairs twice here.
        let has_pairs = table.name == "objects";
        let mut head = format!("INSERT INTO {} ({}", table.name, table.names());
        head.push_str(if has_pairs { ", pairs) " } else { ") " });
        head.push_str(if table.is_numbered { "OVERRIDING SYSTEM VALUE " } else { "" });
        let mut query: QueryBuilder<Postgres> = QueryBuilder::new(head);
        let metadata = table.columns.iter().position(|(name, _)| *name == "metadata").filter(|_| has_pairs);
        let pairs = rows
            .iter()
            .map(|row| match metadata.and_then(|place| row.get(place)) {
                Some(Cell::Text(Some(json))) => metadata_of(json).map(|metadata| pairs(&metadata)),
                _ => Ok(Vec::new()),
            })
            .collect::<sqlx::Result<Vec<_>>>()?;
        query.push_values(rows.into_iter().zip(pairs), |mut values, (row, pairs)| {
            for cell in row {
                match cell {
                    Cell::Number(number) => values.push_bind(number),
                    Cell::Flag(flag) => values.push_bind(flag),
                    Cell::Text(text) => values.push_bind(text),
                    Cell::Bytes(bytes) => values.push_bind(bytes),
                };
            }
            if has_pairs {
                values.push_bind(pairs);
            }
        });
        query.build().persistent(false).execute(&mut self.0).await?;
        Ok(())
    }

    pub async fn count(&mut self, table: &Table) -> sqlx::Result<u64> {
        count(&mut self.0, table).await
    }

    pub async fn finish(mut self) -> sqlx::Result<()> {
        for table in crate::store::copy::TABLES.iter().filter(|table| table.is_numbered) {
            let query = format!(
                "SELECT SETVAL(PG_GET_SERIAL_SEQUENCE('{0}', 'number'), COALESCE(MAX(number), 0) + 1, FALSE) FROM {0}",
                table.name
            );
            self.0.execute(AssertSqlSafe(query)).await?;
        }
        let (objects, object_bytes) =
            sqlx::query_as("SELECT COUNT(*), COALESCE(SUM(bytes), 0)::BIGINT FROM objects")
                .fetch_one(&mut self.0)
                .await?;
        let (ended, ended_bytes) = sqlx::query_as(
            "SELECT COUNT(*), COALESCE(SUM(bytes), 0)::BIGINT FROM jobs WHERE finished_at_ms IS NOT NULL",
        )
        .fetch_one(&mut self.0)
        .await?;
        let unfinished = sqlx::query_scalar("SELECT COUNT(*) FROM jobs WHERE finished_at_ms IS NULL")
            .fetch_one(&mut self.0)
            .await?;
        self.0.execute("DELETE FROM tallies").await?;
        let tally = Tally { objects, object_bytes, ended, ended_bytes, unfinished };
        tallies::add(&mut self.0, "", 0, tally).await?;
        self.0.execute("COMMIT").await?;
        Ok(())
    }
}
