//! `daemon start|stop|status`, and `down`: the queen in the background.

use std::process::ExitCode;

use protocol::queen::{QueenFile, QueenHealth};
use serde::Serialize;

use crate::config::Settings;
use crate::failure::Failure;
use crate::interrupt::{self, Interrupt};
use crate::output::Output;
use crate::queen_process::{self, Found, Lifetime, Queen};

/// What `status`, `start` and `stop` tell programs.
#[derive(Debug, Serialize)]
struct Status<'a> {
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(flatten)]
    health: Option<&'a QueenHealth>,
}

impl<'a> Status<'a> {
    const NOBODY: Self = Self { running: false, url: None, health: None };

    fn of(file: &'a QueenFile, health: &'a QueenHealth) -> Self {
        Self { running: true, url: Some(&file.url), health: Some(health) }
    }
}

pub(crate) async fn start(settings: &Settings, output: Output) -> Result<ExitCode, Failure> {
    if let Found::Running(file, health) = queen_process::find(settings).await {
        let text = || format!("rbee runs already at {}, process {}", file.url, file.pid);
        output.answer(&Status::of(&file, &health), text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut interrupt = Interrupt::listen()?;
    let Some((file, health)) = start_in_background(settings, &mut interrupt).await? else {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    };
    output.answer(&Status::of(&file, &health), || {
        format!("rbee runs at {}, process {}; `rbee-keeper down` stops it", file.url, file.pid)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a queen that outlives this process; `None` if Ctrl+C came first, and then she is stopped again.
pub(crate) async fn start_in_background(
    settings: &Settings,
    interrupt: &mut Interrupt,
) -> Result<Option<(QueenFile, QueenHealth)>, Failure> {
    let mut queen = Queen::start(settings, Lifetime::OnHerOwn)?;
    let ready = tokio::select! {
        ready = queen.ready(settings) => ready.map(Some),
        () = interrupt.wait() => Ok(None),
    };
    if !matches!(ready, Ok(Some(_))) {
        queen.stop(interrupt.wait()).await?;
    }
    ready
}

pub(crate) async fn stop(settings: &Settings, output: Output) -> Result<ExitCode, Failure> {
    match queen_process::find(settings).await {
        Found::Running(file, health) => {
            queen_process::stop(settings, &file, &health).await?;
            output.answer(&Status::NOBODY, || {
                format!("the queen at {} and all that she started are stopped", file.url)
            })?;
            Ok(ExitCode::SUCCESS)
        }
        // Stopping already, as a rule: who was told to stop takes no connections any more.
        Found::Silent(file) if !queen_process::is_gone_soon(settings).await => Err(silent(&file)),
        Found::Silent(_) | Found::Nobody => {
            let text = || format!("nothing runs on {}", settings.data_dir.display());
            output.answer(&Status::NOBODY, text)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(crate) async fn status(settings: &Settings, output: Output) -> Result<ExitCode, Failure> {
    match queen_process::find(settings).await {
        Found::Running(file, health) => {
            output.answer(&Status::of(&file, &health), || describe(&file, &health))?;
            Ok(ExitCode::SUCCESS)
        }
        Found::Silent(file) => Err(silent(&file)),
        Found::Nobody => {
            let text = || {
                format!(
                    "nothing runs on {}; `rbee-keeper daemon start` starts it",
                    settings.data_dir.display()
                )
            };
            output.answer(&Status::NOBODY, text)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn silent(file: &QueenFile) -> Failure {
    Failure::queen(format!(
        "process {} should be the queen, but nobody answers as her at {}",
        file.pid, file.url
    ))
    .advise(format!(
        "Look at it with `ps -p {pid}`; if it is queen-rbee, end it with `kill {pid}`.",
        pid = file.pid
    ))
}

fn describe(file: &QueenFile, health: &QueenHealth) -> String {
    format!(
        "url      {}\npid      {}\nstatus   {}\nversion  {}\nuptime   {}\nhives    {} connected\nworkers  {} of {} ready\nqueue    {} waiting",
        file.url,
        file.pid,
        health.status,
        health.version,
        indicatif::HumanDuration(std::time::Duration::from_secs(health.uptime_seconds)),
        health.hives_connected,
        health.workers_healthy,
        health.workers_total,
        health.queue_depth,
    )
}
