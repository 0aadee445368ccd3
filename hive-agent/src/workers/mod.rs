//! The worker processes of this machine: started on order, each watched by a supervisor of its own, ended on order, when
//! idle for too long, and with the hive.

mod failure;
mod health;
mod log;
mod ports;
mod preflight;
mod process;
mod supervisor;

use client::worker::WorkerClient;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::HttpClient;
use protocol::hive::{Detection, ModelKind, SpawnRequest, WorkerInfo, WorkerReady};
use protocol::worker::{Backend, LoadProgress, LoadStage, WorkerState};
use protocol::{ApiError, BootId, ErrorCode, WorkerId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::catalog::{Catalog, KnownModel};
use crate::config::WorkerSettings;
use crate::detect;
use crate::events::Board;
use ports::{PortLease, Ports};
use preflight::Reservations;
use supervisor::Supervisor;

/// Requests that a worker with an encoder takes at once: they share batches, and a slot costs next to nothing.
const VECTOR_SLOTS: u32 = 32;
/// A worker may be asked for this many slots; each holds a whole context's keys and values.
const SLOTS_MAX: u32 = 256;
/// All workers are gone this long after the hive was told to stop, those that do not listen included.
const STOP_ALL: Duration = Duration::from_millis(4500);

/// What workers are started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How workers are started and ended.
    pub workers: WorkerSettings,
    /// Where workers reach this hive.
    pub hive_url: String,
}

/// The worker processes of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    catalog: Catalog,
    board: Arc<Board>,
    detection: Mutex<Detection>,
    ports: Arc<Ports>,
    memory: Arc<Reservations>,
    http: HttpClient,
    handles: Mutex<HashMap<WorkerId, Handle>>,
    tasks: TaskTracker,
    /// The hive is stopping: no worker is started any more, and those that end have less time for it.
    stopping: CancellationToken,
    /// The time for stopping is over.
    kill: CancellationToken,
}

/// How the rest of the hive reaches a supervisor.
#[derive(Debug)]
struct Handle {
    stop: CancellationToken,
    listening: watch::Sender<Option<BootId>>,
}

impl Workers {
    /// No workers yet.
    pub fn new(settings: Settings, catalog: Catalog, board: Arc<Board>, detection: Detection) -> Self {
        let shared = Shared {
            ports: Arc::new(Ports::starting_at(settings.workers.first_port)),
            settings,
            catalog,
            board,
            detection: Mutex::new(detection),
            memory: Arc::default(),
            http: HttpClient::new("http://127.0.0.1"),
            handles: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            kill: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts a worker, fetching its model first if it is not here. What can be refused is refused now; what can only be
    /// seen later is told by events.
    pub async fn spawn(&self, request: SpawnRequest) -> Result<WorkerInfo, ApiError> {
        let shared = &self.shared;
        check_numbers(&request)?;
        let model = shared.catalog.resolve(&request.model, None).await?;
        check_kind(&model, request.backend)?;
        shared.catalog.check_source(&model)?;
        self.check_backend(&request).await?;
        let model_bytes = shared.catalog.expected_bytes(&model);
        shared.memory.check(preflight::needed_host_bytes(request.backend, model_bytes))?;
        let lease = shared.ports.lease(request.port, None)?;
        let info = self.new_worker(&request, &model, &lease);
        self.forget_failed_like(&info);
        log::prune(&shared.settings.workers.log_dir, |id| shared.board.worker(&id.into()).is_some());
        self.supervise(info, model, request.port.is_some(), lease)
    }

    /// A worker listens.
    pub fn listening(&self, report: &WorkerReady) -> Result<(), ApiError> {
        let worker = self.shared.board.worker(&report.worker_id).ok_or_else(|| unknown(&report.worker_id))?;
        if worker.boot_id != report.boot_id {
            return Err(ApiError::new(
                ErrorCode::WorkerMismatch,
                format!(
                    "Worker {} has been started again since; this is an earlier run of it.",
                    report.worker_id
                ),
            ));
        }
        if let Some(handle) = self.shared.handles().get(&report.worker_id) {
            handle.listening.send_replace(Some(report.boot_id.clone()));
        }
        Ok(())
    }

    /// Ends a worker, or removes one that failed; gives it as it is right after.
    pub fn shutdown(&self, worker_id: &WorkerId) -> Result<WorkerInfo, ApiError> {
        let worker = self.shared.board.worker(worker_id).ok_or_else(|| unknown(worker_id))?;
        if let Some(handle) = self.shared.handles().get(worker_id) {
            handle.stop.cancel();
        }
        let state = match worker.state {
            WorkerState::Stopped => WorkerState::Stopped,
            _ => WorkerState::Stopping,
        };
        Ok(WorkerInfo { state, ..worker })
    }

    /// Ends a worker unless it has something to do, which it alone knows.
    pub async fn shutdown_if_idle(&self, worker_id: &WorkerId) -> Result<WorkerInfo, ApiError> {
        let worker = self.shared.board.worker(worker_id).ok_or_else(|| unknown(worker_id))?;
        let client = WorkerClient::new(self.shared.http.at(&worker.url), &worker.id, &worker.boot_id);
        client
            .shutdown_if_idle()
            .await
            .map_err(|error| error.into_api_error(ErrorCode::WorkerLost, "The worker does not answer."))?;
        Ok(WorkerInfo { state: WorkerState::Stopping, ..worker })
    }

    /// Ends all workers at once and waits until they are gone.
    pub async fn stop(&self) {
        self.shared.stopping.cancel();
        for handle in self.shared.handles().values() {
            handle.stop.cancel();
        }
        self.shared.tasks.close();
        if tokio::time::timeout(STOP_ALL, self.shared.tasks.wait()).await.is_err() {
            self.shared.kill.cancel();
            self.shared.tasks.wait().await;
        }
    }

    /// A build or a driver may have come since the last look, so a refusal is checked against a new one.
    async fn check_backend(&self, request: &SpawnRequest) -> Result<(), ApiError> {
        let known = preflight::check_backend(&self.shared.detection(), request.backend, request.gpu);
        if known.is_ok() && self.shared.settings.workers.binary.is_file() {
            return Ok(());
        }
        let detection = detect::detect(&self.shared.settings.workers.binary).await;
        self.shared.board.set_backends(detect::usable_backends(&detection));
        let result = preflight::check_backend(&detection, request.backend, request.gpu);
        *self.shared.detection() = detection;
        result
    }

    fn new_worker(&self, request: &SpawnRequest, model: &KnownModel, lease: &PortLease) -> WorkerInfo {
        let usual = match model.kind {
            ModelKind::TextGen => self.shared.settings.workers.slots,
            ModelKind::Embedding | ModelKind::Rerank => VECTOR_SLOTS,
        };
        let slots = request.slots.unwrap_or(usual);
        WorkerInfo {
            // Version 7 sorts by time, and so does every list of workers.
            id: Uuid::now_v7().to_string().into(),
            boot_id: Uuid::new_v4().to_string().into(),
            url: url(lease),
            pid: None,
            model_ref: model.reference.as_str().to_owned(),
            backend: request.backend,
            device: (request.backend != Backend::Cpu).then(|| request.gpu.unwrap_or(0)),
            state: WorkerState::Loading,
            slots_total: slots,
            slots_available: 0,
            context_length: 0,
            loading: load_at(LoadStage::Starting),
            restarts: 0,
            error: None,
        }
    }

    /// A new attempt replaces the record of the failed one before it, so such records do not pile up.
    fn forget_failed_like(&self, new: &WorkerInfo) {
        let is_like = |old: &WorkerInfo| {
            old.state == WorkerState::Stopped
                && (&old.model_ref, old.backend, old.device) == (&new.model_ref, new.backend, new.device)
        };
        let handles = self.shared.handles();
        for old in self.shared.board.workers().iter().filter(|old| is_like(old)) {
            if let Some(handle) = handles.get(&old.id) {
                handle.stop.cancel();
            }
        }
    }

    fn supervise(
        &self,
        info: WorkerInfo,
        model: KnownModel,
        port_is_fixed: bool,
        lease: PortLease,
    ) -> Result<WorkerInfo, ApiError> {
        let mut handles = self.shared.handles();
        if self.shared.stopping.is_cancelled() {
            return Err(ApiError::new(ErrorCode::ShuttingDown, "The hive is shutting down."));
        }
        let stop = CancellationToken::new();
        let listening = watch::Sender::new(None);
        let supervisor = Supervisor {
            shared: Arc::clone(&self.shared),
            info: info.clone(),
            model,
            port_is_fixed,
            lease: Some(lease),
            stop: stop.clone(),
            listening: listening.subscribe(),
            answers: false,
        };
        handles.insert(info.id.clone(), Handle { stop, listening });
        self.shared.board.put_worker(&info);
        self.shared.tasks.spawn(supervisor.run());
        Ok(info)
    }
}

impl Shared {
    fn handles(&self) -> MutexGuard<'_, HashMap<WorkerId, Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn detection(&self) -> MutexGuard<'_, Detection> {
        self.detection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn url(lease: &PortLease) -> String {
    format!("http://127.0.0.1:{}", lease.port())
}

const fn load_at(stage: LoadStage) -> LoadProgress {
    LoadProgress { stage, progress: 0.0, bytes_loaded: 0, bytes_total: 0 }
}

fn check_numbers(request: &SpawnRequest) -> Result<(), ApiError> {
    if let Some(slots) = request.slots.filter(|slots| !(1..=SLOTS_MAX).contains(slots)) {
        return Err(ApiError::invalid(
            "slots",
            format!("'slots' is {slots}; 1 to {SLOTS_MAX} are possible."),
        ));
    }
    if request.port == Some(0) {
        return Err(
            ApiError::invalid("port", "'port' is 0.").with_action("Leave it out to get the next free port.")
        );
    }
    if let (Backend::Cpu, Some(gpu)) = (request.backend, request.gpu) {
        return Err(ApiError::invalid("gpu", format!("'gpu' is {gpu}, but backend cpu computes on no GPU.")));
    }
    Ok(())
}

/// Encoders compute on the CPU, and no other device stands in for one that was named.
fn check_kind(model: &KnownModel, backend: Backend) -> Result<(), ApiError> {
    if model.kind == ModelKind::TextGen || backend == Backend::Cpu {
        return Ok(());
    }
    let message = format!(
        "'{}' is an {} model; these run on the backend cpu, not on {backend}.",
        model.reference,
        model.kind.as_str()
    );
    Err(ApiError::new(ErrorCode::UnsupportedModel, message)
        .with_param("backend")
        .with_action("Use the backend cpu."))
}

fn unknown(worker_id: &WorkerId) -> ApiError {
    ApiError::new(ErrorCode::WorkerNotFound, format!("This hive has no worker {worker_id}."))
        .with_param("worker_id")
}
