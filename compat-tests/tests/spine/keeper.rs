//! rbee-keeper, as a person or a script uses it.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use compat_tests::{MODEL, Sandbox, Signal, eventually, kill};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

const PATIENCE: Duration = Duration::from_secs(90);
const ORDERLY: Duration = Duration::from_secs(15);

/// `rbee-keeper up`, ready.
struct Up {
    keeper: Child,
    /// What it printed up to its last line.
    text: String,
    _lines: Lines<BufReader<ChildStdout>>,
}

impl Up {
    async fn start(sandbox: &Sandbox) -> Self {
        let mut keeper = sandbox
            .command("rbee-keeper")
            .arg("up")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(keeper.stdout.take().unwrap()).lines();
        let mut text = String::new();
        let read = async {
            while !text.contains("Ctrl+C stops everything") {
                text += &lines.next_line().await.unwrap().expect("up ended before it was ready");
                text.push('\n');
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("up is ready");
        Self { keeper, text, _lines: lines }
    }

    fn pid(&self) -> u32 {
        self.keeper.id().unwrap()
    }

    async fn ended(&mut self, within: Duration) -> Option<i32> {
        tokio::time::timeout(within, self.keeper.wait()).await.expect("up ends").unwrap().code()
    }
}

/// Runs a command to its end.
async fn keeper(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    let output = sandbox.command("rbee-keeper").args(arguments).output();
    tokio::time::timeout(PATIENCE, output)
        .await
        .unwrap_or_else(|_| panic!("{arguments:?} does not end"))
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", out(output), err(output)))
}

#[tokio::test]
async fn up_prints_a_curl_line_that_works_when_pasted_and_ctrl_c_ends_everything() {
    let sandbox = Sandbox::new().await;
    let mut up = Up::start(&sandbox).await;
    let command = up.text.split("Try it:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let pasted = tokio::process::Command::new("sh").args(["-c", command]).output();
    let pasted = out(&tokio::time::timeout(PATIENCE, pasted).await.unwrap().unwrap());
    assert!(
        pasted.contains("chat.completion.chunk") && pasted.trim_end().ends_with("data: [DONE]"),
        "{pasted}"
    );

    let second = keeper(&sandbox, &["up"]).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(err(&second).contains("rbee-keeper down"), "{}", err(&second));

    kill(up.pid(), Signal::INT);
    assert_eq!(up.ended(ORDERLY).await, Some(0));
    assert_eq!(sandbox.processes(), []);
}

#[tokio::test]
async fn a_second_start_is_quick() {
    let sandbox = Sandbox::new().await;
    let mut up = Up::start(&sandbox).await;
    kill(up.pid(), Signal::TERM);
    assert_eq!(up.ended(ORDERLY).await, Some(0));
    let started = Instant::now();
    let mut up = Up::start(&sandbox).await;
    // 2 s is the promise for a release build on a machine with nothing else to do.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    kill(up.pid(), Signal::TERM);
    up.ended(ORDERLY).await;
}

#[tokio::test]
async fn everything_ends_when_up_is_killed() {
    let sandbox = Sandbox::new().await;
    let mut up = Up::start(&sandbox).await;
    kill(up.pid(), Signal::KILL);
    up.ended(ORDERLY).await;
    sandbox.emptied(Duration::from_secs(20)).await;
}

#[tokio::test]
async fn up_tells_when_the_queen_dies() {
    let sandbox = Sandbox::new().await;
    let mut up = Up::start(&sandbox).await;
    let [queen] = sandbox.processes_of("queen-rbee")[..] else { panic!("one queen") };
    kill(queen, Signal::KILL);
    assert_eq!(up.ended(ORDERLY).await, Some(1));
    let mut message = String::new();
    up.keeper.stderr.take().unwrap().read_to_string(&mut message).await.unwrap();
    assert!(message.contains("ended by herself"), "{message}");
    sandbox.emptied(Duration::from_secs(20)).await;
}

#[tokio::test]
async fn the_daemon_starts_tells_and_stops() {
    let sandbox = Sandbox::new().await;
    assert_eq!(keeper(&sandbox, &["daemon", "status"]).await.status.code(), Some(1));
    assert_eq!(keeper(&sandbox, &["down"]).await.status.code(), Some(0), "nothing to stop is no failure");

    let started = keeper(&sandbox, &["daemon", "start", "--json"]).await;
    assert_eq!(started.status.code(), Some(0), "{}", err(&started));
    let status = keeper(&sandbox, &["daemon", "status", "--json"]).await;
    assert_eq!(status.status.code(), Some(0));
    assert_eq!(json(&status)["url"], json(&started)["url"]);
    assert_eq!(json(&status)["hives_connected"], 1);
    let again = keeper(&sandbox, &["daemon", "start", "--json"]).await;
    assert_eq!(json(&again)["pid"], json(&started)["pid"], "a second start finds the first");

    let models = json(&keeper(&sandbox, &["models", "list", "--json"]).await);
    assert!(models["data"].as_array().unwrap().iter().any(|model| model["id"] == MODEL), "{models}");
    let pulled = keeper(&sandbox, &["models", "pull", MODEL, "--json"]).await;
    assert_eq!(json(&pulled)["downloaded"], true);
    assert!(out(&keeper(&sandbox, &["models", "list"]).await).contains("downloaded"));
    assert!(out(&keeper(&sandbox, &["worker", "list"]).await).contains("no workers"));

    let queen = sandbox.processes_of("queen-rbee");
    assert_eq!(keeper(&sandbox, &["down"]).await.status.code(), Some(0));
    assert!(sandbox.processes_of("queen-rbee").is_empty() && queen.len() == 1);
    sandbox.emptied(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn infer_starts_what_it_needs_and_prints_nothing_but_the_answer() {
    let sandbox = Sandbox::new().await;
    let arguments = ["infer", "--model", MODEL, "--prompt", "Name three colours.", "--max-tokens", "16"];
    let greedy = [&arguments[..], &["--temperature", "0"]].concat();
    let first = keeper(&sandbox, &greedy).await;
    assert_eq!(first.status.code(), Some(0), "{}", err(&first));
    assert!(err(&first).contains("starting it in the background"), "{}", err(&first));
    assert!(err(&first).contains("tokens/s"), "{}", err(&first));

    let report = json(&keeper(&sandbox, &[&greedy[..], &["--json"]].concat()).await);
    assert_eq!(report["output"], out(&first));
    assert_eq!(report["model"], MODEL);
    assert!(report["usage"]["completion_tokens"].as_u64().unwrap() <= 16);

    let seeded = [&arguments[..], &["--temperature", "1.2", "--seed", "7"]].concat();
    assert_eq!(out(&keeper(&sandbox, &seeded).await), out(&keeper(&sandbox, &seeded).await));

    let mut command = sandbox.command("rbee-keeper");
    command.args(["infer", "--prompt", "-", "--max-tokens", "16", "--temperature", "0"]);
    let mut piped =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    piped.stdin.take().unwrap().write_all(b"Name three colours.").await.unwrap();
    assert_eq!(out(&piped.wait_with_output().await.unwrap()), out(&first));
    assert_eq!(keeper(&sandbox, &["down"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn infer_ends_with_the_exit_code_that_tells_why() {
    let sandbox = Sandbox::new().await;
    assert_eq!(keeper(&sandbox, &["daemon", "start"]).await.status.code(), Some(0));
    let endless = ["infer", "--prompt", "Tell a long story.", "--max-tokens", "5000", "--temperature", "0"];

    let failed = keeper(&sandbox, &["infer", "--prompt", "Hi", "--model", "no-such-model", "--json"]).await;
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(json(&failed)["error"]["code"], "model_not_found");
    assert!(err(&failed).contains("help: "), "{}", err(&failed));

    let usage = keeper(&sandbox, &["infer"]).await;
    assert_eq!(usage.status.code(), Some(2));

    // The first answer loads the model, so that what follows is cut in its tokens and not before them.
    assert_eq!(
        keeper(&sandbox, &["infer", "--prompt", "Hi", "--max-tokens", "1"]).await.status.code(),
        Some(0)
    );
    let late = keeper(&sandbox, &[&endless[..], &["--timeout", "1"]].concat()).await;
    assert_eq!(late.status.code(), Some(124), "{}", err(&late));

    let (mut infer, _stdout) = infer_in_tokens(&sandbox, &endless).await;
    kill(infer.id().unwrap(), Signal::INT);
    assert_eq!(infer.wait().await.unwrap().code(), Some(130));
    worker_is_free(&sandbox).await;

    let (mut infer, stdout) = infer_in_tokens(&sandbox, &endless).await;
    drop(stdout);
    assert_eq!(infer.wait().await.unwrap().code(), Some(141), "as if SIGPIPE had ended it");
    worker_is_free(&sandbox).await;
    assert_eq!(keeper(&sandbox, &["down"]).await.status.code(), Some(0));
}

/// `infer` whose first tokens have come.
async fn infer_in_tokens(sandbox: &Sandbox, arguments: &[&str]) -> (Child, ChildStdout) {
    let mut command = sandbox.command("rbee-keeper");
    let mut infer = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = infer.stdout.take().unwrap();
    let read = tokio::time::timeout(PATIENCE, stdout.read_u8()).await.expect("tokens come");
    read.expect("tokens come");
    (infer, stdout)
}

async fn worker_is_free(sandbox: &Sandbox) {
    eventually("the worker is free", Duration::from_secs(5), async || {
        let workers = json(&keeper(sandbox, &["workers", "list", "--json"]).await);
        let worker = &workers["workers"][0];
        (worker["slots_available"] == worker["slots_total"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn tasks_are_submitted_seen_followed_and_ended() {
    let sandbox = Sandbox::new().await;
    assert_eq!(keeper(&sandbox, &["daemon", "start"]).await.status.code(), Some(0));
    let file = |name: &str, task: Value| {
        let path = sandbox.data_dir().join(name);
        std::fs::write(&path, task.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let short = file(
        "short.json",
        json!({"prompt": "Count to three.", "max_tokens": 8, "temperature": 0, "model": MODEL}),
    );
    let followed =
        keeper(&sandbox, &["tasks", "submit", &short, "--follow", "--idempotency-key", "one"]).await;
    assert_eq!(followed.status.code(), Some(0), "{}", err(&followed));
    let accepted =
        json(&keeper(&sandbox, &["tasks", "submit", &short, "--idempotency-key", "one", "--json"]).await);
    let id = accepted["job_id"].as_str().unwrap();
    assert!(err(&followed).contains(id), "the same task under the same key: {}", err(&followed));
    let view = json(&keeper(&sandbox, &["tasks", "show", id, "--json"]).await);
    assert_eq!(view["output"].as_str().unwrap().trim_end(), out(&followed).trim_end());
    let shown = out(&keeper(&sandbox, &["tasks", "show", id]).await);
    assert!(shown.contains("status    completed") && shown.contains("8 written"), "{shown}");
    let listed = out(&keeper(&sandbox, &["tasks", "list"]).await);
    assert!(listed.contains(id) && listed.lines().count() == 2, "{listed}");

    let vectors = file("vectors.json", json!({"kind": "embedding", "input": ["a", "b"]}));
    let told = keeper(&sandbox, &["tasks", "submit", &vectors, "--follow"]).await;
    assert_eq!(json(&told)["embeddings"].as_array().unwrap().len(), 2);

    let long = file("long.json", json!({"prompt": "Tell a story.", "max_tokens": 1500, "ignore_eos": true}));
    let submitted = out(&keeper(&sandbox, &["tasks", "submit", &long]).await);
    let id = submitted.lines().next().unwrap();
    let cancelled = out(&keeper(&sandbox, &["tasks", "cancel", id]).await);
    assert!(cancelled.contains("status    cancelled"), "{cancelled}");
    let queue = out(&keeper(&sandbox, &["queue"]).await);
    assert!(queue.contains("0 waiting") && queue.contains("0 tasks unfinished"), "{queue}");

    let wrong = file("wrong.json", json!({"prompt": "Hi", "priority": "odd"}));
    let refused = keeper(&sandbox, &["tasks", "submit", &wrong]).await;
    assert!(refused.status.code() == Some(1) && err(&refused).contains("wrong.json"), "{}", err(&refused));
    let refused = keeper(&sandbox, &["tasks", "submit", &short, "--idempotency-key", "a\nb"]).await;
    assert_eq!(refused.status.code(), Some(2), "{}", err(&refused));
    assert_eq!(keeper(&sandbox, &["tasks", "show", "nothing"]).await.status.code(), Some(1));
    assert_eq!(keeper(&sandbox, &["down"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn completions_and_help_need_nothing() {
    let sandbox = Sandbox::new().await;
    std::fs::write(sandbox.data_dir().join("config.toml"), "not toml").unwrap();
    let script = keeper(&sandbox, &["completions", "bash"]).await;
    assert!(script.status.success() && out(&script).contains("complete"));
    let help = out(&keeper(&sandbox, &["infer", "--help"]).await);
    for flag in ["--model", "--prompt", "--max-tokens", "--temperature", "--seed", "124", "130"] {
        assert!(help.contains(flag), "{help}");
    }
    let status = keeper(&sandbox, &["daemon", "status"]).await;
    assert_eq!(status.status.code(), Some(1));
    assert!(err(&status).contains("config.toml"), "{}", err(&status));
}
