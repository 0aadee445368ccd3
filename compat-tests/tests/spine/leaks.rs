//! Nothing is left behind by requests, however they end.

use std::time::{Duration, Instant};

use compat_tests::{Process, Sampled, Stack, eventually, open_files};
use protocol::task::TaskRequest;
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(1);
const ROUNDS: usize = 8;
/// Connections that are kept for the next request: how many there are at a moment is chance, but they are few. What
/// leaks with one kind of request leaks in every round.
const KEPT_CONNECTIONS: usize = 3;

#[tokio::test]
async fn requests_leave_no_process_and_no_open_file_behind() {
    let stack = Stack::start().await;
    stack.warm_up().await;
    all_kinds_of_requests(&stack).await;
    at_rest(&stack).await;
    let before = open_files_of_all(&stack);
    for _ in 0..ROUNDS {
        all_kinds_of_requests(&stack).await;
    }
    at_rest(&stack).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = open_files_of_all(&stack);
        let same_processes =
            now.iter().map(|(process, _)| process).eq(before.iter().map(|(process, _)| process));
        if same_processes && now.iter().zip(&before).all(|(now, before)| now.1 <= before.1 + KEPT_CONNECTIONS)
        {
            return;
        }
        assert!(Instant::now() < deadline, "before: {before:?}; after: {now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn at_rest(stack: &Stack) {
    eventually("no request runs", PATIENCE, async || {
        let worker = stack.worker().await;
        (worker.slots_available == worker.slots_total).then_some(())
    })
    .await;
}

fn open_files_of_all(stack: &Stack) -> Vec<(Process, usize)> {
    stack.sandbox.processes().into_iter().map(|process| (process.clone(), open_files(process.id))).collect()
}

async fn all_kinds_of_requests(stack: &Stack) {
    stack.ask("Hi", 4).await.unwrap();
    assert!(stack.stream("Hi", 4).await.rest().await.len() > 2);
    for sampled in [Sampled::Streamed, Sampled::Whole] {
        let connection = stack.send("Tell a long story.", 5000, sampled).await;
        eventually("the request runs", PATIENCE, async || {
            let worker = stack.worker().await;
            (worker.slots_available < worker.slots_total).then_some(())
        })
        .await;
        drop(connection);
    }
    let bad = json!({"model": "no-such-model", "messages": [{"role": "user", "content": "Hi"}]});
    stack.http().post::<_, serde_json::Value>("/v1/chat/completions", &bad).await.unwrap_err();
    let task: TaskRequest =
        serde_json::from_value(json!({"prompt": "Tell a long story.", "max_tokens": 5000, "temperature": 0}))
            .unwrap();
    let job = stack.client().submit(&task).await.unwrap().job_id;
    let mut events = stack.client().task_events(&job).await.unwrap();
    events.next().await.unwrap().expect("the task has events");
    stack.client().cancel(&job).await.unwrap();
    while events.next().await.unwrap().is_some() {}
}
