//! `tasks`: submits, sees, follows and ends tasks, and tells how the queue stands.

use std::io::Write;
use std::process::ExitCode;

use protocol::events::FinishReason;
use protocol::queen::HedgeCounts;
use protocol::task::{TaskRequest, TaskStatus, TaskSummary, TaskView};
use protocol::vectors::Vector;
use protocol::{JobId, TaskEvent};

use super::text;
use crate::cli::{TaskListArgs, TaskSubmitArgs, TasksCommand};
use crate::config::Settings;
use crate::failure::Failure;
use crate::output::{Output, StatusLine, table};

pub(crate) async fn run(
    settings: &Settings,
    output: Output,
    command: TasksCommand,
) -> Result<ExitCode, Failure> {
    match command {
        TasksCommand::Submit(arguments) => submit(settings, output, arguments).await,
        TasksCommand::List(arguments) => list(settings, output, arguments).await,
        TasksCommand::Show { job_id } => {
            let view = super::connect(settings).await.task(&JobId::from(job_id)).await?;
            show(output, &view)
        }
        TasksCommand::Cancel { job_id } => {
            let view = super::connect(settings).await.cancel(&JobId::from(job_id)).await?;
            show(output, &view)
        }
        TasksCommand::Follow { job_id } => follow(settings, output, JobId::from(job_id)).await,
    }
}

async fn submit(settings: &Settings, output: Output, arguments: TaskSubmitArgs) -> Result<ExitCode, Failure> {
    let TaskSubmitArgs { task, idempotency_key, follow: is_followed } = arguments;
    let request: TaskRequest = serde_json::from_str(&text(&task)?)
        .map_err(|error| Failure::usage(format!("{} is not a task: {error}", task.display())))?;
    let client = super::connect(settings).await;
    let accepted = match &idempotency_key {
        Some(key) => client.submit_once(&request, key).await?,
        None => client.submit(&request).await?,
    };
    if is_followed {
        output.say(&format!("task {}", accepted.job_id));
        return follow(settings, output, accepted.job_id).await;
    }
    output.answer(&accepted, || {
        let place = match accepted.queue_position {
            0 => "it is served at once".to_owned(),
            position => format!("place {position} in the queue"),
        };
        format!("{}\n{place}; rbee-keeper tasks follow {0} tells what comes of it", accepted.job_id)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn list(settings: &Settings, output: Output, arguments: TaskListArgs) -> Result<ExitCode, Failure> {
    let mut query = format!("limit={}", arguments.limit);
    let TaskListArgs { status, model, after, .. } = arguments;
    for (name, value) in [("status", status), ("model", model), ("after", after)] {
        if let Some(value) = value {
            query.extend(["&", name, "=", &encoded(&value)]);
        }
    }
    let list = super::connect(settings).await.tasks(&query).await?;
    output.answer(&list, || {
        if list.tasks.is_empty() {
            return "no tasks".to_owned();
        }
        let header = ["ID", "STATUS", "MODEL", "PRIORITY", "ATTEMPT", "CREATED", "TOOK"];
        table(header, list.tasks.iter().map(row))
    })?;
    if list.has_more
        && !output.is_json()
        && let Some(last) = list.tasks.last()
    {
        output.say(&format!("there are more: --after {}", last.job_id));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(task: &TaskSummary) -> [String; 7] {
    [
        task.job_id.to_string(),
        status(task.status).to_owned(),
        task.model.clone(),
        task.priority.as_str().to_owned(),
        task.attempt.to_string(),
        time(task.created_at_ms),
        task.finished_at_ms.map_or_else(String::new, |at| seconds(at.saturating_sub(task.created_at_ms))),
    ]
}

fn show(output: Output, view: &TaskView) -> Result<ExitCode, Failure> {
    output.answer(view, || {
        let mut lines = vec![
            format!("task      {}", view.job_id),
            format!("status    {}", status(view.status)),
            format!("model     {} ({}, attempt {})", view.model, view.priority.as_str(), view.attempt),
            format!("created   {}", time(view.created_at_ms)),
        ];
        if let Some(at) = view.finished_at_ms {
            lines.push(format!("finished  {} (took {})", time(at), seconds(at - view.created_at_ms)));
        }
        if let Some(decision) = &view.decision {
            lines.push(format!(
                "worker    {} on {} ({}; {} of {} workers were free, waited {})",
                decision.worker_id,
                decision.node,
                decision.why,
                decision.candidates,
                decision.serving,
                seconds(decision.waited_ms)
            ));
        }
        if let Some(usage) = view.usage {
            lines
                .push(format!("tokens    {} read, {} written", usage.prompt_tokens, usage.completion_tokens));
        }
        if let Some(error) = &view.error {
            lines.push(format!("error     {} ({})", error.message, error.code));
        }
        if let Some(result) = &view.result {
            let length = match result.embeddings.first() {
                Some(Vector::Float(numbers)) => numbers.len(),
                Some(Vector::Base64(_)) | None => 0,
            };
            let count = result.embeddings.len();
            lines.push(format!("result    {count} vectors of {length} numbers (--json shows them)"));
        }
        if !view.output.is_empty() {
            lines.push(format!("\n{}", view.output));
        }
        lines.join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a task's words to standard output, from its first on, until it ends.
async fn follow(settings: &Settings, output: Output, job_id: JobId) -> Result<ExitCode, Failure> {
    let client = super::connect(settings).await;
    let mut events = client.task_events(&job_id).await?;
    let mut waiting = StatusLine::new();
    let mut stdout = std::io::stdout();
    while let Some(event) = events.next().await? {
        match event {
            TaskEvent::Queued(queued) => {
                waiting.show(output, &format!("waiting, place {} in the queue", queued.position), None);
            }
            TaskEvent::Narration(narration) => waiting.show(output, &narration.message, narration.progress),
            TaskEvent::Started(started) => {
                waiting.show(output, &format!("{} has it", started.worker_id), None);
            }
            TaskEvent::Token(token) => {
                waiting.clear();
                write!(stdout, "{}", token.token)?;
                stdout.flush()?;
            }
            TaskEvent::Reasoning(thought) => output.whisper(&thought.text),
            TaskEvent::Prompt(_) | TaskEvent::ToolCall(_) => {}
            TaskEvent::Result(result) => {
                waiting.clear();
                serde_json::to_writer(&mut stdout, &result).map_err(std::io::Error::from)?;
            }
            TaskEvent::End(end) => {
                waiting.clear();
                writeln!(stdout)?;
                let is_cancelled = end.finish_reason == FinishReason::Cancelled;
                if is_cancelled {
                    output.say("the task was cancelled");
                }
                return Ok(if is_cancelled { ExitCode::FAILURE } else { ExitCode::SUCCESS });
            }
            TaskEvent::Error(envelope) => {
                waiting.clear();
                return Err(envelope.error.into());
            }
        }
    }
    Err(Failure::queen("the queen ended; the task goes on when she is there again"))
}

/// `queue`: who waits for what.
pub(crate) async fn queue(settings: &Settings, output: Output) -> Result<ExitCode, Failure> {
    let view = super::connect(settings).await.queue().await?;
    output.answer(&view, || {
        let mut text = format!(
            "{} running, {} waiting (at most {}); {} tasks unfinished",
            view.running, view.waiting, view.limit.requests, view.tasks.unfinished
        );
        for band in view.bands.iter().filter(|band| band.waiting > 0) {
            text = format!("{text}\n  {}: {} waiting", band.band.as_str(), band.waiting);
        }
        if view.hedges.sent > 0 {
            let HedgeCounts { sent, won } = view.hedges;
            text = format!("{text}\n  {sent} given to a second worker, {won} of them answered by it");
        }
        if !view.models.is_empty() {
            let header = ["MODEL", "WAITING", "WORKERS", "SLOTS", "LONGEST WAIT", "ETA"];
            let rows = view.models.iter().map(|model| {
                [
                    model.model.clone(),
                    model.waiting.to_string(),
                    if model.is_starting { "starting".to_owned() } else { model.workers.to_string() },
                    format!("{} of {} taken", model.slots_taken, model.slots_total),
                    seconds(model.longest_wait_ms),
                    model.eta_ms.map_or_else(|| "unknown".to_owned(), seconds),
                ]
            });
            text = format!("{text}\n\n{}", table(header, rows));
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

const fn status(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Queued => "queued",
        TaskStatus::Dispatched => "dispatched",
        TaskStatus::Running => "running",
        TaskStatus::Completed => "completed",
        TaskStatus::Failed => "failed",
        TaskStatus::Cancelled => "cancelled",
    }
}

fn seconds(milliseconds: u64) -> String {
    format!("{:.1} s", milliseconds as f64 / 1000.0)
}

/// To the second, in UTC.
pub(super) fn time(milliseconds: u64) -> String {
    let instant = jiff::Timestamp::from_millisecond(milliseconds as i64).unwrap_or_default();
    instant.strftime("%F %TZ").to_string()
}

/// A value as it may stand in a query.
fn encoded(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let bytes = value.bytes();
    bytes
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_so_that_a_query_bears_them() {
        assert_eq!(encoded("a b&c=é"), "a%20b%26c%3D%C3%A9");
        assert_eq!(encoded("smollm2-135m"), "smollm2-135m");
    }
}
