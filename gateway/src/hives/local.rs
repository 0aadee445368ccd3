//! The hive on the queen's own machine, when she starts it herself: started again when it dies, stopped with her.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use daemon::auth::Token;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::pauses::doubling;

/// A hive has this long to stop its workers and end; then it is killed.
const STOP_WITHIN: Duration = Duration::from_millis(5500);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(16);
/// A hive that ran this long was well, and a later fault is a new one.
const WELL_AFTER: Duration = Duration::from_mins(1);

/// The hive's process and where it listens.
pub struct LocalHiveProcess {
    program: PathBuf,
    arguments: Vec<std::ffi::OsString>,
    token: Option<Token>,
    url: watch::Sender<Option<String>>,
}

impl LocalHiveProcess {
    /// The hive's program is looked for beside the queen's.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let program = std::env::current_exe()
            .context("cannot tell where the queen's program is")?
            .with_file_name("rbee-hive");
        anyhow::ensure!(
            program.is_file(),
            "there is no {}; build all programs with `make run`",
            program.display()
        );
        let mut arguments: Vec<std::ffi::OsString> = vec!["daemon".into(), "--exit-with-parent".into()];
        arguments.extend(["--port".into(), settings.hive_port.to_string().into()]);
        arguments.extend(["--data-dir".into(), settings.data_dir.clone().into()]);
        if let Some(level) = &settings.log_flag {
            arguments.extend(["--log-level".into(), level.into()]);
        }
        if let Some(file) = &settings.config_file {
            arguments.extend(["--config".into(), file.into()]);
        }
        Ok(Self { program, arguments, token: settings.hive_token.clone(), url: watch::Sender::new(None) })
    }

    /// Where the hive listens, once it does.
    pub fn url(&self) -> watch::Receiver<Option<String>> {
        self.url.subscribe()
    }

    /// Keeps a hive running until `stop`, then stops it and returns.
    pub async fn run(self, stop: CancellationToken) {
        let mut pauses = doubling(FIRST_RETRY, LAST_RETRY);
        while !stop.is_cancelled() {
            let started = tokio::time::Instant::now();
            match self.start() {
                Ok((child, lifeline)) => self.watch(child, lifeline, &stop).await,
                Err(error) => tracing::error!(error = format!("{error:#}"), "cannot start the hive"),
            }
            self.url.send_replace(None);
            if started.elapsed() > WELL_AFTER {
                pauses = doubling(FIRST_RETRY, LAST_RETRY);
            }
            stop.run_until_cancelled(tokio::time::sleep(pauses.next())).await;
        }
    }

    /// The hive ends itself when the write end of its standard input closes, however the queen ends.
    fn start(&self) -> anyhow::Result<(Child, ChildStdin)> {
        let mut command = Command::new(&self.program);
        if let Some(token) = &self.token {
            command.env("RBEE_HIVE_TOKEN", token.expose());
        }
        let mut child = command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let lifeline = child.stdin.take().context("the hive has no standard input")?;
        Ok((child, lifeline))
    }

    async fn watch(&self, mut child: Child, lifeline: ChildStdin, stop: &CancellationToken) {
        let mut lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        loop {
            let next_line = async {
                match &mut lines {
                    Some(lines) => lines.next_line().await.ok().flatten(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = child.wait() => break tracing::error!(?status, "the hive ended by itself"),
                () = stop.cancelled() => break end(&mut child).await,
                line = next_line => match line {
                    Some(line) => if let Some((_, url)) = line.split_once("listening on ") {
                        self.url.send_replace(Some(url.trim().to_owned()));
                    },
                    None => lines = None,
                },
            }
        }
        drop(lifeline);
    }
}

async fn end(child: &mut Child) {
    let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) else { return };
    if let Err(error) = kill_process(pid, Signal::TERM) {
        tracing::warn!(%error, "cannot signal the hive");
    }
    if tokio::time::timeout(STOP_WITHIN, child.wait()).await.is_err() {
        tracing::warn!("the hive did not end in time and is killed; its workers end with it");
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = child.wait().await;
    }
}
