//! Which queens live, by the database's clock.

use std::sync::{Mutex, PoisonError};

use sqlx::PgExecutor;
use sqlx::postgres::PgPool;
use tokio::sync::Notify;
use uuid::Uuid;

/// Seconds for which a queen counts as alive after she last said so.
const LEASE_SECONDS: i32 = 15;

/// What this process is called as the holder of jobs. The name is new at each start and after each lost lease, so that what
/// was taken from it can never be mistaken for what it took since.
pub struct Lease {
    holder: Mutex<String>,
    /// An outcome came too late: the lease may be lost.
    pub doubt: Notify,
}

impl Lease {
    /// Begins one.
    pub async fn begin(pool: &PgPool) -> sqlx::Result<Self> {
        let holder = Uuid::new_v4().to_string();
        insert(pool, &holder).await?;
        Ok(Self { holder: Mutex::new(holder), doubt: Notify::new() })
    }

    /// The name in force.
    pub fn holder(&self) -> String {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes it last longer. One that somebody took is lost with all that was held by it, and a new one begins.
    pub async fn renew(&self, pool: &PgPool) -> sqlx::Result<()> {
        let holder = self.holder();
        let renewed = sqlx::query(
            "UPDATE queens SET lease_until = clock_timestamp() + make_interval(secs => $2) WHERE id = $1",
        )
        .bind(&holder)
        .bind(f64::from(LEASE_SECONDS))
        .execute(pool)
        .await?;
        if renewed.rows_affected() == 0 {
            let holder = Uuid::new_v4().to_string();
            insert(pool, &holder).await?;
            *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = holder;
            tracing::error!(
                "this queen was thought dead, and her running jobs were given to others; she goes on under a new name"
            );
        }
        Ok(())
    }

    /// Ends it.
    pub async fn end(&self, executor: impl PgExecutor<'_>) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM queens WHERE id = $1").bind(self.holder()).execute(executor).await?;
        Ok(())
    }
}

async fn insert(pool: &PgPool, holder: &str) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO queens (id, lease_until) VALUES ($1, clock_timestamp() + make_interval(secs => $2))",
    )
    .bind(holder)
    .bind(f64::from(LEASE_SECONDS))
    .execute(pool)
    .await?;
    Ok(())
}
