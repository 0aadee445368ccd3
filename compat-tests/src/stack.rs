//! A queen with her hive and workers.

use std::fs::File;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use client::gateway::GatewayClient;
use client::{Error, HttpClient};
use protocol::hive::WorkerInfo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use crate::chat::{ChatStream, Sampled, chat_body};
use crate::processes::{self, ProcessId, Signal};
use crate::raw::RawConnection;
use crate::{Sandbox, eventually};

/// For what takes a moment on a free machine and may take long on a busy one.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running queen, with what she started.
#[derive(Debug)]
pub struct Stack {
    /// Where it runs.
    pub sandbox: Arc<Sandbox>,
    /// Where the queen listens.
    pub url: String,
    /// Her own folder in the sandbox's.
    folder: &'static str,
    flags: Vec<String>,
    queen: Child,
    pid: ProcessId,
}

impl Stack {
    /// A queen who starts her own hive; both are ready.
    pub async fn start() -> Self {
        Self::start_with(&["--local-hive", "spawn"]).await
    }

    /// A queen with these flags; she is ready and has a hive.
    pub async fn start_with(flags: &[&str]) -> Self {
        let sandbox = Sandbox::new().await;
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::start_in(Arc::new(sandbox), "", flags).await
    }

    /// Another queen with a hive of her own beside this one, as on another machine.
    pub async fn start_beside(&self) -> Self {
        self.start_beside_with(self.flags.clone()).await
    }

    /// The same with other flags.
    pub async fn start_beside_with(&self, flags: Vec<String>) -> Self {
        let folder = self.sandbox.data_dir().join("beside");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(self.sandbox.data_dir().join("config.toml"), folder.join("config.toml")).unwrap();
        Self::start_in(self.sandbox.clone(), "beside", flags).await
    }

    async fn start_in(sandbox: Arc<Sandbox>, folder: &'static str, flags: Vec<String>) -> Self {
        let (queen, url) = start_queen(&sandbox, folder, &flags).await;
        let pid = queen.id().unwrap();
        let stack = Self { sandbox, url, folder, flags, queen, pid };
        stack.hive_connected().await;
        stack
    }

    /// Kills the queen as a power cut would, and starts another one on what she left.
    pub async fn kill_and_restart(&mut self) {
        self.signal_queen(Signal::KILL);
        self.queen_ended(PATIENCE).await;
        self.restart().await;
    }

    /// Starts another queen where one has ended.
    pub async fn restart(&mut self) {
        (self.queen, self.url) = start_queen(&self.sandbox, self.folder, &self.flags).await;
        self.pid = self.queen.id().unwrap();
        self.hive_connected().await;
    }

    async fn hive_connected(&self) {
        eventually("the hive is connected", PATIENCE, async || {
            let health = self.client().health().await.ok()?;
            (health.hives_connected > 0).then_some(())
        })
        .await;
    }

    /// The queen's process.
    pub fn queen_pid(&self) -> ProcessId {
        self.pid
    }

    /// The typed client.
    pub fn client(&self) -> GatewayClient {
        GatewayClient::new(self.http())
    }

    /// The plain client.
    pub fn http(&self) -> HttpClient {
        HttpClient::new(&self.url)
    }

    /// Asks once, so that there is a worker with a loaded model, and gives that worker.
    pub async fn warm_up(&self) -> WorkerInfo {
        self.ask("Hi", 1).await.unwrap();
        self.worker().await
    }

    /// The one worker.
    pub async fn worker(&self) -> WorkerInfo {
        let workers = self.client().workers().await.unwrap().workers;
        assert_eq!(workers.len(), 1, "{workers:?}");
        workers.into_iter().next().unwrap()
    }

    /// A chat completion in one piece.
    pub async fn ask(&self, prompt: &str, max_tokens: u32) -> Result<Value, Error> {
        let body = chat_body(prompt, max_tokens, Sampled::Whole);
        self.http().post("/v1/chat/completions", &body).await
    }

    /// A chat completion as a stream.
    pub async fn stream(&self, prompt: &str, max_tokens: u32) -> ChatStream {
        let body = chat_body(prompt, max_tokens, Sampled::Streamed);
        ChatStream::new(self.http().post_events("/v1/chat/completions", &body, &[]).await.unwrap())
    }

    /// A chat completion over a connection that the test can cut.
    pub async fn send(&self, prompt: &str, max_tokens: u32, sampled: Sampled) -> RawConnection {
        RawConnection::post(&self.url, "/v1/chat/completions", &chat_body(prompt, max_tokens, sampled)).await
    }

    /// Sends a signal to the queen alone.
    pub fn signal_queen(&self, signal: Signal) {
        processes::kill(self.pid, signal);
    }

    /// Waits for the queen's end.
    pub async fn queen_ended(&mut self, within: Duration) -> ExitStatus {
        timeout(within, self.queen.wait())
            .await
            .unwrap_or_else(|_| panic!("the queen runs after {within:?}"))
            .unwrap()
    }
}

/// A queen in this folder of a sandbox, and where she listens.
async fn start_queen(sandbox: &Sandbox, folder: &str, flags: &[String]) -> (Child, String) {
    std::fs::create_dir_all(sandbox.data_dir().join("logs")).unwrap();
    let log = sandbox.data_dir().join(format!("logs/queen{folder}.log"));
    let log = File::options().create(true).append(true).open(log).unwrap();
    let mut queen = sandbox
        .command("queen-rbee")
        .env("RBEE_DATA_DIR", sandbox.data_dir().join(folder))
        // Two hives do not look for ports in the same place.
        .env("RBEE_HIVE_FIRST_WORKER_PORT", if folder.is_empty() { "18101" } else { "18201" })
        .arg("daemon")
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(queen.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.expect("the queen says nothing").unwrap();
    let line = line.expect("the queen ended at her start");
    let url = line.strip_prefix("listening on ").expect("the queen tells where she listens").to_owned();
    (queen, url)
}
