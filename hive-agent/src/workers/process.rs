//! One run of a worker program: its process, its lifeline, its output.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use protocol::worker::Backend;
use protocol::{BootId, WorkerId};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use super::log;
use crate::process_group;

/// What a worker is started with.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) settings: &'a super::Settings,
    pub(super) worker_id: &'a WorkerId,
    pub(super) boot_id: &'a BootId,
    pub(super) model_path: PathBuf,
    pub(super) model_ref: &'a str,
    pub(super) backend: Backend,
    pub(super) gpu: Option<u32>,
    pub(super) slots: u32,
    pub(super) port: u16,
}

/// A running worker. Dropping it ends its whole process group.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: u32,
    /// The worker ends when this end of its standard input is closed, however this process ends.
    _lifeline: Option<ChildStdin>,
    output: Option<JoinHandle<String>>,
}

/// How a process ended, and the last that it said.
#[derive(Debug)]
pub(super) struct Exit {
    pub(super) status: Option<ExitStatus>,
    pub(super) tail: String,
}

impl Process {
    pub(super) fn start(order: &Order<'_>) -> std::io::Result<Self> {
        let workers = &order.settings.workers;
        std::fs::create_dir_all(&workers.log_dir)?;
        let (reader, writer) = std::io::pipe()?;
        let mut command = Command::new(&workers.binary);
        command
            .arg("--model")
            .arg(&order.model_path)
            .args(["--model-ref", order.model_ref, "--backend", order.backend.as_str()])
            .args(["--port", &order.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--worker-id", order.worker_id.as_str(), "--boot-id", order.boot_id.as_str()])
            .args(["--hive-url", &order.settings.hive_url, "--slots", &order.slots.to_string()])
            .arg("--exit-with-parent")
            .args(&workers.shared_flags);
        if let Some(gpu) = order.gpu {
            command.args(["--gpu", &gpu.to_string()]);
        }
        if let Some(threads) = workers.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        // The command still holds the write ends of the pipe; with them open its end would never be read.
        drop(command);
        let output = log::follow(reader, log::path(&workers.log_dir, order.worker_id))?;
        let pid = child.id().unwrap_or_default();
        Ok(Self { pid, _lifeline: child.stdin.take(), child, output: Some(output) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the process is gone. May be cancelled and called again.
    pub(super) async fn wait(&mut self) -> Exit {
        let status =
            self.child.wait().await.inspect_err(|error| tracing::error!(%error, "cannot wait for a worker"));
        let tail = match self.output.as_mut() {
            // What the worker left running might hold the pipe open; the process itself is gone and has said its last.
            Some(output) => tokio::time::timeout(std::time::Duration::from_millis(500), output)
                .await
                .ok()
                .and_then(Result::ok)
                .unwrap_or_default(),
            None => String::new(),
        };
        self.output = None;
        Exit { status: status.ok(), tail }
    }

    /// Asks the process group to end.
    pub(super) fn terminate(&self) {
        if self.child.id().is_some() {
            process_group::terminate(self.pid);
        }
    }

    /// Ends the process group.
    pub(super) fn kill(&self) {
        if self.child.id().is_some() {
            process_group::kill(self.pid);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
