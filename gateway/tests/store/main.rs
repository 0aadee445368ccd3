//! What a store promises, asked through its public functions, of each database behind it.
//!
//! `compat-tests/postgres.sh cargo test --package queen-rbee --test store` runs it on both; without a server that
//! RBEE_TEST_POSTGRES names it is run on the embedded one.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test tells by failing")]

mod batches;
mod crash;
mod files;
mod jobs;
mod objects;
mod outage;
mod queens;
mod upkeep;

use std::str::FromStr;
use std::time::{Duration, Instant};

use gateway::store::{Bounds, Location, Order, Page, Store};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PLENTY: Bounds = Bounds {
    age: Duration::from_hours(24),
    objects: 1000,
    bytes: 1 << 20,
    file_bytes: 1 << 30,
    owner_file_bytes: 1 << 30,
};
const CENTURY: Duration = Duration::from_hours(24 * 36_525);
/// What takes longer does not happen.
const LONG: Duration = Duration::from_mins(1);

/// Makes a test on each database of each function.
macro_rules! on_each_database {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::Database::sqlite()).await;
            })*
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                if let Some(database) = crate::Database::postgres().await {
                    super::$name(database).await;
                }
            })*
        }
    };
}
use on_each_database;

/// A database of its own for each test.
enum Database {
    Sqlite(tempfile::TempDir),
    Postgres(Box<PgConnectOptions>),
}

impl Database {
    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    /// A schema of its own on the server that the environment names.
    async fn postgres() -> Option<Self> {
        let Ok(url) = std::env::var("RBEE_TEST_POSTGRES") else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "RBEE_TEST_POSTGRES names no server");
            println!("left out: RBEE_TEST_POSTGRES names no server");
            return None;
        };
        let options = PgConnectOptions::from_str(&url).unwrap();
        let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
        let mut connection = options.connect().await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).await.unwrap();
        Some(Self::Postgres(Box::new(options.options([("search_path", schema)]))))
    }

    fn location(&self) -> Location {
        match self {
            Self::Sqlite(folder) => Location::Sqlite(folder.path().join("queen.db")),
            Self::Postgres(options) => Location::Postgres(options.clone()),
        }
    }

    async fn open(self, bounds: Bounds) -> Rig {
        let queen = Queen::open(&self.location(), bounds).await;
        Rig { store: queen.store.clone(), queen, database: self }
    }

    /// Ends all leases, as time does.
    async fn expire_leases(&self) {
        if let Self::Postgres(options) = self {
            let mut connection = options.connect().await.unwrap();
            connection.execute("UPDATE queens SET lease_until = now() - INTERVAL '1 second'").await.unwrap();
        }
    }
}

/// A store whose writer runs.
struct Queen {
    store: Store,
    writer: JoinHandle<()>,
    stop: CancellationToken,
}

impl Queen {
    async fn open(location: &Location, bounds: Bounds) -> Self {
        let (store, writer) = Store::open(location, bounds).await.unwrap();
        let stop = CancellationToken::new();
        let writer = tokio::spawn(writer.run(stop.clone()));
        Self { store, writer, stop }
    }

    async fn close(self) {
        self.stop.cancel();
        self.writer.await.unwrap();
    }

    async fn kill(self) {
        self.writer.abort();
        assert!(self.writer.await.unwrap_err().is_cancelled());
    }
}

/// One queen and her database.
struct Rig {
    store: Store,
    queen: Queen,
    database: Database,
}

impl Rig {
    /// Ends in order and begins again.
    async fn reopen(self, bounds: Bounds) -> Self {
        self.queen.close().await;
        self.database.open(bounds).await
    }

    /// Ends without a word, as a killed process does, and begins again when that was noticed.
    async fn crash(self) -> Self {
        self.queen.kill().await;
        self.database.expire_leases().await;
        self.database.open(PLENTY).await
    }
}

fn page(limit: usize, order: Order, after: Option<&str>) -> Page {
    Page { limit, order, after: after.map(str::to_owned) }
}

/// Waits for what comes by itself.
async fn eventually(is_so: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < LONG, "it did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
