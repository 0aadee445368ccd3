//! `route`: tries out routing scripts, and tells what the one in force decided.

use std::path::Path;
use std::process::ExitCode;

use protocol::routing::{
    ReplayRequest, RoutingDecision, RoutingOutcome, RoutingTask, SimulateRequest, ValidateRequest, Verdict,
};
use protocol::task::Priority;
use protocol::{ErrorCode, JobId};

use super::tasks::time;
use super::text;
use crate::cli::{RouteCommand, RouteTestArgs};
use crate::config::Settings;
use crate::failure::Failure;
use crate::output::{Output, table};

pub(crate) async fn run(
    settings: &Settings,
    output: Output,
    command: RouteCommand,
) -> Result<ExitCode, Failure> {
    match command {
        RouteCommand::Check { script } => check(settings, output, &script).await,
        RouteCommand::Test(arguments) => test(settings, output, arguments).await,
        RouteCommand::Replay { script } => replay(settings, output, &script).await,
        RouteCommand::Explain { id: Some(id) } => explain(settings, output, &id).await,
        RouteCommand::Explain { id: None } => latest(settings, output).await,
        RouteCommand::Status => status(settings, output).await,
    }
}

async fn check(settings: &Settings, output: Output, script: &Path) -> Result<ExitCode, Failure> {
    let request = ValidateRequest { script: text(script)? };
    let validated = super::connect(settings).await.validate_routing(&request).await?;
    output.answer(&validated, || match &validated.fault {
        Some(fault) => format!("{}: {fault}", script.display()),
        None => format!("{} is valid and defines {}", script.display(), validated.hooks.join(" and ")),
    })?;
    Ok(if validated.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn test(settings: &Settings, output: Output, arguments: RouteTestArgs) -> Result<ExitCode, Failure> {
    let script = arguments.script.as_deref().map(text).transpose()?;
    let case = match &arguments.case {
        Some(file) => serde_json::from_str::<SimulateRequest>(&text(file)?)
            .map_err(|error| Failure::usage(format!("{} is not a case: {error}", file.display())))?,
        None => SimulateRequest {
            task: task(&arguments)?,
            queue_depth: arguments.queue_depth,
            ..SimulateRequest::default()
        },
    };
    let request = SimulateRequest { script: script.or(case.script), ..case };
    let decision = super::connect(settings).await.simulate_routing(&request).await?;
    output.answer(&decision, || explained(&decision))?;
    Ok(if decision.outcome.verdict == Verdict::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn task(arguments: &RouteTestArgs) -> Result<RoutingTask, Failure> {
    let priority = arguments.priority.as_deref().map_or(Ok(Priority::default()), |name| {
        let known = Priority::ALL.into_iter().find(|priority| priority.as_str() == name);
        let message = "--priority is high, interactive, batch, low or background";
        known.ok_or_else(|| Failure::usage(message))
    })?;
    let tags = arguments.tags.iter().map(|tag| {
        let (name, value) = tag.split_once('=').ok_or_else(|| Failure::usage("--tag is NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    });
    Ok(RoutingTask {
        model: arguments.model.clone(),
        priority,
        prompt_tokens: arguments.prompt_tokens.unwrap_or_default(),
        max_tokens: arguments.max_tokens,
        compliance: arguments.compliance.clone(),
        tags: tags.collect::<Result<_, Failure>>()?,
        ..RoutingTask::default()
    })
}

async fn replay(settings: &Settings, output: Output, script: &Path) -> Result<ExitCode, Failure> {
    let request = ReplayRequest { script: text(script)? };
    let replay = super::connect(settings).await.replay_routing(&request).await?;
    output.answer(&replay, || {
        let count =
            format!("{} decisions, {} the same, {} not", replay.replayed, replay.same, replay.changed.len());
        if replay.changed.is_empty() {
            return count;
        }
        let rows = replay.changed.iter().map(|changed| {
            let then = words(&changed.then);
            let mark = if changed.is_partial { " (of the first 100 workers)" } else { "" };
            [changed.id.clone(), then, format!("{}{mark}", words(&changed.now))]
        });
        format!("{count}\n\n{}", table(["ID", "WAS", "WOULD BE"], rows))
    })?;
    let is_failing = replay.changed.iter().any(|changed| changed.now.verdict == Verdict::Failed);
    Ok(if is_failing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A script's decision, or else the queue's own.
async fn explain(settings: &Settings, output: Output, id: &str) -> Result<ExitCode, Failure> {
    let client = super::connect(settings).await;
    match client.routing_decision(id).await {
        Ok(decision) => output.answer(&decision, || explained(&decision))?,
        Err(client::Error::Api(error)) if error.code == ErrorCode::NotFound => {
            let decided = client.decision(&JobId::from(id)).await?;
            let decision = &decided.decision;
            output.answer(&decided, || {
                format!(
                    "no script decided; the queue chose {} on {} ({}; {} of {} workers were free)",
                    decision.worker_id, decision.node, decision.why, decision.candidates, decision.serving
                )
            })?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

async fn latest(settings: &Settings, output: Output) -> Result<ExitCode, Failure> {
    let latest = super::connect(settings).await.routing_decisions().await?;
    output.answer(&latest, || {
        if latest.decisions.is_empty() {
            return "no decisions".to_owned();
        }
        let rows = latest.decisions.iter().map(|decision| {
            [
                decision.id.clone(),
                time(decision.at_ms),
                decision.task.model.clone(),
                words(&decision.outcome),
                decision.served_by.as_ref().map_or_else(String::new, ToString::to_string),
                format!("{} us", decision.took_us),
            ]
        });
        table(["ID", "AT", "MODEL", "DECIDED", "SERVED BY", "TOOK"], rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn status(settings: &Settings, output: Output) -> Result<ExitCode, Failure> {
    let view = super::connect(settings).await.routing().await?;
    output.answer(&view, || {
        let Some(file) = &view.file else { return "no routing script; the queue decides".to_owned() };
        let counts = view.counts;
        let mut lines = vec![
            format!("script    {file}, version {}", view.script.as_deref().unwrap_or_default().get(..8).unwrap_or_default()),
            format!("defines   {}", view.hooks.join(", ")),
            format!("mode      {}; when it fails: {}", view.mode.as_str(), view.on_failure.as_str()),
            format!("loaded    {}", view.loaded_at_ms.map(time).unwrap_or_default()),
            format!(
                "decided   {} routed, {} left to the queue, {} refused, {} not admitted, {} failed, {} not asked",
                counts.routed, counts.left_to_queue, counts.refused, counts.not_admitted, counts.failed, counts.suspended
            ),
        ];
        if let Some(fault) = &view.fault {
            lines.push(format!("fault     the file as it is now is not valid: {fault}"));
        }
        if let Some(left) = view.suspended_for_ms {
            lines.push(format!("suspended for {:.1} s, since it failed too often", left as f64 / 1000.0));
        }
        lines.join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A decision with all that led to it.
fn explained(decision: &RoutingDecision) -> String {
    let task = &decision.task;
    let mut lines = vec![
        format!("task      {} ({}, about {} tokens)", task.model, task.priority.as_str(), task.prompt_tokens),
        format!("choice    {} candidates, {} requests waiting", decision.candidates, decision.queue_depth),
    ];
    lines.extend(decision.steps.iter().map(|step| {
        let place = step.line.map_or_else(String::new, |line| format!("line {line}"));
        format!("  {place:<9} {} of {} -> {}", step.step, step.from, step.to)
    }));
    lines.extend(decision.notes.iter().map(|note| format!("  said      {note}")));
    lines.push(format!("decided   {} in {} us", words(&decision.outcome), decision.took_us));
    if let Some(worker) = &decision.served_by {
        lines.push(format!("served by {worker}"));
    }
    lines.join("\n")
}

/// What was decided, in words.
fn words(outcome: &RoutingOutcome) -> String {
    let node = outcome.node.as_deref().unwrap_or_default();
    let reason = || outcome.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
    match outcome.verdict {
        Verdict::Worker => {
            let worker = outcome.worker_id.as_ref().map_or_else(String::new, ToString::to_string);
            format!("worker {worker} on {node}, of {}", outcome.left)
        }
        Verdict::Start => format!("start a worker on {node}"),
        Verdict::Any => format!("any of {} workers", outcome.left),
        Verdict::Provider => format!("provider {}", outcome.provider_id.as_deref().unwrap_or_default()),
        Verdict::Queue => "left to the queue".to_owned(),
        Verdict::Refused => format!("refused{}", reason()),
        Verdict::NotAdmitted => format!("not admitted{}", reason()),
        Verdict::Failed => {
            outcome.fault.as_ref().map_or_else(|| "failed".to_owned(), |fault| format!("failed: {fault}"))
        }
    }
}
