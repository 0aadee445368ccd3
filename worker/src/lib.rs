//! worker-rbee: one process, one model. It loads a GGUF file, generates tokens and streams them; or it loads the folder of an
//! encoder, and makes vectors of texts or ranks them.
//!
//! A worker decides nothing about who is served when or where; it takes a request if a slot is free and says so if none
//! is. The rooms: `http` is the wire, `service` what a caller can ask for, `engine` runs the sequences, `file` reads
//! model files, `text` knows models and tokens, `embedding` is the same for encoders. This file is the supervisor: it starts them, loads the model and sees to the end.

mod announce;
pub mod bench;
pub mod config;
pub mod device;
pub mod embedding;
pub mod engine;
pub mod error;
pub mod file;
pub mod http;
pub mod lifecycle;
pub mod service;
pub mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::hive::WorkerReady;
use protocol::worker::{LoadProgress, WorkerState};
use protocol::{ApiError, ErrorCode};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ModelConfig};
use crate::embedding::engine::VectorEngine;
use crate::embedding::model::{Reader, VectorModel};
use crate::engine::Engine;
use crate::error::LoadError;
use crate::service::{Loaded, Service, Serving};
use crate::text::model::{LoadOrder, TextModel, load};

/// How long open connections may take to end once the worker stops: the errors to their readers are sent at once.
const GRACE: Duration = Duration::from_secs(3);

/// Serves until told to stop. `on_listening` is told the address as soon as it is bound. An error means that the process
/// should end with exit code 1.
pub async fn run(config: Config, on_listening: impl FnOnce(SocketAddr)) -> Result<(), ApiError> {
    let failed = |message: String| ApiError::new(ErrorCode::Internal, message);
    if !device::is_compiled_in(config.model.backend) {
        return Err(LoadError::BackendNotAvailable(config.model.backend).into());
    }
    daemon::auth::check_bind(config.bind, None)
        .map_err(|_| failed(format!("a worker listens on loopback only, not on {}", config.bind)))?;
    let stop = daemon::shutdown::watch(config.parent).map_err(|error| failed(error.to_string()))?;
    let (listener, address) =
        daemon::serve::bind(config.bind, config.port).await.map_err(|error| failed(error.to_string()))?;
    let service = Arc::new(Service::new(config, stop.clone()));
    let close_door = CancellationToken::new();
    let router = http::router(service.clone());
    let server = tokio::spawn(daemon::serve::serve(listener, router, close_door.clone(), GRACE));
    on_listening(address);
    let result = supervise(&service, address.port()).await;
    service.close();
    close_door.cancel();
    end_server(server).await;
    result
}

async fn end_server(server: JoinHandle<()>) {
    if let Err(error) = server.await {
        tracing::error!(%error, "the server panicked");
    }
}

/// Loads the model and lets the engine run, until there is an order to stop or nothing left to run.
async fn supervise(service: &Service, port: u16) -> Result<(), ApiError> {
    tell_hive(service, port).await;
    let loaded = start_load(service)?;
    let model = tokio::select! {
        () = service.stop.cancelled() => return Ok(()),
        model = loaded => model.unwrap_or_else(|_| Err(LoadError::Failed("the load ended by a panic".to_owned()))),
    };
    let model = model.map_err(|error| {
        let error = ApiError::from(error);
        service.lifecycle.failed(error.clone());
        error
    })?;
    let ended = start_engine(service, model)
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("cannot start the engine: {error}")))?;
    tracing::info!(model = service.config.model_ref, slots = service.slots().total(), "ready");
    tokio::select! {
        () = service.stop.cancelled() => Ok(()),
        outcome = ended => outcome
            .unwrap_or_else(|_| Err(ApiError::new(ErrorCode::Internal, "The engine ended by a panic."))),
    }
}

/// A model of either kind, as it comes from the load.
enum Model {
    Text(TextModel),
    Vectors(Box<VectorModel>, Arc<Reader>),
}

/// Starts the engine that the model needs and opens the door; the receiver learns of the engine's end.
fn start_engine(service: &Service, model: Model) -> std::io::Result<oneshot::Receiver<Result<(), ApiError>>> {
    let (serving, ended) = match model {
        Model::Text(TextModel { weights, language }) => {
            let (engine, ended) = Engine::start(
                weights,
                language.vocabulary.clone(),
                service.slots().total(),
                service.config.prefix_cache_bytes,
            )?;
            (Serving::Text(Loaded { engine, language }), ended)
        }
        Model::Vectors(model, reader) => {
            let (engine, ended) = VectorEngine::start(*model)?;
            (Serving::Vectors { engine, reader }, ended)
        }
    };
    service.open(serving);
    Ok(ended)
}

async fn tell_hive(service: &Service, port: u16) {
    let config = &service.config;
    let Some(hive_url) = &config.hive_url else { return };
    let ready = WorkerReady {
        worker_id: config.worker_id.clone(),
        boot_id: config.boot_id.clone(),
        port,
        model: config.model_ref.clone(),
        pid: std::process::id(),
        state: WorkerState::Loading,
    };
    tokio::select! {
        () = announce::announce(hive_url, &ready) => {}
        () = service.stop.cancelled() => {}
    }
}

/// Loads on a thread of its own, which the process does not wait for when it is told to stop in the middle.
fn start_load(service: &Service) -> Result<oneshot::Receiver<Result<Model, LoadError>>, ApiError> {
    let (sender, receiver) = oneshot::channel();
    let config = service.config.model.clone();
    let progress = service.lifecycle.reporter();
    std::thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || {
            // The supervisor is gone when the worker was told to stop; nobody wants the model then.
            let _ = sender.send(load_any(&config, move |loading| progress.progress(loading)));
        })
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("cannot start a thread: {error}")))?;
    Ok(receiver)
}

/// Loads whatever kind of model the path leads to.
fn load_any(
    config: &ModelConfig,
    mut progress: impl FnMut(LoadProgress) + 'static,
) -> Result<Model, LoadError> {
    if let Some(folder) = embedding::model::folder_of(&config.path) {
        let (model, reader) = embedding::model::load(&folder, config, progress)?;
        return Ok(Model::Vectors(Box::new(model), reader));
    }
    let ModelConfig { path, backend, gpu, context_limit, kv, threads, .. } = config;
    let order = LoadOrder {
        path,
        backend: *backend,
        gpu: *gpu,
        context_limit: *context_limit,
        kv: *kv,
        threads: *threads,
    };
    load(&order, &mut progress).map(Model::Text)
}
