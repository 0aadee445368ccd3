//! The catalog's database. SQL stands here and nowhere else in this crate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use protocol::hive::{ModelKind, Provider};
use protocol::{ApiError, ErrorCode};
use sha2::{Digest, Sha256};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{Row, SqlSafeStr};

use super::entry::Sha256Hex;

/// Models whose bytes are, or once were, on this machine.
#[derive(Debug, Clone)]
pub(super) struct Store {
    pool: SqlitePool,
}

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct StoreError(#[from] sqlx::Error);

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the model catalog cannot be used");
        Self::new(ErrorCode::Internal, "The hive's model catalog cannot be used; the hive's log tells why.")
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredModel {
    pub(super) provider: Provider,
    pub(super) reference: String,
    /// The main file.
    pub(super) local_path: PathBuf,
    /// All files together.
    pub(super) size_bytes: u64,
    pub(super) downloaded_at: Option<i64>,
    pub(super) last_used_at: Option<i64>,
    pub(super) kind: ModelKind,
    pub(super) sha256: Option<String>,
    pub(super) presence: Presence,
}

/// Whether the files are there, as far as was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Present,
    Missing,
}

impl Store {
    /// Opens the database, creating it or bringing its schema up to date.
    pub(super) async fn open(path: &Path) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(5));
        // One connection: writes are rare and never contend with each other.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .with_context(|| format!("cannot open the model catalog {}", path.display()))?;
        migrations()
            .run(&pool)
            .await
            .with_context(|| format!("cannot bring the model catalog {} up to date", path.display()))?;
        Ok(Self { pool })
    }

    pub(super) async fn all(&self) -> Result<Vec<StoredModel>, StoreError> {
        let rows = sqlx::query("SELECT * FROM models ORDER BY reference").fetch_all(&self.pool).await?;
        Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
    }

    pub(super) async fn find(&self, reference: &str) -> Result<Option<StoredModel>, StoreError> {
        let row = sqlx::query("SELECT * FROM models WHERE reference = ?")
            .bind(reference)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    /// Writes a model's row, replacing the one that has its name.
    pub(super) async fn put(&self, model: &StoredModel) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO models (id, provider, reference, local_path, size_bytes, downloaded_at, last_used_at, kind, \
             sha256, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (reference) DO UPDATE SET id = excluded.id, \
             provider = excluded.provider, local_path = excluded.local_path, size_bytes = excluded.size_bytes, \
             downloaded_at = excluded.downloaded_at, last_used_at = excluded.last_used_at, kind = excluded.kind, \
             sha256 = excluded.sha256, state = excluded.state",
        )
        .bind(id(model))
        .bind(model.provider.as_str())
        .bind(&model.reference)
        .bind(model.local_path.to_string_lossy())
        .bind(model.size_bytes as i64)
        .bind(model.downloaded_at)
        .bind(model.last_used_at)
        .bind(model.kind.as_str())
        .bind(&model.sha256)
        .bind(presence_name(model.presence))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

fn migrations() -> Migrator {
    let models = include_str!("migrations/0001_models.sql").into_sql_str();
    Migrator::with_migrations(vec![Migration::new(1, "models".into(), MigrationType::Simple, models, false)])
}

fn id(model: &StoredModel) -> String {
    let name = format!("{}:{}", model.provider.as_str(), model.reference);
    Sha256Hex::of(&Sha256::digest(name.as_bytes())).as_str().to_owned()
}

fn read(row: &SqliteRow) -> sqlx::Result<StoredModel> {
    Ok(StoredModel {
        provider: match row.try_get::<&str, _>("provider")? {
            "hf" => Provider::Hf,
            "file" => Provider::File,
            "pip" => Provider::Pip,
            other => return Err(unknown("provider", other)),
        },
        reference: row.try_get("reference")?,
        local_path: PathBuf::from(row.try_get::<String, _>("local_path")?),
        size_bytes: row.try_get::<i64, _>("size_bytes")? as u64,
        downloaded_at: row.try_get("downloaded_at")?,
        last_used_at: row.try_get("last_used_at")?,
        kind: {
            let name = row.try_get::<&str, _>("kind")?;
            let kinds = [ModelKind::TextGen, ModelKind::Embedding, ModelKind::Rerank];
            kinds.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| unknown("kind", name))?
        },
        sha256: row.try_get("sha256")?,
        presence: match row.try_get::<&str, _>("state")? {
            "present" => Presence::Present,
            "missing" => Presence::Missing,
            other => return Err(unknown("state", other)),
        },
    })
}

fn unknown(column: &str, value: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("the models table has an unknown {column}: '{value}'").into())
}

const fn presence_name(presence: Presence) -> &'static str {
    match presence {
        Presence::Present => "present",
        Presence::Missing => "missing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_put_is_found_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("models.db");
        let mut model = StoredModel {
            provider: Provider::Pip,
            reference: "m".to_owned(),
            local_path: "/models/m/m.gguf".into(),
            size_bytes: 5 << 40,
            downloaded_at: Some(1),
            last_used_at: None,
            kind: ModelKind::TextGen,
            sha256: Some("ab".to_owned()),
            presence: Presence::Present,
        };
        let store = Store::open(&path).await.unwrap();
        store.put(&model).await.unwrap();
        model.presence = Presence::Missing;
        store.put(&model).await.unwrap();
        store.close().await;
        let store = Store::open(&path).await.unwrap();
        assert_eq!(store.all().await.unwrap(), [model.clone()]);
        assert_eq!(store.find("m").await.unwrap(), Some(model));
        assert_eq!(store.find("n").await.unwrap(), None);
    }
}
