//! `up`: everything, in the foreground, until Ctrl+C.

use std::path::Path;
use std::process::ExitCode;

use client::gateway::GatewayClient;
use protocol::config::DEFAULT_CHAT_MODEL;
use protocol::openai::models::ModelState;
use serde::Serialize;

use crate::cli::UpArgs;
use crate::commands::models;
use crate::config::Settings;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::queen_process::{self, Found, Lifetime, Queen};

/// What is ready, and where.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    url: &'a str,
    pid: u32,
    model: &'a str,
    docs: String,
    data_dir: &'a Path,
}

pub(crate) async fn run(
    settings: &Settings,
    output: Output,
    arguments: &UpArgs,
) -> Result<ExitCode, Failure> {
    let mut interrupt = Interrupt::listen()?;
    refuse_second(settings).await?;
    let mut queen = Queen::start(settings, Lifetime::WithKeeper)?;
    let outcome = tokio::select! {
        outcome = serve(&mut queen, settings, output, arguments) => Some(outcome),
        () = interrupt.wait() => None,
    };
    if outcome.is_none() {
        output.say("stopping …");
    }
    let stopped = queen.stop(interrupt.wait()).await;
    outcome.unwrap_or(Ok(()))?;
    stopped?;
    output.say("everything is stopped");
    Ok(ExitCode::SUCCESS)
}

async fn refuse_second(settings: &Settings) -> Result<(), Failure> {
    match queen_process::find(settings).await {
        Found::Running(file, _) => Err(Failure::queen(format!(
            "rbee runs already: a queen answers at {}, process {}",
            file.url, file.pid
        ))
        .advise("Use that one, or stop it first with `rbee-keeper down`.")),
        // The queen herself holds the lock of the data directory and knows best.
        Found::Silent(_) | Found::Nobody => Ok(()),
    }
}

/// Gets everything ready, says so, and returns when somebody else stopped the queen.
async fn serve(
    queen: &mut Queen,
    settings: &Settings,
    output: Output,
    arguments: &UpArgs,
) -> Result<(), Failure> {
    output.say("starting the queen and her hive …");
    let (file, _) = queen.ready(settings).await?;
    let client = queen_process::client(settings, &file.url);
    if !arguments.no_model {
        tokio::select! {
            fetched = fetch_if_absent(&client, output, &arguments.model) => fetched?,
            status = queen.wait() => return Err(queen.ended(settings, status?)),
        }
    }
    let model = if arguments.no_model { DEFAULT_CHAT_MODEL } else { &arguments.model };
    let docs = format!("{}/docs", file.url);
    let ready = Ready { url: &file.url, pid: file.pid, model, docs, data_dir: &settings.data_dir };
    output.answer(&ready, || welcome(&ready, settings.token.is_some()))?;
    let status = queen.wait().await?;
    if status.success() {
        output.say("the queen was told to stop by somebody else");
        return Ok(());
    }
    Err(queen.ended(settings, status))
}

async fn fetch_if_absent(client: &GatewayClient, output: Output, model: &str) -> Result<(), Failure> {
    let known = client.models().await?.data;
    if known.iter().any(|entry| entry.id == model && entry.state != ModelState::Available) {
        return Ok(());
    }
    models::fetch(client, output, model).await.map(drop).map_err(|failure| {
        let advice = format!(
            "{} Or start without a model: `rbee-keeper up --no-model`.",
            failure.error().suggested_action()
        );
        failure.advise(advice)
    })
}

fn welcome(ready: &Ready<'_>, has_token: bool) -> String {
    let Ready { url, model, docs, data_dir, .. } = ready;
    let authorization = if has_token { " \\\n    -H \"Authorization: Bearer $RBEE_TOKEN\"" } else { "" };
    let body = serde_json::json!({
        "model": model,
        "messages": [{"role": "user", "content": "Say hello."}],
        // A small model left to itself may go on for a long time.
        "max_tokens": 100,
        "stream": true,
    });
    let logs = data_dir.join("logs");
    let logs = logs.display();
    format!(
        "\nrbee is ready at {url}\n\n\
         Try it:\n  curl -N {url}/v1/chat/completions \\\n    -H 'Content-Type: application/json'{authorization} \\\n    -d {body}\n\n\
         OpenAI SDKs:   base_url=\"{url}/v1\"\n\
         Documentation: {docs}\n\
         Logs:          {logs}\n\n\
         Ctrl+C stops everything.",
        body = shell_quoted(&body.to_string()),
    )
}

/// A text as one word of a shell.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Ready<'static> {
        Ready {
            url: "http://127.0.0.1:8080",
            pid: 1,
            model: "it's",
            docs: "http://127.0.0.1:8080/docs".into(),
            data_dir: Path::new("/data"),
        }
    }

    #[test]
    fn the_curl_line_survives_a_shell() {
        let text = welcome(&ready(), true);
        let command = text.split("Try it:\n").nth(1).unwrap().split("\n\n").next().unwrap();
        let script = format!("curl() {{ printf '%s\\n' \"$@\"; }}\n{command}");
        let shown =
            std::process::Command::new("sh").args(["-c", &script]).env("RBEE_TOKEN", "t").output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let arguments: Vec<&str> = shown.lines().collect();
        assert_eq!(
            arguments[..6],
            [
                "-N",
                "http://127.0.0.1:8080/v1/chat/completions",
                "-H",
                "Content-Type: application/json",
                "-H",
                "Authorization: Bearer t"
            ]
        );
        let body: serde_json::Value = serde_json::from_str(arguments[7]).unwrap();
        assert_eq!(body["model"], "it's");
    }

    #[test]
    fn without_a_token_none_is_asked_for() {
        assert!(!welcome(&ready(), false).contains("Authorization"));
    }
}
