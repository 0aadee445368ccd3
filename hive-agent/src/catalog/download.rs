//! Downloads under way: one flight for each model, however many want it. Who joins late sees where it stands; when the
//! last one that wants it is gone, it is cancelled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use protocol::hive::{DownloadEvent, DownloadProgress, DownloadStage, ModelEntry};
use protocol::{ApiError, ErrorCode};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::entry::Reference;

/// Events kept for a reader of the common feed that is slow; progress it misses is outdated anyway.
const FEED_EVENTS: usize = 256;

/// All downloads under way.
#[derive(Debug)]
pub struct Downloads {
    flights: Mutex<HashMap<Reference, Flight>>,
    feed: broadcast::Sender<DownloadEvent>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Flight {
    state: watch::Sender<FlightState>,
    cancel: CancellationToken,
    wanted_by: usize,
}

#[derive(Debug, Clone)]
enum FlightState {
    Running(DownloadProgress),
    Done(ModelEntry),
    Failed(ApiError),
}

impl FlightState {
    fn event(&self) -> DownloadEvent {
        match self {
            Self::Running(progress) => DownloadEvent::Progress(progress.clone()),
            Self::Done(model) => DownloadEvent::Done(model.clone()),
            Self::Failed(error) => DownloadEvent::Error(error.clone().into()),
        }
    }

    fn is_over(&self) -> bool {
        !matches!(self, Self::Running(_))
    }
}

/// Where a fetch tells how it goes.
#[derive(Debug)]
pub(super) struct Progress {
    reference: Reference,
    total_bytes: u64,
    state: watch::Sender<FlightState>,
    feed: broadcast::Sender<DownloadEvent>,
}

impl Progress {
    /// Tells the stage and the bytes fetched so far.
    pub(super) fn report(&self, stage: DownloadStage, bytes_downloaded: u64) {
        let progress = DownloadProgress {
            reference: self.reference.as_str().to_owned(),
            stage,
            bytes_downloaded,
            total_bytes: self.total_bytes.max(bytes_downloaded),
        };
        tell(&self.state, &self.feed, FlightState::Running(progress));
    }
}

fn tell(state: &watch::Sender<FlightState>, feed: &broadcast::Sender<DownloadEvent>, new: FlightState) {
    // Nobody may be listening to the common feed.
    let _ = feed.send(new.event());
    state.send_replace(new);
}

/// One party's interest in a download. Dropping it gives the interest up.
#[derive(Debug)]
pub struct Download {
    reference: Reference,
    downloads: Arc<Downloads>,
    state: watch::Receiver<FlightState>,
    is_over: bool,
}

impl Download {
    /// The next event: where it stands at first, then what changes; `None` after done or error.
    pub async fn next(&mut self) -> Option<DownloadEvent> {
        if self.is_over {
            return None;
        }
        if self.state.changed().await.is_err() {
            self.is_over = true;
            let lost = ApiError::new(ErrorCode::DownloadFailed, "The download broke off.");
            return Some(DownloadEvent::Error(lost.into()));
        }
        let state = self.state.borrow_and_update();
        self.is_over = state.is_over();
        Some(state.event())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let mut flights = self.downloads.flights();
        // The flight of that name may be a later one; then ours is over and needs no care.
        let Some(flight) = flights.get_mut(&self.reference) else { return };
        if !flight.state.subscribe().same_channel(&self.state) {
            return;
        }
        flight.wanted_by -= 1;
        if flight.wanted_by == 0 {
            flight.cancel.cancel();
        }
    }
}

impl Downloads {
    pub(super) fn new() -> Self {
        Self {
            flights: Mutex::default(),
            feed: broadcast::Sender::new(FEED_EVENTS),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Joins the download of a model or starts it.
    pub(super) async fn join<F>(
        self: &Arc<Self>,
        reference: &Reference,
        total_bytes: u64,
        fetch: F,
    ) -> Result<Download, ApiError>
    where
        F: FnOnce(Progress, CancellationToken) -> BoxFuture<'static, Result<ModelEntry, ApiError>>
            + Send
            + 'static,
    {
        let mut fetch = Some(fetch);
        loop {
            let mut ending = {
                let mut flights = self.flights();
                match flights.get_mut(reference) {
                    Some(flight) if !flight.cancel.is_cancelled() => {
                        flight.wanted_by += 1;
                        return Ok(self.interest(reference, flight.state.subscribe()));
                    }
                    // Cancelled and still cleaning up: the folder that both would write to is not free yet.
                    Some(flight) => flight.state.subscribe(),
                    None => {
                        let Some(fetch) = fetch.take().filter(|_| !self.stop.is_cancelled()) else {
                            return Err(ApiError::new(ErrorCode::ShuttingDown, "The hive is shutting down."));
                        };
                        return Ok(self.start(&mut flights, reference, total_bytes, fetch));
                    }
                }
            };
            while ending.changed().await.is_ok() {}
        }
    }

    /// What happens to all downloads: where each stands now, and all changes from now on.
    pub fn feed(&self) -> (Vec<DownloadEvent>, broadcast::Receiver<DownloadEvent>) {
        let flights = self.flights();
        let now = flights.values().map(|flight| flight.state.borrow().event()).collect();
        (now, self.feed.subscribe())
    }

    /// Cancels all and waits until nothing of them is left.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start<F>(
        self: &Arc<Self>,
        flights: &mut HashMap<Reference, Flight>,
        reference: &Reference,
        total_bytes: u64,
        fetch: F,
    ) -> Download
    where
        F: FnOnce(Progress, CancellationToken) -> BoxFuture<'static, Result<ModelEntry, ApiError>>,
    {
        let first = DownloadProgress {
            reference: reference.as_str().to_owned(),
            stage: DownloadStage::Downloading,
            bytes_downloaded: 0,
            total_bytes,
        };
        let state = watch::Sender::new(FlightState::Running(first));
        let cancel = self.stop.child_token();
        let progress = Progress {
            reference: reference.clone(),
            total_bytes,
            state: state.clone(),
            feed: self.feed.clone(),
        };
        let interest = self.interest(reference, state.subscribe());
        flights
            .insert(reference.clone(), Flight { state: state.clone(), cancel: cancel.clone(), wanted_by: 1 });
        let work = fetch(progress, cancel);
        let (downloads, reference) = (Arc::clone(self), reference.clone());
        self.tasks.spawn(async move {
            let end = match work.await {
                Ok(model) => FlightState::Done(model),
                Err(error) => FlightState::Failed(error.with_detail("reference", reference.as_str())),
            };
            // Out of the list first: who comes now starts anew instead of joining what is over.
            downloads.flights().remove(&reference);
            tell(&state, &downloads.feed, end);
        });
        interest
    }

    fn interest(
        self: &Arc<Self>,
        reference: &Reference,
        mut state: watch::Receiver<FlightState>,
    ) -> Download {
        state.mark_changed();
        Download { reference: reference.clone(), downloads: Arc::clone(self), state, is_over: false }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Reference, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a download ends with that nobody wants any more.
pub(super) fn cancelled() -> ApiError {
    ApiError::new(ErrorCode::DownloadFailed, "The download was cancelled.").with_action("Start it again.")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    fn entry() -> ModelEntry {
        ModelEntry {
            reference: "m".to_owned(),
            sha256: None,
            provider: protocol::hive::Provider::Pip,
            kind: protocol::hive::ModelKind::TextGen,
            size_bytes: 3,
            downloaded: true,
            downloaded_at: None,
            last_used_at: None,
        }
    }

    fn reference() -> Reference {
        Reference::parse("m").unwrap()
    }

    async fn last(mut download: Download) -> DownloadEvent {
        let mut last = None;
        while let Some(event) = download.next().await {
            last = Some(event);
        }
        last.unwrap()
    }

    #[tokio::test]
    async fn many_share_one_fetch_and_all_see_its_end() {
        let downloads = Arc::new(Downloads::new());
        let fetches = Arc::new(AtomicUsize::new(0));
        let (finish, finished) = oneshot::channel::<()>();
        let mut finished = Some(finished);
        let mut joined = Vec::new();
        for _ in 0..5 {
            let (fetches, finished) = (Arc::clone(&fetches), finished.take());
            let fetch = move |progress: Progress, _: CancellationToken| -> BoxFuture<'static, _> {
                Box::pin(async move {
                    fetches.fetch_add(1, Ordering::SeqCst);
                    progress.report(DownloadStage::Downloading, 2);
                    if let Some(finished) = finished {
                        finished.await.unwrap();
                    }
                    Ok(entry())
                })
            };
            joined.push(downloads.join(&reference(), 3, fetch).await.unwrap());
        }
        finish.send(()).unwrap();
        for download in joined {
            assert_eq!(last(download).await, DownloadEvent::Done(entry()));
        }
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_last_one_to_leave_cancels_and_the_next_one_starts_anew() {
        let downloads = Arc::new(Downloads::new());
        let until_cancelled = |_: Progress, cancel: CancellationToken| -> BoxFuture<'static, _> {
            Box::pin(async move {
                cancel.cancelled().await;
                Err(cancelled())
            })
        };
        let first = downloads.join(&reference(), 3, until_cancelled).await.unwrap();
        let second = downloads.join(&reference(), 3, until_cancelled).await.unwrap();
        drop(first);
        assert!(!downloads.flights().get(&reference()).unwrap().cancel.is_cancelled());
        drop(second);
        let at_once =
            |_: Progress, _: CancellationToken| -> BoxFuture<'static, _> { Box::pin(async { Ok(entry()) }) };
        let third = downloads.join(&reference(), 3, at_once).await.unwrap();
        assert_eq!(last(third).await, DownloadEvent::Done(entry()));
    }

    #[tokio::test]
    async fn stopping_ends_all_and_lets_none_start() {
        let downloads = Arc::new(Downloads::new());
        let until_cancelled = |_: Progress, cancel: CancellationToken| -> BoxFuture<'static, _> {
            Box::pin(async move {
                cancel.cancelled().await;
                Err(cancelled())
            })
        };
        let download = downloads.join(&reference(), 3, until_cancelled).await.unwrap();
        downloads.stop().await;
        assert!(matches!(last(download).await, DownloadEvent::Error(_)));
        assert_eq!(
            downloads.join(&reference(), 3, until_cancelled).await.unwrap_err().code,
            ErrorCode::ShuttingDown
        );
    }
}
