//! `infer`: asks a model. Its words go to standard output as they come, everything else to standard error.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use client::gateway::GatewayClient;
use protocol::events::{End, FinishReason, Started, Timings, TokenUsage};
use protocol::task::TaskRequest;
use protocol::{JobId, TaskEvent, WorkerId};
use serde::Serialize;

use crate::cli::InferArgs;
use crate::commands::daemon;
use crate::config::Settings;
use crate::failure::Failure;
use crate::interrupt::{self, Interrupt};
use crate::output::{Output, StatusLine};
use crate::queen_process;

/// A queen on this machine that takes longer to cancel a task will see the connection close instead.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Exit code of a command whose reader went away: 128 and SIGPIPE's number, as the shell's own tools have it.
const READER_GONE_EXIT_CODE: u8 = 141;

pub(crate) async fn run(
    settings: &Settings,
    output: Output,
    arguments: InferArgs,
) -> Result<ExitCode, Failure> {
    let request = request(arguments)?;
    let mut interrupt = Interrupt::listen()?;
    let Some(client) = connect(settings, output, &mut interrupt).await? else {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    };
    let mut job = None;
    let asked = tokio::select! {
        asked = ask(&client, output, &request, &mut job) => asked?,
        () = interrupt.wait() => Asked::Interrupted,
    };
    match asked {
        Asked::Answered(answer) => finish(&client, output, answer).await,
        Asked::ReaderGone => {
            cancel(&client, job.as_ref()).await;
            Ok(ExitCode::from(READER_GONE_EXIT_CODE))
        }
        Asked::Interrupted => {
            cancel(&client, job.as_ref()).await;
            output.say("\ncancelled");
            Ok(ExitCode::from(interrupt::EXIT_CODE))
        }
    }
}

fn request(arguments: InferArgs) -> Result<TaskRequest, Failure> {
    let prompt = if arguments.prompt == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|error| {
            Failure::usage(format!("cannot read the prompt from standard input: {error}"))
        })?;
        text
    } else {
        arguments.prompt
    };
    Ok(TaskRequest {
        model: arguments.model,
        prompt: Some(prompt),
        max_tokens: arguments.max_tokens,
        temperature: arguments.temperature,
        top_p: arguments.top_p,
        seed: arguments.seed,
        stop: (!arguments.stop.is_empty()).then_some(arguments.stop),
        deadline_ms: arguments.timeout.map(|seconds| seconds.saturating_mul(1000)),
        node: arguments.node,
        ..TaskRequest::default()
    })
}

/// The running queen, or one that is started now and stays; `None` if Ctrl+C came first.
async fn connect(
    settings: &Settings,
    output: Output,
    interrupt: &mut Interrupt,
) -> Result<Option<GatewayClient>, Failure> {
    if let Some(client) = super::locate(settings).await {
        return Ok(Some(client));
    }
    output.say("rbee is not running: starting it in the background (`rbee-keeper down` stops it)");
    let started = daemon::start_in_background(settings, interrupt).await?;
    Ok(started.map(|(file, _)| queen_process::client(settings, &file.url)))
}

/// How asking went, if it did not fail.
enum Asked {
    Answered(Answer),
    ReaderGone,
    Interrupted,
}

/// All of an answer.
struct Answer {
    job_id: JobId,
    text: String,
    reasoning: String,
    started: Option<Started>,
    end: End,
}

/// Submits the task and shows its events; `job` holds its id as soon as there is one, so that it can be cancelled.
async fn ask(
    client: &GatewayClient,
    output: Output,
    request: &TaskRequest,
    job: &mut Option<JobId>,
) -> Result<Asked, Failure> {
    let job_id = client.submit(request).await?.job_id;
    *job = Some(job_id.clone());
    let mut events = client.task_events(&job_id).await?;
    let mut status = StatusLine::new();
    let (mut text, mut reasoning, mut started) = (String::new(), String::new(), None);
    while let Some(event) = events.next().await? {
        match event {
            TaskEvent::Queued(queued) => {
                status.show(output, &format!("waiting, place {} in the queue", queued.position), None);
            }
            TaskEvent::Narration(narration) => status.show(output, &narration.message, narration.progress),
            // A task of ours asks for neither.
            TaskEvent::Prompt(_) | TaskEvent::ToolCall(_) | TaskEvent::Result(_) => {}
            TaskEvent::Reasoning(thought) => {
                status.clear();
                reasoning.push_str(&thought.text);
                output.whisper(&thought.text);
            }
            TaskEvent::Started(event) => started = Some(event),
            TaskEvent::Token(token) => {
                status.clear();
                if text.is_empty() && !reasoning.is_empty() {
                    output.whisper("\n\n");
                }
                text.push_str(&token.token);
                if !output.is_json() && show(&token.token).is_err() {
                    return Ok(Asked::ReaderGone);
                }
            }
            TaskEvent::End(end) => {
                status.clear();
                return Ok(Asked::Answered(Answer { job_id, text, reasoning, started, end }));
            }
            TaskEvent::Error(envelope) => {
                status.clear();
                return Err(envelope.error.into());
            }
        }
    }
    Err(Failure::queen("the answer broke off without a word"))
}

/// At once, since a person reads along.
fn show(token: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(token.as_bytes())?;
    stdout.flush()
}

async fn cancel(client: &GatewayClient, job: Option<&JobId>) {
    if let Some(job) = job {
        // A queen that cannot be told any more is gone, and the task with her.
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, client.cancel(job)).await;
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    job_id: JobId,
    model: String,
    output: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning: String,
    finish_reason: FinishReason,
    usage: TokenUsage,
    timings: Timings,
    seed: Option<u64>,
    worker_id: Option<WorkerId>,
}

async fn finish(client: &GatewayClient, output: Output, answer: Answer) -> Result<ExitCode, Failure> {
    let Answer { job_id, text, reasoning, started, end } = answer;
    if output.is_json() {
        let report = Report {
            model: client.task(&job_id).await?.model,
            job_id,
            output: text,
            reasoning,
            finish_reason: end.finish_reason,
            usage: end.usage,
            timings: end.timings,
            seed: started.as_ref().map(|started| started.seed),
            worker_id: started.map(|started| started.worker_id),
        };
        output.answer(&report, String::new)?;
    } else {
        if std::io::stdout().is_terminal() {
            show("\n")?;
        }
        output.say(&statistics(&end, started.as_ref()));
    }
    match end.finish_reason {
        FinishReason::Stop | FinishReason::Length | FinishReason::ToolCalls => Ok(ExitCode::SUCCESS),
        FinishReason::Cancelled => {
            output.say("the task was cancelled by somebody else");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn statistics(end: &End, started: Option<&Started>) -> String {
    let TokenUsage { prompt_tokens, completion_tokens, .. } = end.usage;
    let seed = started.map_or_else(String::new, |started| format!(", seed {}", started.seed));
    let mut text = format!(
        "[{prompt_tokens} tokens read in {:.0} ms, {completion_tokens} written",
        end.timings.prefill_ms
    );
    // The first token belongs to the prefill: decoding begins with the second.
    if completion_tokens > 1 && end.timings.decode_ms > 0.0 {
        let per_second = f64::from(completion_tokens - 1) / end.timings.decode_ms * 1000.0;
        text = format!("{text} at {per_second:.1} tokens/s");
    }
    format!("{text}{seed}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_count_the_first_token_as_prefill() {
        let mut end = End {
            done: true,
            total_tokens: 11,
            finish_reason: FinishReason::Stop,
            finish_reasons: Vec::new(),
            stop_sequences: Vec::new(),
            usage: TokenUsage { prompt_tokens: 5, completion_tokens: 11, ..TokenUsage::default() },
            timings: Timings { prefill_ms: 40.0, decode_ms: 500.0 },
        };
        assert_eq!(statistics(&end, None), "[5 tokens read in 40 ms, 11 written at 20.0 tokens/s]");
        end.usage.completion_tokens = 1;
        assert_eq!(statistics(&end, None), "[5 tokens read in 40 ms, 1 written]");
    }
}
