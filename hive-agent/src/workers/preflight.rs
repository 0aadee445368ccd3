//! What must hold before a worker is started. A worker that cannot run is refused here, with the numbers, instead of
//! dying later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::hive::Detection;
use protocol::worker::Backend;
use protocol::{ApiError, ErrorCode, WorkerId};

use crate::detect;
use crate::size;

/// What a worker takes besides its model: the program, its buffers, a first context.
const WORKER_BYTES: u64 = 256 << 20;

/// A rough need: the weights, a fifth more for what is computed from them, and the worker itself.
pub(super) fn needed_bytes(model_bytes: u64) -> u64 {
    model_bytes + model_bytes / 5 + WORKER_BYTES
}

/// The same for the machine's own memory: a CUDA device keeps the weights in its own.
pub(super) fn needed_host_bytes(backend: Backend, model_bytes: u64) -> u64 {
    if backend == Backend::Cuda { WORKER_BYTES } else { needed_bytes(model_bytes) }
}

/// Refuses a backend or device that is not there or that the worker program was not built for.
pub(super) fn check_backend(
    detection: &Detection,
    backend: Backend,
    gpu: Option<u32>,
) -> Result<(), ApiError> {
    let reports = || detection.backends.iter().filter(|report| report.backend == backend);
    let is_meant = |device: Option<u32>| backend == Backend::Cpu || device == Some(gpu.unwrap_or(0));
    if reports().any(|report| report.available && is_meant(report.device)) {
        return Ok(());
    }
    let why = match reports().find(|report| is_meant(report.device)).or_else(|| reports().next()) {
        Some(report) if report.available => format!("there is no {backend} device {}", gpu.unwrap_or(0)),
        Some(report) => report.detail.clone(),
        None => "it is unknown here".to_owned(),
    };
    let there: Vec<&str> = detect::usable_backends(detection).into_iter().map(Backend::as_str).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    let message = format!("Backend {backend} cannot be used: {why}. Usable here: {there}.");
    Err(ApiError::new(ErrorCode::BackendNotAvailable, message).with_param("backend"))
}

/// Memory promised to workers that have not taken it yet.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    bytes: Mutex<HashMap<WorkerId, u64>>,
}

/// Memory promised to one worker, until this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    worker_id: WorkerId,
    all: Arc<Reservations>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.all.bytes().remove(&self.worker_id);
    }
}

impl Reservations {
    /// Refuses a model that the machine has no room for now.
    pub(super) fn check(&self, needed: u64) -> Result<(), ApiError> {
        let promised = self.bytes().values().sum();
        fits(needed, available_bytes(), promised)
    }

    /// Promises memory to a worker, if there is room.
    pub(super) fn reserve(
        self: &Arc<Self>,
        worker_id: &WorkerId,
        needed: u64,
    ) -> Result<Reservation, ApiError> {
        let available = available_bytes();
        let mut bytes = self.bytes();
        fits(needed, available, bytes.values().sum())?;
        bytes.insert(worker_id.clone(), needed);
        Ok(Reservation { worker_id: worker_id.clone(), all: Arc::clone(self) })
    }

    fn bytes(&self) -> MutexGuard<'_, HashMap<WorkerId, u64>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the system does not tell, the worker itself has to find out.
fn available_bytes() -> u64 {
    detect::memory().map_or(u64::MAX, |memory| memory.available_bytes)
}

fn fits(needed: u64, available: u64, promised: u64) -> Result<(), ApiError> {
    let left = available.saturating_sub(promised);
    if needed <= left {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::InsufficientMemory,
        format!("The model needs about {} of memory; {} are free.", size::human(needed), size::human(left)),
    )
    .with_detail("required_bytes", needed)
    .with_detail("available_bytes", left))
}

/// Refuses a model that a GPU has no room for now.
pub(super) async fn check_gpu_memory(gpu: u32, needed: u64) -> Result<(), ApiError> {
    let devices = detect::cuda_devices().await.map_err(|why| {
        ApiError::new(ErrorCode::BackendNotAvailable, format!("Backend cuda cannot be used: {why}."))
    })?;
    let free = devices.iter().find(|device| device.index == gpu).map_or(0, |device| device.memory_free_bytes);
    if needed <= free {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::InsufficientMemory,
        format!(
            "The model needs about {} of memory; {} are free on GPU {gpu}.",
            size::human(needed),
            size::human(free)
        ),
    )
    .with_detail("required_bytes", needed)
    .with_detail("available_bytes", free)
    .with_action("Use a smaller model, stop other workers on this GPU, or select the CPU backend."))
}

#[cfg(test)]
mod tests {
    use protocol::hive::BackendReport;

    use super::*;

    fn report(backend: Backend, available: bool, device: Option<u32>, detail: &str) -> BackendReport {
        BackendReport { backend, available, device, detail: detail.to_owned(), memory_total_bytes: None }
    }

    fn detection(backends: Vec<BackendReport>) -> Detection {
        Detection {
            platform: String::new(),
            cpu: String::new(),
            cores: 1,
            cpu_features: Vec::new(),
            memory_total_bytes: 0,
            memory_available_bytes: 0,
            backends,
        }
    }

    #[test]
    fn a_backend_that_is_not_there_is_refused_with_the_reason_and_what_is_there() {
        let machine = detection(vec![
            report(Backend::Cpu, true, None, "a processor"),
            report(Backend::Cuda, true, Some(0), "a GPU"),
            report(Backend::Metal, false, None, "Metal is there on macOS only"),
        ]);
        assert!(check_backend(&machine, Backend::Cpu, None).is_ok());
        assert!(check_backend(&machine, Backend::Cuda, None).is_ok());
        let error = check_backend(&machine, Backend::Cuda, Some(3)).unwrap_err();
        assert!(error.message.contains("no cuda device 3"), "{error}");
        let error = check_backend(&machine, Backend::Metal, None).unwrap_err();
        assert_eq!(error.code, ErrorCode::BackendNotAvailable);
        assert!(error.message.contains("macOS only") && error.message.contains("cpu, cuda"), "{error}");
    }

    #[test]
    fn what_was_promised_is_not_promised_twice() {
        assert!(fits(3 << 30, 4 << 30, 1 << 30).is_ok());
        let error = fits(4 << 30, 4 << 30, 1 << 30).unwrap_err();
        assert_eq!(error.message, "The model needs about 4.0 GiB of memory; 3.0 GiB are free.");
        let all = Arc::new(Reservations::default());
        let reservation = all.reserve(&"w".into(), 1).unwrap();
        assert_eq!(all.bytes().values().sum::<u64>(), 1);
        drop(reservation);
        assert!(all.bytes().is_empty());
    }
}
