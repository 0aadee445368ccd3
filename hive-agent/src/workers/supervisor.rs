//! One worker's life from order to end: fetch the model, start the process, follow its load, watch it, start it again
//! when it dies, and see to its end. The supervisor is the only writer of its worker's record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::worker::WorkerClient;
use protocol::hive::{DownloadEvent, WorkerInfo};
use protocol::worker::{Backend, Health, LoadProgress, LoadStage, WorkerState};
use protocol::{ApiError, BootId, ErrorCode};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::failure::{self, Failure};
use super::health::{self, Verdict};
use super::ports::PortLease;
use super::preflight::{self, Reservation};
use super::process::{Exit, Order, Process};
use super::{Shared, load_at, url};
use crate::catalog::{KnownModel, LocalModel};
use crate::events::Board;

/// From its start to its word that it listens.
const LISTEN_TIMEOUT: Duration = Duration::from_mins(1);
/// From the order to stop to the signal.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The same while the hive itself is stopping: a queen gives it some 5 s before she kills it.
const STOP_GRACE_WITH_HIVE: Duration = Duration::from_secs(3);
/// From the signal to the kill.
const TERMINATE_GRACE: Duration = Duration::from_millis(500);
/// A worker is asked to stop, and says that it will, within this.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A worker that has served this long before it died starts with a clean slate.
const STEADY_AFTER: Duration = Duration::from_mins(1);
/// Between a worker's word that its load failed and its exit.
const EXIT_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Ports tried when another process snatches the one that was free.
const PORT_ATTEMPTS: u32 = 20;

/// One worker and all that watching it needs.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) info: WorkerInfo,
    pub(super) model: KnownModel,
    pub(super) port_is_fixed: bool,
    pub(super) lease: Option<PortLease>,
    pub(super) stop: CancellationToken,
    pub(super) listening: watch::Receiver<Option<BootId>>,
    /// Whether the present process has said that it listens.
    pub(super) answers: bool,
}

/// How one run of the process ended.
enum RunEnd {
    Stopped,
    Failed(Failure),
}

/// Why a run does not go on.
enum Cause {
    Stop,
    Exit(Exit),
    LoadFailed,
    Silent,
    Verdict(Verdict),
}

impl Supervisor {
    pub(super) async fn run(mut self) {
        if let Err(error) = self.live().await {
            tracing::error!(worker = %self.info.id, model = self.info.model_ref, %error, "the worker has failed");
            self.lease = None;
            self.info.pid = None;
            self.info.state = WorkerState::Stopped;
            self.info.slots_available = 0;
            self.info.loading.stage = LoadStage::Failed;
            self.info.error = Some(error);
            self.publish();
            // The record stays to be read until somebody has done with it.
            self.stop.cancelled().await;
        }
        self.lease = None;
        self.shared.handles().remove(&self.info.id);
        self.shared.board.remove_worker(&self.info.id);
    }

    /// Until the worker is stopped (`Ok`) or has failed for good.
    async fn live(&mut self) -> Result<(), ApiError> {
        let stop = self.stop.clone();
        let mut backoff = Backoff::default();
        let mut snatched_ports = 0;
        loop {
            let (local, reservation) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                prepared = self.prepare() => prepared?,
            };
            let started = Instant::now();
            match self.one_run(&local, reservation).await {
                RunEnd::Stopped => return Ok(()),
                RunEnd::Failed(Failure::Final(error)) => return Err(error),
                RunEnd::Failed(Failure::PortTaken(error)) => {
                    snatched_ports += 1;
                    if self.port_is_fixed || snatched_ports > PORT_ATTEMPTS {
                        return Err(error);
                    }
                    self.take_next_port()?;
                }
                RunEnd::Failed(Failure::Crash(error)) => {
                    if started.elapsed() >= STEADY_AFTER {
                        backoff = Backoff::default();
                    }
                    let Some(pause) = backoff.next() else { return Err(given_up(error)) };
                    self.await_restart(error, pause);
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// What must be there before a process is: the model, and room for it.
    async fn prepare(&mut self) -> Result<(LocalModel, Reservation), ApiError> {
        let (info, board) = (&mut self.info, &self.shared.board);
        let local =
            self.shared.catalog.obtain(&self.model, |event| note_download(info, board, event)).await?;
        let backend = self.info.backend;
        if backend == Backend::Cuda {
            let needed = preflight::needed_bytes(local.size_bytes);
            preflight::check_gpu_memory(self.info.device.unwrap_or(0), needed).await?;
        }
        let needed = preflight::needed_host_bytes(backend, local.size_bytes);
        let reservation = self.shared.memory.reserve(&self.info.id, needed)?;
        Ok((local, reservation))
    }

    async fn one_run(&mut self, local: &LocalModel, reservation: Reservation) -> RunEnd {
        let mut process = match self.start(local) {
            Ok(process) => process,
            Err(error) => return RunEnd::Failed(Failure::Final(error)),
        };
        let client =
            WorkerClient::new(self.shared.http.at(&self.info.url), &self.info.id, &self.info.boot_id);
        let stop = self.stop.clone();
        let cause = tokio::select! {
            () = stop.cancelled() => Cause::Stop,
            exit = process.wait() => Cause::Exit(exit),
            cause = self.attend(&client, reservation) => cause,
        };
        let was_loading = self.info.state == WorkerState::Loading;
        match cause {
            // It was told to end: by the idle timeout, whose answer its exit may overtake, or by somebody else.
            Cause::Exit(exit) if !was_loading && exit.status.is_some_and(|status| status.success()) => {
                RunEnd::Stopped
            }
            Cause::Exit(exit) => RunEnd::Failed(read_exit(&exit, was_loading)),
            Cause::Stop => self.end(&mut process, &client).await,
            Cause::Verdict(Verdict::Idle) => {
                tracing::info!(worker = %self.info.id, model = self.info.model_ref, "the worker was idle for too long");
                self.end(&mut process, &client).await
            }
            Cause::LoadFailed => {
                // It ends by itself, and its last words say why.
                let exit = tokio::time::timeout(EXIT_AFTER_FAILURE, process.wait()).await;
                let exit = if let Ok(exit) = exit { exit } else { ended(&mut process).await };
                RunEnd::Failed(read_exit(&exit, true))
            }
            Cause::Silent | Cause::Verdict(Verdict::Hung) => {
                let exit = ended(&mut process).await;
                let error = ApiError::new(
                    ErrorCode::WorkerLost,
                    "The worker did not answer any more and was killed.",
                );
                RunEnd::Failed(Failure::Crash(failure::with_log(error, &exit.tail)))
            }
        }
    }

    fn start(&mut self, local: &LocalModel) -> Result<Process, ApiError> {
        self.info.boot_id = Uuid::new_v4().to_string().into();
        self.info.state = WorkerState::Loading;
        self.info.loading = load_at(LoadStage::Starting);
        self.info.slots_available = 0;
        self.answers = false;
        // Before the process is there, so that its word to us meets a record that knows it.
        self.publish();
        let order = Order {
            settings: &self.shared.settings,
            worker_id: &self.info.id,
            boot_id: &self.info.boot_id,
            model_path: local.path.clone(),
            model_ref: &self.info.model_ref,
            backend: self.info.backend,
            gpu: self.info.device,
            slots: self.info.slots_total,
            port: self.lease.as_ref().map_or(0, PortLease::port),
        };
        let process = Process::start(&order).map_err(|error| {
            let binary = self.shared.settings.workers.binary.display();
            ApiError::new(
                ErrorCode::BackendNotAvailable,
                format!("The worker program {binary} cannot be run: {error}."),
            )
            .with_action("Build or install worker-rbee beside rbee-hive, or name it with --worker-binary.")
        })?;
        tracing::info!(worker = %self.info.id, pid = process.pid(), model = self.info.model_ref, url = self.info.url, "worker started");
        self.info.pid = Some(process.pid());
        self.publish();
        Ok(process)
    }

    /// Follows a process from its start for as long as it should go on.
    async fn attend(&mut self, client: &WorkerClient, reservation: Reservation) -> Cause {
        let boot_id = self.info.boot_id.clone();
        let listens = self.listening.wait_for(|listening| listening.as_ref() == Some(&boot_id));
        if tokio::time::timeout(LISTEN_TIMEOUT, listens).await.is_err() {
            return Cause::Silent;
        }
        self.answers = true;
        let (info, board) = (&mut self.info, &self.shared.board);
        if !health::follow_load(client, |progress| note_load(info, board, progress)).await {
            return Cause::LoadFailed;
        }
        // What the worker has taken shows in the machine's free memory from now on.
        drop(reservation);
        self.loaded(client).await;
        let (info, board) = (&mut self.info, &self.shared.board);
        let idle_timeout = self.shared.settings.workers.idle_timeout;
        Cause::Verdict(health::watch(client, idle_timeout, |health| note_health(info, board, health)).await)
    }

    async fn loaded(&mut self, client: &WorkerClient) {
        self.info.loading =
            LoadProgress { stage: LoadStage::Ready, progress: 1.0, ..self.info.loading.clone() };
        self.info.error = None;
        self.info.slots_available = self.info.slots_total;
        self.info.state = WorkerState::Idle;
        if let Some(health) = health::ask(client).await {
            take_over(&mut self.info, &health);
        }
        tracing::info!(worker = %self.info.id, model = self.info.model_ref, "worker ready");
        self.publish();
        if let Err(error) = self.shared.catalog.mark_used(&self.model).await {
            tracing::warn!(%error, "the model's use was not recorded");
        }
    }

    /// Ends the process: by request, then by signal, then by force.
    async fn end(&mut self, process: &mut Process, client: &WorkerClient) -> RunEnd {
        self.info.state = WorkerState::Stopping;
        self.info.slots_available = 0;
        self.publish();
        let asked =
            self.answers && matches!(tokio::time::timeout(ASK_TIMEOUT, client.shutdown()).await, Ok(Ok(_)));
        if !asked {
            process.terminate();
        }
        let (stopping, kill) = (self.shared.stopping.clone(), self.shared.kill.clone());
        let with_hive = async {
            stopping.cancelled().await;
            tokio::time::sleep(STOP_GRACE_WITH_HIVE).await;
        };
        tokio::select! {
            _ = process.wait() => return RunEnd::Stopped,
            () = tokio::time::sleep(STOP_GRACE) => {}
            () = with_hive => {}
            () = kill.cancelled() => {}
        }
        tracing::warn!(worker = %self.info.id, pid = process.pid(), "the worker did not end when told; it is signalled");
        process.terminate();
        tokio::select! {
            _ = process.wait() => return RunEnd::Stopped,
            () = tokio::time::sleep(TERMINATE_GRACE) => {}
            () = kill.cancelled() => {}
        }
        ended(process).await;
        RunEnd::Stopped
    }

    fn take_next_port(&mut self) -> Result<(), ApiError> {
        let snatched = self.lease.take().map(|lease| lease.port());
        let lease = self.shared.ports.lease(None, snatched)?;
        self.info.url = url(&lease);
        self.lease = Some(lease);
        Ok(())
    }

    /// Still "loading", since it will be ready again: stopped is for good.
    fn await_restart(&mut self, error: ApiError, pause: Duration) {
        tracing::warn!(worker = %self.info.id, %error, pause_ms = pause.as_millis() as u64, "the worker died and is started again");
        self.info.restarts += 1;
        self.info.pid = None;
        self.info.state = WorkerState::Loading;
        self.info.slots_available = 0;
        self.info.loading = load_at(LoadStage::Starting);
        self.info.error = Some(error.with_retry_after_ms(pause.as_millis() as u64));
        self.publish();
    }

    fn publish(&self) {
        self.shared.board.put_worker(&self.info);
    }
}

async fn ended(process: &mut Process) -> Exit {
    process.kill();
    process.wait().await
}

fn read_exit(exit: &Exit, was_loading: bool) -> Failure {
    if was_loading {
        failure::during_load(exit.status, &exit.tail)
    } else {
        Failure::Crash(failure::while_running(exit.status, &exit.tail))
    }
}

fn given_up(error: ApiError) -> ApiError {
    let message =
        format!("{} It was started again {} times in vain.", error.message, Backoff::PAUSES_S.len());
    ApiError { message, retriable: false, ..error }.with_action("Read the worker's log, then start it anew.")
}

fn note_download(info: &mut WorkerInfo, board: &Board, event: &DownloadEvent) {
    if let DownloadEvent::Progress(progress) = event {
        // The load itself has not begun; the bytes tell how far the download is.
        info.loading = LoadProgress {
            stage: LoadStage::Downloading,
            progress: 0.0,
            bytes_loaded: progress.bytes_downloaded,
            bytes_total: progress.total_bytes,
        };
        board.put_worker(info);
    }
}

fn note_load(info: &mut WorkerInfo, board: &Board, progress: LoadProgress) {
    info.loading = progress;
    board.put_worker(info);
}

fn note_health(info: &mut WorkerInfo, board: &Board, health: &Health) {
    let before = info.clone();
    take_over(info, health);
    if *info != before {
        board.put_worker(info);
    }
}

fn take_over(info: &mut WorkerInfo, health: &Health) {
    info.slots_total = health.slots_total;
    info.slots_available = health.slots_available;
    info.context_length = health.context_length;
    // A worker that was just loaded may not have turned its own page yet; that it is ready is known.
    if health.state.takes_requests() || health.state == WorkerState::Stopping {
        info.state = health.state;
    }
}

/// The pauses before each new start: growing, and scattered so that workers that died together do not start together.
#[derive(Debug, Default)]
struct Backoff {
    used: usize,
}

impl Backoff {
    const PAUSES_S: [u64; 5] = [1, 2, 4, 8, 16];
    const JITTER_MS: u64 = 1_000;

    fn next(&mut self) -> Option<Duration> {
        let seconds = Self::PAUSES_S.get(self.used)?;
        self.used += 1;
        Some(Duration::from_millis(seconds * 1_000 + rand::random_range(0..=Self::JITTER_MS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let mut backoff = Backoff::default();
        for seconds in [1, 2, 4, 8, 16] {
            let pause = backoff.next().unwrap();
            assert!(
                (seconds * 1_000..=seconds * 1_000 + 1_000).contains(&(pause.as_millis() as u64)),
                "{pause:?}"
            );
        }
        assert_eq!(backoff.next(), None);
    }

    #[test]
    fn who_was_started_again_in_vain_is_not_retried() {
        let error =
            given_up(ApiError::new(ErrorCode::WorkerLost, "The worker process ended with exit code 3."));
        assert!(!error.retriable);
        assert!(error.message.ends_with("started again 5 times in vain."), "{error}");
    }
}
