//! The queen as a process: finding the one that runs, starting one, ending one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use client::HttpClient;
use client::gateway::GatewayClient;
use protocol::queen::{QueenFile, QueenHealth};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::sleep;

use crate::config::Settings;
use crate::failure::Failure;

/// A queen and her hive start within a second or two; this bound is for a machine that is short of everything.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A queen told to stop lets requests end, then ends her hive and its workers: within 10 s in all.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A queen on this machine that takes longer to say how she is, does not answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines of the log that are shown when she ends by herself, and the bytes in which they are looked for.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 * 1024;
/// A log that is larger than this when a queen is started makes room for a new one; the last one before is kept.
const LOG_BYTES: u64 = 8 * 1024 * 1024;

/// What is known of the queen on a data directory.
#[derive(Debug)]
pub(crate) enum Found {
    /// She answers.
    Running(QueenFile, QueenHealth),
    /// One works on the data directory, but she does not answer.
    Silent(QueenFile),
    /// None runs.
    Nobody,
}

/// A client for the queen at this URL.
pub(crate) fn client(settings: &Settings, url: &str) -> GatewayClient {
    let http = HttpClient::new(url);
    GatewayClient::new(match &settings.token {
        Some(token) => http.with_token(token.expose()),
        None => http,
    })
}

/// Looks for a queen on the data directory.
pub(crate) async fn find(settings: &Settings) -> Found {
    let Some(file) = read_file(&settings.queen_file()) else { return Found::Nobody };
    match health(settings, &file.url).await {
        Some(health) if health.pid == file.pid => Found::Running(file, health),
        _ if holds_the_lock(&settings.data_dir) => Found::Silent(file),
        // She was killed before she could remove her file.
        _ => Found::Nobody,
    }
}

/// How the queen at this URL is, if one answers.
pub(crate) async fn health(settings: &Settings, url: &str) -> Option<QueenHealth> {
    tokio::time::timeout(HEALTH_TIMEOUT, client(settings, url).health()).await.ok()?.ok()
}

/// A file that is being written when it is read makes no sense yet, and is read again later.
fn read_file(path: &Path) -> Option<QueenFile> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// How long a queen shall live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// No longer than this process: she ends when the pipe that we hold does.
    WithKeeper,
    /// Until she is told to stop.
    OnHerOwn,
}

/// A queen that this process started.
#[derive(Debug)]
pub(crate) struct Queen {
    child: Child,
    pid: Pid,
    /// Held, never written to: its end is the end of a queen that lives with the keeper.
    _lifeline: Option<ChildStdin>,
    log_start: u64,
}

impl Queen {
    /// Starts the program that stands beside ours, in a process group of its own, so that a Ctrl+C in the terminal
    /// reaches the keeper alone and she is stopped in order.
    pub(crate) fn start(settings: &Settings, lifetime: Lifetime) -> Result<Self, Failure> {
        let log = open_log(settings)?;
        let log_start = log.metadata()?.len();
        let mut command = command(settings, lifetime);
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = command.spawn().map_err(|error| {
            let program = settings.programs.join("queen-rbee");
            Failure::queen(format!("cannot start {}: {error}", program.display()))
                .advise("Build all programs with `make run`; they must stand in one folder.")
        })?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.ok_or_else(|| Failure::queen("the queen ended as soon as she was started"))?;
        let lifeline = child.stdin.take();
        Ok(Self { child, pid, _lifeline: lifeline, log_start })
    }

    /// Waits until she answers and her hive is connected.
    pub(crate) async fn ready(&mut self, settings: &Settings) -> Result<(QueenFile, QueenHealth), Failure> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.ended(settings, status));
            }
            let file =
                read_file(&settings.queen_file()).filter(|file| file.pid == self.pid.as_raw_pid() as u32);
            let mut answers = false;
            if let Some(file) = file
                && let Some(health) = health(settings, &file.url).await
            {
                if health.hives_connected > 0 {
                    return Ok((file, health));
                }
                answers = true;
            }
            if Instant::now() > deadline {
                let who = if answers { "the local hive did not connect" } else { "the queen did not answer" };
                return Err(Failure::queen(format!("{who} within {} s", START_TIMEOUT.as_secs()))
                    .advise(format!("Read the logs in {}.", settings.data_dir.join("logs").display())));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits for her end.
    pub(crate) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// The failure that her unwanted end is, with the last words of her log.
    pub(crate) fn ended(&self, settings: &Settings, status: ExitStatus) -> Failure {
        let log = settings.queen_log();
        let tail = tail(&log, self.log_start).unwrap_or_default();
        let mut message = format!("the queen ended by herself ({status})");
        if !tail.is_empty() {
            message = format!("{message}; the end of {}:\n{tail}", log.display());
        }
        Failure::queen(message)
    }

    /// Tells her to stop and waits; past the bound, or once `impatient` resolves, she is killed.
    pub(crate) async fn stop(&mut self, impatient: impl Future<Output = ()>) -> Result<(), Failure> {
        if self.child.try_wait()?.is_some() {
            // Her number may be somebody else's by now.
            return Ok(());
        }
        let _ = kill_process(self.pid, Signal::TERM);
        let reason = tokio::select! {
            status = self.child.wait() => return status.map(drop).map_err(Failure::from),
            () = sleep(STOP_TIMEOUT) => format!("the queen did not stop within {} s", STOP_TIMEOUT.as_secs()),
            () = impatient => "the queen was not waited for".to_owned(),
        };
        let _ = kill_process_group(self.pid, Signal::KILL);
        self.child.wait().await?;
        Err(Failure::queen(format!("{reason} and was killed"))
            .advise("What she had started ends itself within 20 s."))
    }
}

/// Tells a queen that another process started to stop, and waits until she is gone.
pub(crate) async fn stop(settings: &Settings, file: &QueenFile, health: &QueenHealth) -> Result<(), Failure> {
    let pid = pid(file.pid)?;
    // Told a second time, a queen ends at once and in no order.
    if health.status != "draining" {
        kill_process(pid, Signal::TERM).map_err(|error| {
            Failure::queen(format!("cannot stop the queen, process {pid}: {error}", pid = file.pid))
                .advise("Stop her as the user who started her.")
        })?;
    }
    if is_gone_soon(settings).await {
        return Ok(());
    }
    // She leads a group of her own where the keeper started her; else she goes alone.
    let _ = kill_process_group(pid, Signal::KILL).or_else(|_| kill_process(pid, Signal::KILL));
    let message = format!("the queen did not stop within {} s and was killed", STOP_TIMEOUT.as_secs());
    Err(Failure::queen(message).advise("What she had started ends itself within 20 s."))
}

/// Waits until no queen works on the data directory; false if one still does after the time that stopping may take.
pub(crate) async fn is_gone_soon(settings: &Settings) -> bool {
    let deadline = Instant::now() + STOP_TIMEOUT;
    while holds_the_lock(&settings.data_dir) {
        if Instant::now() > deadline {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
    true
}

fn command(settings: &Settings, lifetime: Lifetime) -> Command {
    let mut command = Command::new(settings.programs.join("queen-rbee"));
    command.arg("daemon").args(["--local-hive", "spawn"]).arg("--data-dir").arg(&settings.data_dir);
    if let Some(config) = &settings.config {
        command.arg("--config").arg(config);
    }
    if let Some(port) = settings.port {
        command.args(["--port", &port.to_string()]);
    }
    if let Some(bind) = settings.bind {
        command.args(["--bind", &bind.to_string()]);
    }
    if let Some(backend) = settings.backend {
        command.args(["--backend", backend.as_str()]);
    }
    if let Some(gpu) = settings.gpu {
        command.args(["--gpu", &gpu.to_string()]);
    }
    if let Some(level) = &settings.log_level {
        command.args(["--log-level", level]);
    }
    if let Some(token) = &settings.token {
        // Not as an argument: every user of the machine can read those.
        command.env("RBEE_TOKEN", token.expose());
    }
    match lifetime {
        Lifetime::WithKeeper => command.arg("--exit-with-parent").stdin(Stdio::piped()),
        Lifetime::OnHerOwn => command.stdin(Stdio::null()),
    };
    command
}

fn open_log(settings: &Settings) -> Result<File, Failure> {
    let path = settings.queen_log();
    let open = || {
        std::fs::create_dir_all(settings.data_dir.join("logs"))?;
        if path.metadata().is_ok_and(|log| log.len() > LOG_BYTES) {
            std::fs::rename(&path, path.with_extension("log.old"))?;
        }
        OpenOptions::new().create(true).append(true).open(&path)
    };
    open().map_err(|error| {
        Failure::internal(format!("cannot write the queen's log {}: {error}", path.display()))
            .advise("Make the folder writable, or choose another data directory with --data-dir.")
    })
}

/// The last lines of a file, none from before `start`.
fn tail(path: &Path, start: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

fn pid(pid: u32) -> Result<Pid, Failure> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Failure::queen(format!("queen.json names process {pid}, which cannot be")))
}

/// Whether a queen works on the data directory. Her lock tells, not her process id: a process that nobody has waited
/// for keeps its id after its end.
fn holds_the_lock(data_dir: &Path) -> bool {
    let Ok(lock) = File::open(data_dir.join("queen.lock")) else { return false };
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_begins_no_earlier_than_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queen.log");
        let old = "an older run\n".repeat(3);
        let new = (0..30).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
        std::fs::write(&path, format!("{old}{new}")).unwrap();
        let shown = tail(&path, old.len() as u64).unwrap();
        assert!(shown.starts_with("line 10\n") && shown.ends_with("line 29"), "{shown}");
        assert_eq!(tail(&path, (old.len() + new.len()) as u64).unwrap(), "");
    }

    #[test]
    fn a_queen_is_there_for_as_long_as_her_lock_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!holds_the_lock(dir.path()));
        let lock = File::create(dir.path().join("queen.lock")).unwrap();
        assert!(!holds_the_lock(dir.path()));
        lock.lock().unwrap();
        assert!(holds_the_lock(dir.path()));
        drop(lock);
        assert!(!holds_the_lock(dir.path()));
    }
}
