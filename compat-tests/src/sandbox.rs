//! A data directory, the processes that work on it, and the certainty that both are gone afterwards.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};

use crate::processes::{self, Process, ProcessId, Signal};

/// The model that the tests talk to.
pub const MODEL: &str = "smollm2-135m-instruct";
/// The model that makes vectors.
pub const EMBEDDING_MODEL: &str = "all-minilm-l6-v2";

/// By this variable the processes of a sandbox are known.
const MARK: &str = "COMPAT_TEST_SANDBOX";

/// Two systems at once on a small machine would disturb each other's times: one test runs at a time.
static TURN: Mutex<()> = Mutex::const_new(());
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A data directory and its processes.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    mark: String,
    _turn: MutexGuard<'static, ()>,
}

impl Sandbox {
    /// Waits for its turn and makes a data directory in whose settings the test models stand.
    pub async fn new() -> Self {
        let turn = TURN.lock().await;
        let dir = tempfile::Builder::new().prefix("rbee-test-").tempdir().unwrap();
        let models = [
            (MODEL, "text-gen", format!("{MODEL}.gguf")),
            (EMBEDDING_MODEL, "embedding", format!("{EMBEDDING_MODEL}/model.safetensors")),
        ];
        let settings: Vec<String> = models
            .into_iter()
            .map(|(name, kind, file)| {
                let path = model_file(&file);
                format!(
                    "[[hive.models]]\nreference = \"{name}\"\nkind = \"{kind}\"\nprovider = \"file\"\npath = \"{}\"\n",
                    path.display()
                )
            })
            .collect();
        std::fs::write(dir.path().join("config.toml"), settings.concat()).unwrap();
        let mark = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        Self { dir, mark, _turn: turn }
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// One of the four programs, ready to be started in this sandbox with no settings but the sandbox's own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program_file(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RBEE_") {
                command.env_remove(name);
            }
        }
        command
            .env_remove("RUST_LOG")
            .env(MARK, &self.mark)
            .env("RBEE_DATA_DIR", self.data_dir())
            .env("RBEE_QUEEN_PORT", "0")
            // An answer that is found again tells nothing of the way to it.
            .env("RBEE_CACHE_MB", "0")
            .env("RBEE_HIVE_PORT", "0")
            .env("RBEE_HIVE_FIRST_WORKER_PORT", "18101")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// All processes that were started in this sandbox and live.
    pub fn processes(&self) -> Vec<Process> {
        processes::with_variable(MARK, &self.mark)
    }

    /// The processes of one program.
    pub fn processes_of(&self, program: &str) -> Vec<ProcessId> {
        self.processes()
            .into_iter()
            .filter(|process| process.program == program)
            .map(|process| process.id)
            .collect()
    }

    /// Waits until no process is left.
    pub async fn emptied(&self, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "still there after {within:?}: {left:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn show_logs(&self) {
        let logs = std::fs::read_dir(self.data_dir().join("logs")).into_iter().flatten().flatten();
        for entry in logs {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("--- {}\n{tail}", entry.path().display());
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // The dying may still start a child: as long as somebody is there, everybody is killed.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            for process in left {
                processes::kill(process.id, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A program as it was built: in RBEE_BIN_DIR, or beside the tests.
fn program_file(program: &str) -> PathBuf {
    let dir = std::env::var_os("RBEE_BIN_DIR").map_or_else(
        // Tests lie in a folder of their own below the programs.
        || std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned(),
        PathBuf::from,
    );
    let file = dir.join(program);
    assert!(file.is_file(), "there is no {}: run `make test`, which builds all programs", file.display());
    file
}

/// A real model that `make test` fetched.
fn model_file(name: &str) -> PathBuf {
    let dir = std::env::var_os("RBEE_TEST_MODELS");
    let dir = dir.expect(
        "RBEE_TEST_MODELS must name a folder with the real models: run `make test`, which fetches them",
    );
    let file = PathBuf::from(dir).join(name);
    assert!(file.is_file(), "there is no {}: run `make test`, which fetches it", file.display());
    file
}
