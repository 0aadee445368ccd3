//! What is too old or too much is thrown out, the oldest first, by one queen at a time.

use sqlx::postgres::{PgConnection, PgPool};

use super::files;
use super::tallies::{self, Tally};
use crate::clock::unix_seconds;
use crate::store::Bounds;

/// Entries that are thrown out at once.
const PRUNED_AT_ONCE: i64 = 256;

/// What is kept for a limited time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Objects,
    EndedJobs,
}

/// A job of a batch stays until all of the batch have ended, and it has: its answers are told together.
macro_rules! end_of_batch {
    () => {
        "(batch IS NULL OR NOT (EXISTS (SELECT 1 FROM jobs AS other \
         WHERE other.batch = jobs.batch AND other.finished_at_ms IS NULL) OR EXISTS (SELECT 1 FROM batches \
         WHERE batches.id = jobs.batch AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))))"
    };
}

impl Subject {
    const ALL: [Self; 2] = [Self::Objects, Self::EndedJobs];

    /// Throws out so many from before a time in seconds.
    const fn too_old(self) -> &'static str {
        match self {
            Self::Objects => {
                "DELETE FROM objects WHERE number IN \
                 (SELECT number FROM objects WHERE created_at < $1 ORDER BY created_at LIMIT $2) RETURNING bytes"
            }
            Self::EndedJobs => concat!(
                "DELETE FROM jobs WHERE number IN (SELECT number FROM jobs WHERE finished_at_ms < $1 * 1000 AND ",
                end_of_batch!(),
                " ORDER BY finished_at_ms LIMIT $2) RETURNING bytes"
            ),
        }
    }

    /// Throws out so many of the oldest.
    const fn oldest(self) -> &'static str {
        match self {
            Self::Objects => {
                "DELETE FROM objects WHERE number IN \
                 (SELECT number FROM objects ORDER BY number LIMIT $1) RETURNING bytes"
            }
            Self::EndedJobs => concat!(
                "DELETE FROM jobs WHERE number IN (SELECT number FROM jobs WHERE finished_at_ms IS NOT NULL AND ",
                end_of_batch!(),
                " ORDER BY finished_at_ms LIMIT $1) RETURNING bytes"
            ),
        }
    }

    /// How many to throw out next, if there are too many or too much is in them.
    fn surplus(self, kept: &Tally, bounds: &Bounds) -> Option<i64> {
        let (entries, bytes) = match self {
            Self::Objects => (kept.objects, kept.object_bytes),
            Self::EndedJobs => (kept.ended, kept.ended_bytes),
        };
        // Of what is large, few at a time: the newest must not go with the oldest.
        let least = i64::from(bytes > bounds.bytes as i64);
        Some((entries - bounds.objects as i64).clamp(least, PRUNED_AT_ONCE)).filter(|surplus| *surplus > 0)
    }

    fn count_out(self, sizes: &[i64]) -> Tally {
        let (entries, bytes) = (-(sizes.len() as i64), -sizes.iter().sum::<i64>());
        match self {
            Self::Objects => Tally { objects: entries, object_bytes: bytes, ..Tally::default() },
            Self::EndedJobs => Tally { ended: entries, ended_bytes: bytes, ..Tally::default() },
        }
    }
}

/// Batches that ended before a time, as far as it is known from when they began.
const OLD_BATCHES: &str = "DELETE FROM batches WHERE created_at < $1 \
     AND status NOT IN ('validating', 'in_progress', 'finalizing', 'cancelling')";

/// Throws out what the bounds do not allow.
pub struct Retention {
    bounds: Bounds,
    /// Where old things are to be looked for.
    due: [bool; Subject::ALL.len()],
    /// What is more than the bounds allow and cannot go yet; it is not looked at again before the next round.
    stuck: [bool; Subject::ALL.len()],
}

impl Retention {
    pub const fn new(bounds: Bounds) -> Self {
        Self { bounds, due: [false; Subject::ALL.len()], stuck: [false; Subject::ALL.len()] }
    }

    /// Begins a round.
    pub fn begin(&mut self) {
        (self.due, self.stuck) = ([true; Subject::ALL.len()], [false; Subject::ALL.len()]);
    }

    /// Throws out all that has to go now.
    pub async fn prune(&mut self, pool: &PgPool) -> sqlx::Result<()> {
        if self.due.contains(&true) {
            let mut transaction = pool.begin().await?;
            files::expire(&mut transaction, unix_seconds()).await?;
            let earliest = unix_seconds() - self.bounds.age.as_secs() as i64;
            sqlx::query(OLD_BATCHES).bind(earliest).execute(&mut *transaction).await?;
            transaction.commit().await?;
        }
        while files::throw_out(&mut *pool.acquire().await?).await? >= files::PIECES_AT_ONCE {}
        for subject in Subject::ALL {
            while self.due[subject as usize] {
                let earliest = unix_seconds() - self.bounds.age.as_secs() as i64;
                let gone = throw_out(pool, subject, Some(earliest), PRUNED_AT_ONCE).await?;
                self.due[subject as usize] = gone >= PRUNED_AT_ONCE;
            }
            while !self.stuck[subject as usize]
                && let Some(surplus) = subject.surplus(&tallies::total(pool).await?, &self.bounds)
            {
                self.stuck[subject as usize] = throw_out(pool, subject, None, surplus).await? == 0;
            }
        }
        Ok(())
    }
}

/// One step; how many are gone.
async fn throw_out(pool: &PgPool, subject: Subject, earliest: Option<i64>, count: i64) -> sqlx::Result<i64> {
    let mut transaction = pool.begin().await?;
    // Another queen may be at it; then it is waited for, and there may be nothing left to do.
    sqlx::query("SELECT pg_advisory_xact_lock('tallies'::REGCLASS::OID::BIGINT)")
        .execute(&mut *transaction)
        .await?;
    let gone = match earliest {
        Some(earliest) => delete(&mut transaction, subject.too_old(), &[earliest, count]).await?,
        None => delete(&mut transaction, subject.oldest(), &[count]).await?,
    };
    tallies::add(&mut transaction, "", 0, subject.count_out(&gone)).await?;
    transaction.commit().await?;
    if !gone.is_empty() {
        tracing::debug!(?subject, entries = gone.len(), "what was kept long enough is gone");
    }
    Ok(gone.len() as i64)
}

async fn delete(connection: &mut PgConnection, sql: &'static str, values: &[i64]) -> sqlx::Result<Vec<i64>> {
    values.iter().fold(sqlx::query_scalar(sql), |query, value| query.bind(*value)).fetch_all(connection).await
}
