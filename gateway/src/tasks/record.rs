//! What is kept of a job: what it was asked, what came of it, and its events.

use protocol::task::{DecisionView, Priority, TaskStatus, TaskSummary, TaskView};
use protocol::{ApiError, ErrorCode, ErrorEnvelope, JobId, TaskEvent};
use serde::{Deserialize, Serialize};

use super::live::{EventId, Live, Told};
use crate::inference::Parts;
use crate::store::{Job, JobKind, JobState, Outcome};

/// One event as it is kept.
#[derive(Serialize, Deserialize)]
struct Line {
    id: usize,
    event: String,
    /// JSON, as readers get it.
    data: String,
}

/// A record that cannot be read was written by a newer version, or is damaged.
pub(super) fn broken(id: &str, error: &serde_json::Error) -> ApiError {
    tracing::error!(job_id = id, %error, "a job's record cannot be read");
    ApiError::new(ErrorCode::Internal, "The task's record cannot be read; the server's log tells why.")
}

/// What comes of a job by its events, the last of which is among them.
pub(super) fn outcome(view: &TaskView, live: &Live, last: &TaskEvent) -> Outcome {
    let log = live.log();
    let mut lines = String::new();
    let events = log.events.iter().chain(std::iter::once(last)).enumerate();
    for (id, event) in events {
        let line = Line { id, event: event.name().to_owned(), data: event.data().unwrap_or_default() };
        lines.push_str(&serde_json::to_string(&line).unwrap_or_default());
        lines.push('\n');
    }
    Outcome {
        state: state(view.status),
        result: serde_json::to_string(view).unwrap_or_default(),
        decision: view.decision.as_ref().and_then(|decision| serde_json::to_string(decision).ok()),
        events: lines,
        finished_at_ms: view.finished_at_ms.unwrap_or_default() as i64,
    }
}

/// The events of an ended job, after the one that was seen last.
pub(super) fn replayed(job: &Job, lines: &str, from: usize) -> Vec<Told> {
    let attempt = job.attempt;
    if let Some(error) = given_up(job).and_then(|view| view.error) {
        return vec![(Some(EventId { attempt, place: 0 }), TaskEvent::Error(error.into()))];
    }
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines
        .filter(|line| line.id >= from)
        .filter_map(|line| {
            let event = TaskEvent::parse(&line.event, &line.data).ok()??;
            Some((Some(EventId { attempt, place: line.id }), event))
        })
        .collect()
}

/// How a job stands, whoever holds it.
pub(super) fn view(job: &Job, live: Option<&Live>) -> Result<TaskView, ApiError> {
    if let Some(result) = job.result.as_ref().filter(|_| job.kind != JobKind::BatchLine) {
        return match serde_json::from_str(result) {
            Ok(view) => Ok(view),
            Err(error) => given_up(job).ok_or_else(|| broken(&job.id, &error)),
        };
    }
    let mut view = blank(job);
    if let Some(live) = live {
        add_events(&mut view, live, None);
    }
    Ok(view)
}

/// A job that no queen ended: the record has an error in the place of its view.
fn given_up(job: &Job) -> Option<TaskView> {
    let envelope: ErrorEnvelope = serde_json::from_str(job.result.as_deref()?).ok()?;
    let mut view = blank(job);
    view.error = Some(envelope.error);
    Some(view)
}

/// How a job that was asked for a moment ago or long ago stands, its answer left out.
pub(super) fn summary(job: &Job, live: Option<&Live>) -> TaskSummary {
    let mut view = blank(job);
    if let Some(live) = live {
        live.log().events.iter().for_each(|event| tell(&mut view, event));
    }
    TaskSummary {
        job_id: view.job_id,
        status: view.status,
        model: view.model,
        priority: view.priority,
        attempt: view.attempt,
        created_at_ms: view.created_at_ms,
        finished_at_ms: job.finished_at_ms.map(|at| at as u64),
    }
}

/// How a job stands by its record alone.
pub(super) fn blank(job: &Job) -> TaskView {
    TaskView {
        job_id: JobId::from(job.id.as_str()),
        status: match job.state {
            JobState::Queued => TaskStatus::Queued,
            // Somebody has it.
            JobState::Running => TaskStatus::Dispatched,
            JobState::Completed => TaskStatus::Completed,
            JobState::Failed => TaskStatus::Failed,
            JobState::Cancelled => TaskStatus::Cancelled,
        },
        model: job.model.clone(),
        priority: Priority::ALL.get(usize::from(job.band)).copied().unwrap_or_default(),
        attempt: job.attempt,
        seed: None,
        worker_id: None,
        decision: None,
        created_at_ms: job.created_at_ms as u64,
        finished_at_ms: job.finished_at_ms.map(|at| at as u64),
        output: String::new(),
        reasoning: String::new(),
        tool_calls: Vec::new(),
        result: None,
        finish_reason: None,
        usage: None,
        error: None,
    }
}

/// Adds what the events of this attempt tell, and the last one if it is not told yet.
pub(super) fn add_events(view: &mut TaskView, live: &Live, last: Option<&TaskEvent>) {
    let log = live.log();
    view.attempt = live.attempt;
    view.decision.clone_from(&log.decision);
    view.status = TaskStatus::Queued;
    let mut parts = Parts::new(1);
    for event in log.events.iter().chain(last) {
        tell(view, event);
        if matches!(event, TaskEvent::Started(_)) {
            parts = Parts::new(1);
        }
        parts.take(event);
    }
    if let Some(answer) = parts.choices.pop() {
        (view.output, view.reasoning, view.tool_calls) = (answer.text, answer.reasoning, answer.tool_calls);
    }
}

/// Adds to a view what an event tells of the task, its answer aside.
fn tell(view: &mut TaskView, event: &TaskEvent) {
    match event {
        TaskEvent::Queued(_) => view.status = TaskStatus::Queued,
        TaskEvent::Narration(_)
        | TaskEvent::Prompt(_)
        | TaskEvent::Token(_)
        | TaskEvent::Reasoning(_)
        | TaskEvent::ToolCall(_) => {}
        TaskEvent::Result(result) => view.result = Some(result.clone()),
        TaskEvent::Started(started) => {
            view.status = TaskStatus::Running;
            view.worker_id = Some(started.worker_id.clone());
            view.seed = Some(started.seed);
        }
        TaskEvent::End(end) => {
            let was_cancelled = end.finish_reason == protocol::events::FinishReason::Cancelled;
            view.status = if was_cancelled { TaskStatus::Cancelled } else { TaskStatus::Completed };
            view.finish_reason = Some(end.finish_reason);
            view.usage = Some(end.usage);
        }
        TaskEvent::Error(envelope) => {
            view.status = TaskStatus::Failed;
            view.error = Some(envelope.error.clone());
        }
    }
}

const fn state(status: TaskStatus) -> JobState {
    match status {
        TaskStatus::Queued => JobState::Queued,
        TaskStatus::Dispatched | TaskStatus::Running => JobState::Running,
        TaskStatus::Completed => JobState::Completed,
        TaskStatus::Failed => JobState::Failed,
        TaskStatus::Cancelled => JobState::Cancelled,
    }
}

/// The record's decision.
pub(super) fn decision(job: &Job) -> Option<DecisionView> {
    serde_json::from_str(job.decision.as_deref()?).ok()
}
