//! A hive and a worker that are not there: they speak the protocol and do what a test tells them to.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use futures::{StreamExt, stream};
use protocol::TaskEvent;
use protocol::events::{End, FinishReason, Started, Timings, Token, TokenUsage};
use protocol::hive::{HiveEvent, HiveSnapshot, ModelEntry, ModelKind, Provider, WorkerInfo};
use protocol::worker::{Backend, ExecuteRequest, LoadProgress, LoadStage, WorkerState};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// The model that the fake worker has.
pub const FAKE_MODEL: &str = "fake";

/// A worker that sends as many tokens as it is asked for, each 1 ms after the last.
#[derive(Debug, Clone)]
pub struct FakeWorker {
    port: u16,
    written: Written,
}

/// When each token of the last answer was written.
type Written = Arc<Mutex<Vec<Instant>>>;

/// From one token to the next.
const PAUSE: Duration = Duration::from_millis(1);

impl FakeWorker {
    /// Starts listening.
    pub async fn start() -> Self {
        let (listener, port) = listen().await;
        let written = Written::default();
        let router = Router::new().route("/v1/execute", post(execute)).with_state(written.clone());
        tokio::spawn(axum::serve(nodelay(listener), router).into_future());
        Self { port, written }
    }

    /// When each token of the last answer was written.
    pub fn written(&self) -> Vec<Instant> {
        self.written.lock().unwrap().clone()
    }

    fn info(&self) -> WorkerInfo {
        WorkerInfo {
            id: "fake-worker".into(),
            boot_id: "fake-boot".into(),
            url: format!("http://127.0.0.1:{}", self.port),
            pid: None,
            model_ref: FAKE_MODEL.into(),
            backend: Backend::Cpu,
            device: None,
            state: WorkerState::Idle,
            slots_total: 1,
            slots_available: 1,
            context_length: 2048,
            loading: LoadProgress { stage: LoadStage::Ready, progress: 1.0, bytes_loaded: 1, bytes_total: 1 },
            restarts: 0,
            error: None,
        }
    }
}

async fn execute(State(written): State<Written>, Json(request): Json<ExecuteRequest>) -> Response {
    let (sender, receiver) = mpsc::unbounded_channel();
    let count = request.max_tokens.unwrap();
    written.lock().unwrap().clear();
    tokio::spawn(async move {
        let started = Started { worker_id: "fake-worker".into(), prompt_tokens: 1, seed: 1 };
        let _ = sender.send(TaskEvent::Started(started));
        for index in 0..count {
            tokio::time::sleep(PAUSE).await;
            written.lock().unwrap().push(Instant::now());
            let _ =
                sender.send(TaskEvent::Token(Token { token: token_text(index), index, ..Token::default() }));
        }
        let usage = TokenUsage { prompt_tokens: 1, completion_tokens: count, ..TokenUsage::default() };
        let (finish_reason, timings) = (FinishReason::Length, Timings::default());
        let _ = sender.send(TaskEvent::End(End {
            done: true,
            total_tokens: count,
            finish_reason,
            finish_reasons: Vec::new(),
            stop_sequences: Vec::new(),
            usage,
            timings,
        }));
    });
    events(UnboundedReceiverStream::new(receiver).map(|event| (event.name(), event.data().unwrap())))
}

/// The text of one token, which no other token's text contains.
pub fn token_text(index: u32) -> String {
    format!("<{index}>")
}

/// A hive that reports one worker and its model, and nothing else ever.
#[derive(Debug, Clone, Copy)]
pub struct FakeHive {
    /// Where it listens.
    pub port: u16,
}

impl FakeHive {
    /// Starts listening.
    pub async fn start(worker: &FakeWorker) -> Self {
        let (listener, port) = listen().await;
        let snapshot = HiveSnapshot {
            boot_id: "fake-hive".into(),
            workers: vec![worker.info()],
            models: vec![ModelEntry {
                reference: FAKE_MODEL.into(),
                sha256: None,
                provider: Provider::File,
                kind: ModelKind::TextGen,
                size_bytes: 1,
                downloaded: true,
                downloaded_at: Some(1),
                last_used_at: None,
            }],
            backends: vec![Backend::Cpu],
        };
        let router = Router::new().route("/v1/events", get(report)).with_state(snapshot);
        tokio::spawn(axum::serve(nodelay(listener), router).into_future());
        Self { port }
    }
}

async fn report(State(snapshot): State<HiveSnapshot>) -> Response {
    let snapshot = HiveEvent::Snapshot(snapshot);
    let first = (snapshot.name(), snapshot.data().unwrap());
    events(stream::once(async { first }).chain(stream::pending()))
}

fn events(events: impl futures::Stream<Item = (&'static str, String)> + Send + 'static) -> Response {
    let frames = events.map(|(name, data)| Ok::<_, Infallible>(format!("event: {name}\ndata: {data}\n\n")));
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(frames)).into_response()
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn nodelay(listener: TcpListener) -> impl axum::serve::Listener<Addr = std::net::SocketAddr> {
    listener.tap_io(|stream| stream.set_nodelay(true).unwrap())
}
