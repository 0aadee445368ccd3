//! A second worker for a request whose first one is slow to say anything.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use client::HttpClient;
use client::hive::HiveClient;
use compat_tests::{MODEL, Signal, Stack, eventually, kill};
use protocol::hive::SpawnRequest;
use protocol::queen::HedgeCounts;
use protocol::task::{TaskStatus, TaskView};
use protocol::worker::{Backend, WorkerState};
use protocol::{JobId, WorkerId};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(1);
const HEDGE_AFTER_MS: &str = "300";

/// A queen with two workers of the model.
async fn two_workers(flags: &[&str]) -> (Stack, [WorkerId; 2]) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let flags: Vec<_> =
        ["--local-hive", "spawn", "--hive-port", &port].iter().chain(flags).copied().collect();
    let stack = Stack::start_with(&flags).await;
    let first = stack.warm_up().await.id;
    let hive = HiveClient::new(HttpClient::new(&format!("http://127.0.0.1:{port}")));
    let request =
        SpawnRequest { model: MODEL.into(), backend: Backend::Cpu, gpu: None, slots: None, port: None };
    let second = hive.spawn_worker(&request).await.unwrap().id;
    eventually("both workers are idle", PATIENCE, async || {
        let workers = stack.client().workers().await.ok()?.workers;
        let idle = workers.iter().filter(|worker| worker.state == WorkerState::Idle).count();
        (idle == 2).then_some(())
    })
    .await;
    (stack, [first, second])
}

/// Submits a task that prefers this worker.
async fn submit(stack: &Stack, worker: &WorkerId, priority: &str) -> JobId {
    let body = json!({
        "prompt": "Count to five.", "max_tokens": 8, "temperature": 0, "priority": priority,
        "placement": {"mode": "prefer", "worker": worker}
    });
    stack.client().submit(&serde_json::from_value(body).unwrap()).await.unwrap().job_id
}

async fn ended(stack: &Stack, job: &JobId) -> TaskView {
    eventually("the task has ended", PATIENCE, async || {
        let view = stack.client().task(job).await.ok()?;
        view.finished_at_ms.is_some().then_some(view)
    })
    .await
}

#[tokio::test]
async fn a_worker_that_says_nothing_loses_the_request_to_another_one() {
    let (stack, [silent, other]) = two_workers(&["--hedge-after-ms", HEDGE_AFTER_MS]).await;
    let workers = stack.client().workers().await.unwrap().workers;
    let pid = workers.iter().find(|worker| worker.id == silent).unwrap().pid.unwrap();
    kill(pid, Signal::STOP);
    let started = Instant::now();
    let view = ended(&stack, &submit(&stack, &silent, "interactive").await).await;
    let took = started.elapsed();
    let decision = view.decision.expect("it is told why it went there");
    assert_eq!(view.status, TaskStatus::Completed, "{:?}", view.error);
    assert!(!view.output.is_empty());
    assert_eq!((&*decision.why, &decision.worker_id), ("hedge", &other));
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert_eq!(stack.client().queue().await.unwrap().hedges, HedgeCounts { sent: 1, won: 1 });

    // Nobody waits for it in person: it stays where it is, until that worker goes on.
    let patient = submit(&stack, &silent, "batch").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stack.client().task(&patient).await.unwrap().finished_at_ms, None);
    kill(pid, Signal::CONT);
    let view = ended(&stack, &patient).await;
    assert_eq!(view.decision.unwrap().worker_id, silent);
    assert_eq!(stack.client().queue().await.unwrap().hedges.sent, 1);

    // Whoever was told to stop did, and all slots are free again.
    eventually("all slots are free", PATIENCE, async || {
        let workers = stack.client().workers().await.ok()?.workers;
        let is_free = workers.iter().all(|worker| worker.slots_available == worker.slots_total);
        (is_free && stack.client().queue().await.ok()?.running == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_the_option_nobody_else_is_asked() {
    let (stack, [silent, _]) = two_workers(&[]).await;
    let workers = stack.client().workers().await.unwrap().workers;
    let pid = workers.iter().find(|worker| worker.id == silent).unwrap().pid.unwrap();
    kill(pid, Signal::STOP);
    let job = submit(&stack, &silent, "interactive").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stack.client().task(&job).await.unwrap().finished_at_ms, None);
    kill(pid, Signal::CONT);
    let view = ended(&stack, &job).await;
    assert_eq!((view.status, view.decision.unwrap().worker_id), (TaskStatus::Completed, silent));
    assert_eq!(stack.client().queue().await.unwrap().hedges, HedgeCounts::default());
}
