//! What is too old or too much is thrown out, the oldest first.

use std::ops::AddAssign;

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::files;
use crate::store::{Bounds, StoreError};

/// Entries that are thrown out at once where there is too much.
const PRUNED_AT_ONCE: i64 = 256;

/// How much is kept. One writer counts, so it need not be asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    pub objects: Tally,
    /// Jobs that have ended.
    pub ended: Tally,
    /// Jobs that have not.
    pub unfinished: u64,
}

/// Entries and their bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    entries: u64,
    bytes: u64,
}

impl Tally {
    pub fn add(&mut self, bytes: i64) {
        *self += Self { entries: 1, bytes: bytes as u64 };
    }

    pub fn remove(&mut self, bytes: i64) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }

    /// How many to throw out next, if there are too many or too much is in them.
    fn surplus(&self, bounds: &Bounds) -> Option<i64> {
        let surplus = self.entries.saturating_sub(bounds.objects) as i64;
        // Of what is large, few at a time: the newest must not go with the oldest.
        let least = i64::from(self.bytes > bounds.bytes);
        Some(surplus.clamp(least, PRUNED_AT_ONCE)).filter(|surplus| *surplus > 0)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.entries += more.entries;
        self.bytes += more.bytes;
    }
}

impl Kept {
    pub async fn count(connection: &mut SqliteConnection) -> sqlx::Result<Self> {
        let tally = |row: &SqliteRow| {
            Ok::<_, sqlx::Error>(Tally {
                entries: row.try_get::<i64, _>(0)? as u64,
                bytes: row.try_get::<i64, _>(1)? as u64,
            })
        };
        let objects = "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM objects";
        let ended = "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM jobs WHERE finished_at_ms IS NOT NULL";
        let unfinished: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM jobs WHERE finished_at_ms IS NULL")
            .fetch_one(&mut *connection)
            .await?;
        Ok(Self {
            objects: tally(&sqlx::query(objects).fetch_one(&mut *connection).await?)?,
            ended: tally(&sqlx::query(ended).fetch_one(connection).await?)?,
            unfinished: unfinished as u64,
        })
    }

    fn tally(&mut self, subject: Subject) -> &mut Tally {
        match subject {
            Subject::Objects => &mut self.objects,
            Subject::EndedJobs => &mut self.ended,
        }
    }
}

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
                 (SELECT number FROM objects WHERE created_at < ? ORDER BY created_at LIMIT ?) RETURNING bytes"
            }
            Self::EndedJobs => concat!(
                "DELETE FROM jobs WHERE number IN (SELECT number FROM jobs WHERE finished_at_ms < ? * 1000 AND ",
                end_of_batch!(),
                " ORDER BY finished_at_ms LIMIT ?) RETURNING bytes"
            ),
        }
    }

    /// Throws out so many of the oldest.
    const fn oldest(self) -> &'static str {
        match self {
            Self::Objects => {
                "DELETE FROM objects WHERE number IN \
                 (SELECT number FROM objects ORDER BY number LIMIT ?) RETURNING bytes"
            }
            Self::EndedJobs => concat!(
                "DELETE FROM jobs WHERE number IN (SELECT number FROM jobs WHERE finished_at_ms IS NOT NULL AND ",
                end_of_batch!(),
                " ORDER BY finished_at_ms LIMIT ?) RETURNING bytes"
            ),
        }
    }
}

/// Batches that ended before a time, as far as it is known from when they began.
const OLD_BATCHES: &str = "DELETE FROM batches WHERE created_at < ? \
     AND status NOT IN ('validating', 'in_progress', 'finalizing', 'cancelling')";

/// Throws out what the bounds do not allow.
pub struct Retention {
    bounds: Bounds,
    /// What is more than the bounds allow and cannot go yet; it is not looked at again before the next round.
    stuck: [bool; Subject::ALL.len()],
}

impl Retention {
    pub const fn new(bounds: Bounds) -> Self {
        Self { bounds, stuck: [false; Subject::ALL.len()] }
    }

    pub const fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Begins a round.
    pub fn begin(&mut self) {
        self.stuck = [false; Subject::ALL.len()];
    }

    /// Whether something has to go now.
    pub fn is_too_much(&self, kept: &Kept) -> bool {
        let mut kept = *kept;
        Subject::ALL.into_iter().any(|subject| self.surplus(&mut kept, subject).is_some())
    }

    fn surplus(&self, kept: &mut Kept, subject: Subject) -> Option<i64> {
        kept.tally(subject).surplus(&self.bounds).filter(|_| !self.stuck[subject as usize])
    }

    /// Throws out some; true if there may be more.
    pub async fn prune(
        &mut self,
        connection: &mut SqliteConnection,
        kept: &mut Kept,
        now: i64,
    ) -> Result<bool, StoreError> {
        let mut is_more = false;
        for subject in Subject::ALL {
            is_more |= self.prune_subject(connection, kept, subject, now).await? >= PRUNED_AT_ONCE;
        }
        files::expire(connection, now).await?;
        let pieces = files::throw_out(connection).await?;
        if pieces > 0 {
            sqlx::query("PRAGMA incremental_vacuum(4096)").execute(&mut *connection).await?;
        }
        sqlx::query(OLD_BATCHES).bind(now - self.bounds.age.as_secs() as i64).execute(connection).await?;
        Ok(is_more || pieces >= files::PIECES_AT_ONCE)
    }

    async fn prune_subject(
        &mut self,
        connection: &mut SqliteConnection,
        kept: &mut Kept,
        subject: Subject,
        now: i64,
    ) -> sqlx::Result<i64> {
        let earliest = now - self.bounds.age.as_secs() as i64;
        let too_old = sqlx::query(subject.too_old()).bind(earliest).bind(PRUNED_AT_ONCE);
        let gone = too_old.fetch_all(&mut *connection).await?;
        let mut pruned = count_out(&gone, kept.tally(subject))?;
        while pruned < PRUNED_AT_ONCE
            && let Some(surplus) = self.surplus(kept, subject)
        {
            let gone = sqlx::query(subject.oldest()).bind(surplus).fetch_all(&mut *connection).await?;
            self.stuck[subject as usize] = gone.is_empty();
            pruned += count_out(&gone, kept.tally(subject))?;
        }
        if pruned > 0 {
            tracing::debug!(?subject, entries = pruned, "what was kept long enough is gone");
            sqlx::query("PRAGMA incremental_vacuum(1024)").execute(connection).await?;
        }
        Ok(pruned)
    }
}

fn count_out(gone: &[SqliteRow], tally: &mut Tally) -> sqlx::Result<i64> {
    for row in gone {
        tally.remove(row.try_get(0)?);
    }
    Ok(gone.len() as i64)
}
