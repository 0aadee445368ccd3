//! What the hive reports: the one place that holds the state of all workers and models, and the numbered changes to it.
//!
//! A change is applied and numbered under one lock, so a snapshot is exact: it holds every change up to its number and
//! none after it. Readers keep their own place and read from a bounded ring; whoever asks for a number that the ring no
//! longer holds, or never held, gets a new snapshot instead of a hole.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::Stream;
use protocol::hive::{HiveEvent, HiveSnapshot, ModelEntry, WorkerInfo, WorkerShutdown};
use protocol::worker::Backend;
use protocol::{BootId, WorkerId};
use tokio::sync::watch;

/// Changes kept for readers that come back.
const RING_EVENTS: usize = 1024;

/// All that is known of workers and models, and how it changed.
#[derive(Debug)]
pub struct Board {
    boot_id: BootId,
    state: Mutex<State>,
    latest: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    workers: BTreeMap<WorkerId, WorkerInfo>,
    models: BTreeMap<String, ModelEntry>,
    backends: Vec<Backend>,
    ring: VecDeque<HiveEvent>,
    /// Number of the newest event; the ring's last one, if it has any.
    latest: u64,
}

impl Board {
    /// An empty board for this run of the hive.
    pub fn new(boot_id: BootId) -> Self {
        // Numbering from the clock instead of zero makes every number of an earlier run older than all of this one:
        // it can be told by itself that it is not ours.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::starting_at(boot_id, since_1970.as_millis() as u64)
    }

    fn starting_at(boot_id: BootId, latest: u64) -> Self {
        let state = State {
            workers: BTreeMap::new(),
            models: BTreeMap::new(),
            backends: Vec::new(),
            ring: VecDeque::new(),
            latest,
        };
        Self { boot_id, state: Mutex::new(state), latest: watch::Sender::new(latest) }
    }

    /// Which run of the hive this is.
    pub fn boot_id(&self) -> &BootId {
        &self.boot_id
    }

    /// Records what workers can be spawned for.
    pub fn set_backends(&self, backends: Vec<Backend>) {
        let mut state = self.state();
        if state.backends != backends {
            // There is no event for this, so every reader starts over with a snapshot.
            state.backends = backends;
            state.ring.clear();
            state.latest += 1;
            self.latest.send_replace(state.latest);
        }
    }

    /// A worker is new or changed; one that stands there as it is makes no event.
    pub fn put_worker(&self, worker: &WorkerInfo) {
        if self.state().workers.get(&worker.id) != Some(worker) {
            self.publish(HiveEvent::Worker(Box::new(worker.clone())));
        }
    }

    /// A worker is gone for good.
    pub fn remove_worker(&self, worker_id: &WorkerId) {
        self.publish(HiveEvent::WorkerRemoved(WorkerShutdown {
            worker_id: worker_id.clone(),
            if_idle: false,
        }));
    }

    /// A model is new or changed; one that stands there as it is makes no event.
    pub fn put_model(&self, model: &ModelEntry) {
        if self.state().models.get(&model.reference) != Some(model) {
            self.publish(HiveEvent::Model(model.clone()));
        }
    }

    /// One worker.
    pub fn worker(&self, worker_id: &WorkerId) -> Option<WorkerInfo> {
        self.state().workers.get(worker_id).cloned()
    }

    /// All workers, oldest first.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.state().workers.values().cloned().collect()
    }

    /// One model.
    pub fn model(&self, reference: &str) -> Option<ModelEntry> {
        self.state().models.get(reference).cloned()
    }

    /// All models by name.
    pub fn models(&self) -> Vec<ModelEntry> {
        self.state().models.values().cloned().collect()
    }

    /// The changes after the one of this number, as they come, each with its number; a snapshot first where the
    /// number is absent or cannot be continued from.
    pub fn follow(self: Arc<Self>, after: Option<u64>) -> impl Stream<Item = (u64, HiveEvent)> + Send {
        let reader = Reader { changes: self.latest.subscribe(), board: self, after, batch: VecDeque::new() };
        futures::stream::unfold(reader, async |mut reader| {
            let event = reader.next().await?;
            Some((event, reader))
        })
    }

    fn publish(&self, event: HiveEvent) {
        let mut state = self.state();
        match &event {
            HiveEvent::Worker(worker) => {
                state.workers.insert(worker.id.clone(), (**worker).clone());
            }
            HiveEvent::WorkerRemoved(removed) => {
                state.workers.remove(&removed.worker_id);
            }
            HiveEvent::Model(model) => {
                state.models.insert(model.reference.clone(), model.clone());
            }
            HiveEvent::Snapshot(_) => return,
        }
        state.latest += 1;
        if state.ring.len() == RING_EVENTS {
            state.ring.pop_front();
        }
        state.ring.push_back(event);
        self.latest.send_replace(state.latest);
    }

    /// What a reader at this place has not seen.
    fn read(&self, after: Option<u64>) -> VecDeque<(u64, HiveEvent)> {
        let state = self.state();
        let oldest_continued = state.latest - state.ring.len() as u64;
        match after {
            Some(after) if (oldest_continued..=state.latest).contains(&after) => {
                let seen = (after - oldest_continued) as usize;
                (after + 1..).zip(state.ring.iter().skip(seen).cloned()).collect()
            }
            _ => {
                let snapshot = HiveSnapshot {
                    boot_id: self.boot_id.clone(),
                    workers: state.workers.values().cloned().collect(),
                    models: state.models.values().cloned().collect(),
                    backends: state.backends.clone(),
                };
                VecDeque::from([(state.latest, HiveEvent::Snapshot(snapshot))])
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader's place.
struct Reader {
    board: Arc<Board>,
    changes: watch::Receiver<u64>,
    after: Option<u64>,
    batch: VecDeque<(u64, HiveEvent)>,
}

impl Reader {
    async fn next(&mut self) -> Option<(u64, HiveEvent)> {
        loop {
            if let Some((number, event)) = self.batch.pop_front() {
                self.after = Some(number);
                return Some((number, event));
            }
            self.changes.mark_unchanged();
            self.batch = self.board.read(self.after);
            if self.batch.is_empty() {
                self.changes.changed().await.ok()?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use protocol::hive::Provider;

    use super::*;

    fn model(reference: &str, size_bytes: u64) -> ModelEntry {
        ModelEntry {
            reference: reference.to_owned(),
            sha256: None,
            provider: Provider::File,
            kind: protocol::hive::ModelKind::TextGen,
            size_bytes,
            downloaded: true,
            downloaded_at: None,
            last_used_at: None,
        }
    }

    fn board() -> Arc<Board> {
        Arc::new(Board::starting_at("boot".into(), 1000))
    }

    async fn first(board: &Arc<Board>, after: Option<u64>) -> (u64, HiveEvent) {
        Box::pin(Arc::clone(board).follow(after)).next().await.unwrap()
    }

    fn is_snapshot_of(event: &HiveEvent, models: usize) -> bool {
        matches!(event, HiveEvent::Snapshot(snapshot) if snapshot.models.len() == models)
    }

    #[tokio::test]
    async fn a_reader_gets_a_snapshot_and_then_every_change_once() {
        let board = board();
        board.put_model(&model("a", 1));
        let mut stream = Box::pin(Arc::clone(&board).follow(None));
        let (number, snapshot) = stream.next().await.unwrap();
        assert_eq!(number, 1001);
        assert!(is_snapshot_of(&snapshot, 1));
        board.put_model(&model("a", 1));
        board.put_model(&model("a", 2));
        board.put_model(&model("b", 1));
        assert_eq!(stream.next().await.unwrap(), (1002, HiveEvent::Model(model("a", 2))));
        assert_eq!(stream.next().await.unwrap(), (1003, HiveEvent::Model(model("b", 1))));
    }

    #[tokio::test]
    async fn a_reader_that_returns_continues_without_a_hole() {
        let board = board();
        for size in 0..10 {
            board.put_model(&model("a", size));
        }
        assert_eq!(first(&board, Some(1004)).await, (1005, HiveEvent::Model(model("a", 4))));
        assert_eq!(first(&board, Some(1000)).await, (1001, HiveEvent::Model(model("a", 0))));
    }

    #[tokio::test]
    async fn numbers_that_are_too_old_or_not_ours_lead_to_a_snapshot() {
        let board = board();
        for size in 0..(RING_EVENTS as u64 + 5) {
            board.put_model(&model("a", size));
        }
        let latest = 1000 + RING_EVENTS as u64 + 5;
        for not_ours in [0, 7, 1004, latest + 1, u64::MAX] {
            let (number, event) = first(&board, Some(not_ours)).await;
            assert_eq!(number, latest, "after {not_ours}");
            assert!(is_snapshot_of(&event, 1));
        }
        assert!(matches!(first(&board, Some(1005)).await, (1006, HiveEvent::Model(_))));
    }

    #[tokio::test]
    async fn a_reader_that_lags_gets_a_snapshot() {
        let board = board();
        let mut stream = Box::pin(Arc::clone(&board).follow(None));
        stream.next().await.unwrap();
        for size in 0..=(RING_EVENTS as u64) {
            board.put_model(&model("a", size));
        }
        let (number, event) = stream.next().await.unwrap();
        assert_eq!(number, 1000 + RING_EVENTS as u64 + 1);
        assert!(is_snapshot_of(&event, 1));
    }
}
