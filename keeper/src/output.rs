//! What goes where: answers to standard output, everything said on the way to standard error.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use protocol::ErrorEnvelope;
use protocol::hive::{DownloadProgress, DownloadStage};
use serde::Serialize;

use crate::failure::Failure;

/// How a command answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether answers are JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// The command's answer: JSON for programs, else the text for people.
    pub(crate) fn answer(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let answer = if self.json {
            serde_json::to_string_pretty(value).map_err(|error| Failure::internal(error.to_string()))?
        } else {
            text()
        };
        writeln!(std::io::stdout(), "{answer}").map_err(Failure::from)
    }

    /// Something a person may want to know meanwhile.
    #[expect(clippy::unused_self, reason = "reads like its siblings, and a quiet mode would stand here")]
    pub(crate) fn say(self, text: &str) {
        // Nobody is left to be told if standard error is closed.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// What a model thinks before it answers, as it comes; nothing where answers are JSON, which holds it.
    pub(crate) fn whisper(self, text: &str) {
        if !self.json {
            let _ = write!(std::io::stderr(), "{text}");
        }
    }

    /// Why the command failed and what to do.
    pub(crate) fn failure(self, failure: &Failure) {
        let error = failure.error();
        self.say(&format!("error: {}", error.message));
        if !error.suggested_action().is_empty() {
            self.say(&format!("  help: {}", error.suggested_action()));
        }
        if let Some(id) = &error.correlation_id {
            self.say(&format!("  correlation id: {id}"));
        }
        if self.json
            && let Ok(body) = serde_json::to_string_pretty(&ErrorEnvelope { error: error.clone() })
        {
            let _ = writeln!(std::io::stdout(), "{body}");
        }
    }
}

/// A table without lines, as wide as the terminal allows.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// What is going on while an answer is awaited: one line that changes on a terminal, a line for each change elsewhere.
#[derive(Debug)]
pub(crate) struct StatusLine {
    spinner: ProgressBar,
    on_terminal: bool,
    told: String,
}

impl StatusLine {
    pub(crate) fn new() -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { spinner: ProgressBar::with_draw_target(None, target), on_terminal, told: String::new() }
    }

    /// Shows what is going on, and how far along it is where that is known.
    pub(crate) fn show(&mut self, output: Output, text: &str, progress: Option<f32>) {
        if self.on_terminal {
            let percent = progress.map_or_else(String::new, |part| format!(" {:.0} %", part * 100.0));
            self.spinner.set_message(format!("{text}{percent}"));
            self.spinner.tick();
        } else if self.told != text {
            text.clone_into(&mut self.told);
            output.say(text);
        }
    }

    /// Takes the line off the screen, so that an answer can stand there.
    pub(crate) fn clear(&self) {
        self.spinner.finish_and_clear();
    }
}

/// How a download goes: a bar with bytes, rate and remaining time on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub(crate) struct DownloadView {
    bar: ProgressBar,
    on_terminal: bool,
    started: Instant,
    stage: Option<DownloadStage>,
    told_percent: u64,
}

/// Without a terminal, progress is told each time this much more has come.
const TOLD_STEP_PERCENT: u64 = 25;

impl DownloadView {
    pub(crate) fn new() -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let template = "{msg} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, on_terminal, started: Instant::now(), stage: None, told_percent: 0 }
    }

    /// Shows one more step.
    pub(crate) fn progress(&mut self, output: Output, progress: &DownloadProgress) {
        let doing = match progress.stage {
            DownloadStage::Downloading => "fetching",
            DownloadStage::Unpacking => "unpacking",
            DownloadStage::Verifying => "verifying",
        };
        self.bar.set_message(format!("{doing} {}", progress.reference));
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.bytes_downloaded);
        let is_new_stage = self.stage.replace(progress.stage) != Some(progress.stage);
        if self.on_terminal {
            return;
        }
        let percent = progress.bytes_downloaded.saturating_mul(100) / progress.total_bytes.max(1);
        if is_new_stage {
            self.told_percent = 0;
        }
        if is_new_stage || percent >= self.told_percent + TOLD_STEP_PERCENT {
            self.told_percent = percent - percent % TOLD_STEP_PERCENT;
            output.say(&format!(
                "{doing} {}: {} of {}, {}/s",
                progress.reference,
                HumanBytes(progress.bytes_downloaded),
                HumanBytes(progress.total_bytes),
                HumanBytes(self.bytes_per_second(progress.bytes_downloaded)),
            ));
        }
    }

    /// Takes the bar off the screen.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn bytes_per_second(&self, bytes: u64) -> u64 {
        (bytes as f64 / self.started.elapsed().as_secs_f64().max(0.001)) as u64
    }
}

impl Drop for DownloadView {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_aligns_its_columns() {
        let rows = [["m".to_owned(), "running".to_owned()], ["longer".to_owned(), String::new()]];
        let lines: Vec<String> = table(["NAME", "STATE"], rows).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].find("STATE"), lines[1].find("running"));
    }
}
