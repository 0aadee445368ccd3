//! A routing script in a real server: who is let in, who serves, what is told of it, and what happens when it fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use client::Error;
use compat_tests::{MODEL, RawConnection, Sampled, Stack, chat_body, eventually};
use protocol::routing::{RoutingMode, Verdict};
use protocol::task::{TaskRequest, TaskStatus};
use protocol::{ApiError, ErrorCode};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

/// A script's file, which is gone with it.
struct ScriptFile(tempfile::TempDir);

impl ScriptFile {
    fn new(text: &str) -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("routing.rhai")
    }

    fn flag(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }

    /// Writes another text, and waits until the server has seen it.
    async fn change(&self, stack: &Stack, text: &str) {
        let before = stack.client().routing().await.unwrap();
        std::fs::write(self.path(), text).unwrap();
        eventually("the change is seen", PATIENCE, async || {
            let now = stack.client().routing().await.ok()?;
            ((&now.script, &now.fault) != (&before.script, &before.fault)).then_some(())
        })
        .await;
    }
}

fn task(body: serde_json::Value) -> TaskRequest {
    serde_json::from_value(body).unwrap()
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ApiError {
    match outcome {
        Err(Error::Api(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

/// The answer's head to a chat completion.
async fn head(stack: &Stack) -> String {
    let body = chat_body("Hi", 1, Sampled::Whole);
    let mut connection = RawConnection::post(&stack.url, "/v1/chat/completions", &body).await;
    let received = connection.read_until(PATIENCE, |text| text.contains("\r\n\r\n")).await;
    received.text.split("\r\n\r\n").next().unwrap().to_owned()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
}

const FIRST: &str = "
fn should_admit(task, queue_depth, workers) {
    if task.tags.team == \"sales\" { return error(\"Sales comes later.\"); }
    return true;
}

fn route_task(task, workers) {
    let here = workers.filter(|w| w.region == \"EU\" && w.backend == \"cpu\");
    if task.compliance == \"gdpr\" && here.is_empty() { return error(\"No EU workers available\"); }
    log_info(`for ${task.model}`);
    return here.least_loaded();
}
";

#[tokio::test]
async fn a_script_decides_and_tells_why() {
    let file = ScriptFile::new(FIRST);
    let flags = ["--local-hive", "spawn", "--region", "EU", "--routing-script", &file.flag()];
    let stack = Stack::start_with(&flags).await;
    // No worker serves yet: the script chooses the machine that can start one.
    let head = head(&stack).await;
    assert!(head.contains("200 OK"), "{head}");
    let told = header(&head, "x-rbee-routing").unwrap();
    assert!(told.starts_with("start; node=local; left=1/1; us="), "{told}");
    let worker = stack.worker().await;
    let first = stack.client().routing_decision(header(&head, "x-request-id").unwrap()).await.unwrap();
    assert_eq!((first.outcome.verdict, first.served_by), (Verdict::Start, Some(worker.id.clone())));

    let accepted = stack
        .client()
        .submit(&task(
            json!({"prompt": "Hi", "max_tokens": 2, "compliance": "gdpr", "tags": {"team": "research"}}),
        ))
        .await
        .unwrap();
    let view = eventually("the task has ended", PATIENCE, async || {
        let view = stack.client().task(&accepted.job_id).await.ok()?;
        view.finished_at_ms.is_some().then_some(view)
    })
    .await;
    assert_eq!(view.status, TaskStatus::Completed, "{view:?}");
    assert_eq!(view.decision.unwrap().why, "script");
    let decision = stack.client().routing_decision(accepted.job_id.as_str()).await.unwrap();
    assert_eq!(decision.outcome.verdict, Verdict::Worker);
    assert_eq!(decision.outcome.worker_id, Some(worker.id.clone()));
    assert_eq!(decision.served_by, Some(worker.id.clone()));
    assert_eq!(decision.notes, [format!("info: for {MODEL}")]);
    let steps: Vec<_> = decision.steps.iter().map(|step| (&*step.step, step.from, &*step.to)).collect();
    assert_eq!(steps, [("filter", 1, "1"), ("least_loaded", 1, worker.id.as_str())]);
    assert_eq!(decision.workers.len(), 1);
    assert_eq!((&*decision.workers[0].region, decision.workers[0].slots_total), ("EU", worker.slots_total));

    let body = json!({"prompt": "Hi", "tags": {"team": "sales"}});
    let error = refusal(stack.client().submit(&task(body)).await);
    assert_eq!((error.code, &*error.message), (ErrorCode::AdmissionRejected, "Sales comes later."));
    assert!(error.retry_after_ms.is_some());
    assert_eq!(error.details["policy_label"], "should_admit");

    let state = stack.client().routing().await.unwrap();
    assert_eq!(state.hooks, ["should_admit", "route_task"]);
    assert_eq!((state.counts.routed, state.counts.not_admitted, state.counts.failed), (2, 1, 0));
}

#[tokio::test]
async fn a_changed_script_is_heeded_and_a_broken_one_is_not() {
    let file = ScriptFile::new(FIRST);
    let flags = ["--local-hive", "spawn", "--region", "EU", "--routing-script", &file.flag()];
    let stack = Stack::start_with(&flags).await;
    stack.warm_up().await;
    file.change(&stack, "fn should_admit(task, queue_depth, workers) {\n  oh no\n}").await;
    let state = stack.client().routing().await.unwrap();
    assert_eq!(state.fault.unwrap().line, Some(2));
    assert!(
        header(&head(&stack).await, "x-rbee-routing").unwrap().starts_with("worker;"),
        "the last good one is in force"
    );

    file.change(&stack, "fn should_admit(task, queue_depth, workers) { false }").await;
    let refused = refusal(stack.ask("Hi", 1).await);
    assert_eq!((refused.code, refused.code.status()), (ErrorCode::AdmissionRejected, 429));

    // One that fails is named; the queue decides, but not for what is under rules that the script keeps.
    file.change(&stack, "fn route_task(task, workers) {\n  workers.nonsense()\n}").await;
    let answer = head(&stack).await;
    let told = header(&answer, "x-rbee-routing").unwrap();
    assert!(
        answer.contains("200 OK") && told.starts_with("failed;") && told.contains("fault=line 2"),
        "{told}"
    );
    let body = json!({"prompt": "Hi", "compliance": "gdpr"});
    assert_eq!(refusal(stack.client().submit(&task(body)).await).code, ErrorCode::RoutingFailed);
    for _ in 0..5 {
        stack.ask("Hi", 1).await.unwrap();
    }
    let state = stack.client().routing().await.unwrap();
    assert!(state.counts.failed == 5 && state.counts.suspended >= 1, "{:?}", state.counts);
    assert!(state.suspended_for_ms.is_some());
    file.change(&stack, FIRST).await;
    assert!(header(&head(&stack).await, "x-rbee-routing").unwrap().starts_with("worker;"));
}

#[tokio::test]
async fn a_shadow_decides_nothing() {
    let file = ScriptFile::new("fn should_admit(task, queue_depth, workers) { false }");
    let flags = ["--local-hive", "spawn", "--routing-script", &file.flag(), "--routing-mode", "shadow"];
    let stack = Stack::start_with(&flags).await;
    assert!(header(&head(&stack).await, "x-rbee-routing").unwrap().starts_with("not_admitted; shadow;"));
    let decisions = stack.client().routing_decisions().await.unwrap().decisions;
    assert_eq!(
        (decisions[0].mode, decisions[0].outcome.verdict),
        (RoutingMode::Shadow, Verdict::NotAdmitted)
    );
    assert!(decisions[0].served_by.is_some());
    let refused = refusal(stack.client().submit(&task(json!({"prompt": "Hi", "compliance": "gdpr"}))).await);
    assert_eq!(
        (refused.code, refused.param.as_deref()),
        (ErrorCode::UnsupportedParameter, Some("compliance"))
    );
}

#[tokio::test]
async fn a_script_that_is_not_valid_is_told_at_start() {
    let file = ScriptFile::new("fn route_task(task, workers) {");
    let sandbox = compat_tests::Sandbox::new().await;
    let started = sandbox.command("queen-rbee").args(["daemon", "--routing-script", &file.flag()]).output();
    let output = tokio::time::timeout(PATIENCE, started).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("is not valid: line 1"), "{told}");
}

/// Runs the command against a stack; its exit code and what it printed.
async fn keeper(stack: &Stack, arguments: &[&str]) -> (i32, String) {
    let mut command = stack.sandbox.command("rbee-keeper");
    let output = command.args(["--queen-url", &stack.url, "route"]).args(arguments).output();
    let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(told).unwrap())
}

fn example(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("examples/routing").join(name).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn scripts_are_tried_out_on_the_command_line() {
    let file = ScriptFile::new(FIRST);
    let flags = ["--local-hive", "spawn", "--region", "EU", "--routing-script", &file.flag()];
    let stack = Stack::start_with(&flags).await;
    let worker = stack.warm_up().await;
    let (code, told) = keeper(&stack, &["check", &example("admission.rhai")]).await;
    assert!(code == 0 && told.contains("is valid and defines should_admit"), "{told}");
    let broken = ScriptFile::new("fn route_task(task, workers) {\n  1 +\n}");
    let (code, told) = keeper(&stack, &["check", &broken.flag()]).await;
    assert!(code == 1 && told.contains("line 3"), "{told}");

    let (code, told) =
        keeper(&stack, &["test", &example("priority-and-compliance.rhai"), "--compliance", "gdpr"]).await;
    assert!(code == 0 && told.contains(&format!("decided   worker {} on local, of 1", worker.id)), "{told}");
    let (_, told) = keeper(&stack, &["test", &example("model-size.rhai"), "--json"]).await;
    let decision: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(decision["outcome"]["worker_id"], json!(worker.id), "{told}");
    assert_eq!(decision["steps"][0]["step"], "filter");
    let case = ScriptFile::new(
        r#"{"task": {"model": "x-70b"}, "workers": [{"id": "one"}, {"id": "two", "gpus": 2}]}"#,
    );
    let (_, told) = keeper(&stack, &["test", &example("model-size.rhai"), "--case", &case.flag()]).await;
    assert!(told.contains("worker two on"), "{told}");

    let (code, told) = keeper(&stack, &["replay", &file.flag()]).await;
    assert!(code == 0 && told.contains("1 decisions, 1 the same, 0 not"), "{told}");
    let (_, told) = keeper(&stack, &["replay", &broken.flag()]).await;
    assert!(told.contains("The script is not valid"), "{told}");
    let closed = ScriptFile::new("fn should_admit(task, queue_depth, workers) { false }");
    let (_, told) = keeper(&stack, &["replay", &closed.flag()]).await;
    assert!(told.contains("0 the same, 1 not") && told.contains("not admitted"), "{told}");

    let (_, told) = keeper(&stack, &["explain"]).await;
    assert!(told.contains("start a worker on local") && told.contains(worker.id.as_str()), "{told}");
    let id = &stack.client().routing_decisions().await.unwrap().decisions[0].id.clone();
    let (_, told) = keeper(&stack, &["explain", id]).await;
    assert!(told.contains("filter of 1 -> 1") && told.contains("served by"), "{told}");
    let (_, told) = keeper(&stack, &["status"]).await;
    assert!(told.contains("defines   should_admit, route_task") && told.contains("1 routed"), "{told}");
}
