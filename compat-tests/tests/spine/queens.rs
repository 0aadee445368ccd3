//! Two queens share a worker, or one PostgreSQL server: what one takes in, either runs; what one leaves, the other ends.
//!
//! `RBEE_QUEENS_TASKS=2000` gives them so many tasks.

use std::collections::HashMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use compat_tests::{Signal, Stack, eventually};
use futures::StreamExt;
use futures::future::join_all;
use protocol::task::{TaskRequest, TaskStatus};
use protocol::worker::WorkerState;
use protocol::{JobId, TaskEvent};
use serde_json::json;

/// Tasks under `cargo test`.
const TASKS: usize = 160;
/// A lease lasts 15 s, and is looked at every few.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_mins(8);

#[tokio::test]
async fn two_queens_that_share_a_worker_fail_nobody_over_its_slots() {
    const EACH: usize = 24;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let first = Stack::start_with(&["--local-hive", "spawn", "--hive-port", &port]).await;
    let attached = ["--local-hive", "attach", "--hive-port", &port].map(str::to_owned);
    let second = first.start_beside_with(attached.into()).await;
    first.warm_up().await;
    eventually("the other one sees the worker", PATIENCE, async || {
        let workers = second.client().workers().await.ok()?.workers;
        workers.iter().any(|worker| worker.state == WorkerState::Idle).then_some(())
    })
    .await;
    // Three times as many as the worker has slots, from each: neither knows what the other one gave out.
    let ask = async |stack: &Stack, number: usize| {
        let begun = Instant::now();
        let answer = stack.ask(&format!("Count to {number}."), 40).await;
        answer.unwrap_or_else(|error| panic!("{number} after {:?}: {error}", begun.elapsed()));
    };
    let all = |stack| join_all((0..EACH).map(move |number| ask(stack, number)));
    tokio::join!(all(&first), all(&second));
    for stack in [&first, &second] {
        let queue = stack.client().queue().await.unwrap();
        assert_eq!((queue.running, queue.waiting), (0, 0));
    }
    assert_eq!(second.worker().await.id, first.worker().await.id, "no other worker was started");
}

#[tokio::test]
async fn one_queen_ends_what_another_one_died_over() {
    let Ok(database) = std::env::var("RBEE_TEST_POSTGRES") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "RBEE_TEST_POSTGRES names no server");
        return eprintln!("left out: RBEE_TEST_POSTGRES names no server");
    };
    let count = std::env::var("RBEE_QUEENS_TASKS").map_or(TASKS, |text| text.parse().unwrap());
    let mut first = Stack::start_with(&["--local-hive", "spawn", "--database-url", &database]).await;
    let second = first.start_beside().await;
    first.warm_up().await;
    second.warm_up().await;

    let (one, other) = (first.client(), second.client());
    let jobs: Vec<JobId> = futures::stream::iter(0..count)
        .map(|number| {
            let client = if number % 2 == 0 { &one } else { &other };
            let request = json!({"prompt": format!("Say {number}."), "max_tokens": 4, "priority": "batch"});
            let request: TaskRequest = serde_json::from_value(request).unwrap();
            async move { client.submit(&request).await.unwrap().job_id }
        })
        .buffered(64)
        .collect()
        .await;
    // A reader at one queen is told of what the other one runs.
    let reader = other.clone();
    let followed = jobs[jobs.len() - 2].clone();
    let reading = tokio::spawn(async move {
        let mut events = reader.task_events(&followed).await.unwrap();
        let mut last = None;
        while let Some(event) = events.next().await.unwrap() {
            last = Some(event);
        }
        last
    });
    eventually("a part has ended", PATIENCE, async || {
        let unfinished = other.queue().await.ok()?.tasks.unfinished;
        (unfinished < count as u64 * 3 / 4).then_some(())
    })
    .await;
    let held = one.queue().await.unwrap().tasks.held;
    first.signal_queen(Signal::KILL);
    first.queen_ended(PATIENCE).await;
    let died = Instant::now();
    eventually("one of hers is another one's", PATIENCE, async || {
        for job in &jobs {
            if other.task(job).await.ok()?.attempt > 1 {
                return Some(());
            }
        }
        None
    })
    .await;
    let taken_over = died.elapsed();

    let mut attempts = HashMap::new();
    for job in &jobs {
        let view = eventually(&format!("{job} has ended"), PATIENCE, async || {
            let view = other.task(job).await.ok()?;
            view.finished_at_ms.is_some().then_some(view)
        })
        .await;
        assert_eq!(view.status, TaskStatus::Completed, "{view:?}");
        *attempts.entry(view.attempt).or_insert(0_u32) += 1;
        let mut events = other.task_events(job).await.unwrap();
        let mut ends = 0;
        while let Some(event) = events.next().await.unwrap() {
            ends += u32::from(event.is_last());
        }
        assert_eq!(ends, 1, "{job} ends once");
    }
    assert!(matches!(reading.await.unwrap(), Some(TaskEvent::End(_))), "the reader was told of the end");
    assert_eq!(other.queue().await.unwrap().tasks.unfinished, 0);
    assert!(attempts.keys().any(|attempt| *attempt > 1), "she held something when she died");
    eprintln!(
        "{count} tasks, {held} held by the dead queen, the first of them taken over {taken_over:?} later, attempts {attempts:?}"
    );
    assert!(taken_over < TAKEN_OVER_WITHIN, "{taken_over:?}");
}
