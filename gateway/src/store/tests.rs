//! What a store promises, asked through its public functions.

mod jobs;
mod objects;

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

const PLENTY: Bounds = Bounds { age: Duration::from_hours(24), objects: 1000, bytes: 1 << 20 };
const CENTURY: Duration = Duration::from_hours(24 * 36_525);

/// A store whose writer runs, until it is dropped with its folder.
struct Rig {
    store: Store,
    writer: JoinHandle<()>,
    stop: CancellationToken,
    folder: tempfile::TempDir,
}

impl Rig {
    async fn new(bounds: Bounds) -> Self {
        Self::open(tempfile::tempdir().unwrap(), bounds).await
    }

    async fn open(folder: tempfile::TempDir, bounds: Bounds) -> Self {
        let (store, writer) = Store::open(&folder.path().join("queen.db"), bounds).await.unwrap();
        let stop = CancellationToken::new();
        let writer = tokio::spawn(writer.run(stop.clone()));
        Self { store, writer, stop, folder }
    }

    /// Ends in order and begins again.
    async fn reopen(self, bounds: Bounds) -> Self {
        self.stop.cancel();
        self.writer.await.unwrap();
        Self::open(self.folder, bounds).await
    }

    /// Ends without a word, as a killed process does, and begins again.
    async fn crash(self) -> Self {
        self.writer.abort();
        assert!(self.writer.await.unwrap_err().is_cancelled());
        Self::open(self.folder, PLENTY).await
    }
}

fn page(limit: usize, order: Order, after: Option<&str>) -> Page {
    Page { limit, order, after: after.map(str::to_owned) }
}
