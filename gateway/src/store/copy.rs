//! All that a database holds, copied into an empty one of either kind: rows as they are, in one transaction at each end.

use std::collections::BTreeMap;

use anyhow::Context;
use futures::TryStreamExt;

use super::{Location, postgres, sqlite};

/// Rows that are written at once, and their bytes.
const ROWS: usize = 500;
const BYTES: usize = 8 << 20;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Number,
    /// PostgreSQL has a type of its own for it, SQLite 0 and 1.
    Flag,
    Text,
    Bytes,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Number(Option<i64>),
    Flag(Option<bool>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Cell {
    fn bytes(&self) -> usize {
        match self {
            Self::Number(_) | Self::Flag(_) => 8,
            Self::Text(text) => text.as_ref().map_or(0, String::len),
            Self::Bytes(bytes) => bytes.as_ref().map_or(0, Vec::len),
        }
    }
}

/// A table that both databases have.
pub(super) struct Table {
    pub name: &'static str,
    pub columns: &'static [(&'static str, Type)],
    /// Whether its rows are numbered by the database.
    pub is_numbered: bool,
}

impl Table {
    /// Its columns' names with commas between them.
    pub fn names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// All of them, those that others refer to first.
pub(super) const TABLES: [Table; 7] = {
    use Type::{Bytes, Flag, Number, Text};
    [
        Table {
            name: "objects",
            columns: &[
                ("number", Number),
                ("kind", Text),
                ("id", Text),
                ("owner", Text),
                ("created_at", Number),
                ("model", Text),
                ("metadata", Text),
                ("previous", Text),
                ("bytes", Number),
                ("input", Text),
                ("body", Text),
            ],
            is_numbered: true,
        },
        Table { name: "items", columns: &[("id", Text), ("object", Number)], is_numbered: false },
        Table {
            name: "jobs",
            columns: &[
                ("number", Number),
                ("id", Text),
                ("kind", Text),
                ("owner", Text),
                ("model", Text),
                ("band", Number),
                ("state", Text),
                ("attempt", Number),
                ("reclaims", Number),
                ("holder", Text),
                ("is_cancelling", Flag),
                ("created_at_ms", Number),
                ("deadline_at_ms", Number),
                ("started_at_ms", Number),
                ("finished_at_ms", Number),
                ("idempotency_key", Text),
                ("idempotency_digest", Text),
                ("batch", Text),
                ("line", Number),
                ("bytes", Number),
                ("request", Text),
                ("decision", Text),
                ("result", Text),
                ("events", Text),
            ],
            is_numbered: true,
        },
        Table {
            name: "files",
            columns: &[
                ("number", Number),
                ("id", Text),
                ("owner", Text),
                ("created_at", Number),
                ("expires_at", Number),
                ("filename", Text),
                ("purpose", Text),
                ("bytes", Number),
                ("status", Text),
            ],
            is_numbered: true,
        },
        Table {
            name: "file_chunks",
            columns: &[("file", Number), ("number", Number), ("data", Bytes)],
            is_numbered: false,
        },
        Table { name: "file_usage", columns: &[("owner", Text), ("bytes", Number)], is_numbered: false },
        Table {
            name: "batches",
            columns: &[
                ("number", Number),
                ("id", Text),
                ("owner", Text),
                ("created_at", Number),
                ("endpoint", Text),
                ("model", Text),
                ("input_file_id", Text),
                ("completion_window", Text),
                ("status", Text),
                ("holder", Text),
                ("expires_at", Number),
                ("in_progress_at", Number),
                ("finalizing_at", Number),
                ("completed_at", Number),
                ("failed_at", Number),
                ("expired_at", Number),
                ("cancelling_at", Number),
                ("cancelled_at", Number),
                ("output_file_id", Text),
                ("error_file_id", Text),
                ("errors", Text),
                ("metadata", Text),
                ("output_seconds", Number),
            ],
            is_numbered: true,
        },
    ]
};

/// How many rows each table has.
pub type Counts = BTreeMap<&'static str, u64>;

/// Whether queens may go on writing where it is copied from; the copy is of one moment all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    AtRest,
    InUse,
}

/// Copies all that one database holds into another one, which must be empty, and counts that it is there. Nothing is
/// changed where that fails. `progress` is told how many rows of which table are copied.
pub async fn migrate(
    from: &Location,
    to: &Location,
    progress: impl FnMut(&'static str, u64),
) -> anyhow::Result<Counts> {
    copy(from, Source::AtRest, to, progress).await
}

pub(super) async fn copy(
    from: &Location,
    source: Source,
    to: &Location,
    mut progress: impl FnMut(&'static str, u64),
) -> anyhow::Result<Counts> {
    let cannot_read = || format!("cannot read the database {from}");
    let cannot_write = || format!("cannot write to the database {to}");
    let mut reader = match from {
        Location::Sqlite(path) => sqlite::copy::Reader::open(path, source).await.map(Reader::Sqlite),
        Location::Postgres(options) => {
            postgres::copy::Reader::open(options, source).await.map(Reader::Postgres)
        }
    }
    .with_context(cannot_read)?;
    let mut writer = match to {
        Location::Sqlite(path) => sqlite::copy::Writer::open(path).await.map(Writer::Sqlite),
        Location::Postgres(options) => postgres::copy::Writer::open(options).await.map(Writer::Postgres),
    }
    .with_context(cannot_write)?;
    for table in &TABLES {
        let rows = writer.count(table).await.with_context(cannot_write)?;
        anyhow::ensure!(
            rows == 0,
            "the database {to} is not empty: the table {} has {rows} rows; nothing was changed",
            table.name
        );
    }
    let mut counts = Counts::new();
    for table in &TABLES {
        let copied = copy_table(&mut reader, &mut writer, table, &mut progress)
            .await
            .with_context(|| format!("cannot copy the table {}; nothing was changed", table.name))?;
        let (here, there) = (reader.count(table).await?, writer.count(table).await?);
        anyhow::ensure!(
            copied == here && copied == there,
            "of {here} rows of the table {} {there} arrived; nothing was changed",
            table.name
        );
        counts.insert(table.name, copied);
    }
    writer.finish().await.with_context(cannot_write)?;
    Ok(counts)
}

async fn copy_table(
    reader: &mut Reader,
    writer: &mut Writer,
    table: &Table,
    progress: &mut impl FnMut(&'static str, u64),
) -> anyhow::Result<u64> {
    let mut copied = 0;
    progress(table.name, copied);
    let mut rows = reader.rows(table);
    let (mut held, mut bytes) = (Vec::new(), 0);
    loop {
        let row = rows.try_next().await?;
        let is_last = row.is_none();
        if let Some(row) = row {
            bytes += row.iter().map(Cell::bytes).sum::<usize>();
            held.push(row);
        }
        if held.len() == ROWS || bytes >= BYTES || (is_last && !held.is_empty()) {
            copied += held.len() as u64;
            writer.insert(table, std::mem::take(&mut held)).await?;
            bytes = 0;
            progress(table.name, copied);
        }
        if is_last {
            return Ok(copied);
        }
    }
}

/// Where it is copied from: all that is read is of one moment.
enum Reader {
    Sqlite(sqlite::copy::Reader),
    Postgres(postgres::copy::Reader),
}

impl Reader {
    fn rows<'reader>(
        &'reader mut self,
        table: &'reader Table,
    ) -> futures::stream::BoxStream<'reader, sqlx::Result<Vec<Cell>>> {
        match self {
            Self::Sqlite(reader) => Box::pin(reader.rows(table)),
            Self::Postgres(reader) => Box::pin(reader.rows(table)),
        }
    }

    async fn count(&mut self, table: &Table) -> sqlx::Result<u64> {
        match self {
            Self::Sqlite(reader) => reader.count(table).await,
            Self::Postgres(reader) => reader.count(table).await,
        }
    }
}

/// Where it is copied to: all of it, or nothing.
enum Writer {
    Sqlite(sqlite::copy::Writer),
    Postgres(postgres::copy::Writer),
}

impl Writer {
    async fn insert(&mut self, table: &Table, rows: Vec<Vec<Cell>>) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(writer) => writer.insert(table, rows).await,
            Self::Postgres(writer) => writer.insert(table, rows).await,
        }
    }

    async fn count(&mut self, table: &Table) -> sqlx::Result<u64> {
        match self {
            Self::Sqlite(writer) => writer.count(table).await,
            Self::Postgres(writer) => writer.count(table).await,
        }
    }

    async fn finish(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(writer) => writer.finish().await,
            Self::Postgres(writer) => writer.finish().await,
        }
    }
}
