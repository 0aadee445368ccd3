//! Tasks outlast the queen: what was acknowledged ends once, whoever dies meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use client::Error;
use compat_tests::{EMBEDDING_MODEL, MODEL, Signal, Stack, eventually};
use futures::future::join_all;
use protocol::task::{TaskRequest, TaskStatus, TaskView};
use protocol::vectors::Vector;
use protocol::{ErrorCode, JobId, TaskEvent};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(2);

fn task(body: Value) -> TaskRequest {
    serde_json::from_value(body).unwrap()
}

/// The tasks of these ids, all of which have ended.
async fn ended(stack: &Stack, jobs: &[JobId]) -> Vec<TaskView> {
    eventually("all tasks have ended", PATIENCE, async || {
        let views = join_all(jobs.iter().map(async |job| stack.client().task(job).await)).await;
        let views: Vec<_> = views.into_iter().collect::<Result<_, _>>().ok()?;
        views.iter().all(|view| view.finished_at_ms.is_some()).then_some(views)
    })
    .await
}

#[tokio::test]
async fn what_was_acknowledged_ends_though_the_queen_is_killed() {
    let mut stack = Stack::start().await;
    stack.warm_up().await;
    let mut jobs = Vec::new();
    for number in 0..24 {
        let request =
            task(json!({"prompt": format!("Count from {number}."), "max_tokens": 24, "temperature": 1}));
        jobs.push(stack.client().submit(&request).await.unwrap().job_id);
    }
    // Some have ended by then, some run, some wait.
    let first = ended(&stack, &jobs[..3]).await;
    stack.kill_and_restart().await;
    let views = ended(&stack, &jobs).await;
    for view in &views {
        assert_eq!((view.status, &view.error), (TaskStatus::Completed, &None), "{view:?}");
        assert!(view.seed.is_some() && !view.output.is_empty());
    }
    assert_eq!(views[..3], first[..], "what had ended is as it was");
    assert!(views.iter().any(|view| view.attempt > 1), "one at least was begun again");
    // What is told of each is what was kept of it, with one end.
    for (job, view) in jobs.iter().zip(&views) {
        let events = told(&stack, job, None).await;
        let text: String = events.iter().filter_map(|(_, event)| token(event)).collect();
        assert_eq!(&text, &view.output);
        assert_eq!(events.iter().filter(|(_, event)| event.is_last()).count(), 1);
    }
}

#[tokio::test]
async fn a_stopping_queen_gives_waiting_tasks_back_and_ends_those_that_run() {
    let mut stack = Stack::start_with(&["--local-hive", "spawn", "--drain-seconds", "20"]).await;
    let slots = stack.warm_up().await.slots_total as usize;
    let mut jobs = Vec::new();
    for _ in 0..slots * 3 {
        let request = task(json!({"prompt": "Tell a story.", "max_tokens": 48, "min_tokens": 48, "seed": 7}));
        jobs.push(stack.client().submit(&request).await.unwrap().job_id);
    }
    eventually("some run", PATIENCE, async || {
        let view = stack.client().task(&jobs[0]).await.ok()?;
        (view.status == TaskStatus::Running).then_some(())
    })
    .await;
    stack.signal_queen(Signal::TERM);
    stack.queen_ended(PATIENCE).await;
    stack.restart().await;
    let views = ended(&stack, &jobs).await;
    assert!(views.iter().all(|view| view.status == TaskStatus::Completed));
    assert_eq!(views[0].attempt, 1, "what ran was let end");
    assert!(views.iter().any(|view| view.attempt == 2), "what waited went back");
    // The same seed says the same, whichever queen asks for it.
    assert!(views.iter().all(|view| view.output == views[0].output));
}

#[tokio::test]
async fn a_key_makes_one_task_whoever_is_asked_and_however_often() {
    let mut stack = Stack::start().await;
    stack.warm_up().await;
    let body = json!({"prompt": "Say hello.", "max_tokens": 4});
    let submit = async |stack: &Stack, body: &Value| {
        let http = stack.http().with_header(&"idempotency-key".parse().unwrap(), "order-1");
        http.post::<_, Value>("/v2/tasks", body).await
    };
    let at_once = join_all((0..8).map(|_| submit(&stack, &body))).await;
    let ids: Vec<_> = at_once.into_iter().map(|answer| answer.unwrap()["job_id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    stack.kill_and_restart().await;
    assert_eq!(submit(&stack, &body).await.unwrap()["job_id"], ids[0]);
    let other = submit(&stack, &json!({"prompt": "Say goodbye.", "max_tokens": 4})).await.unwrap_err();
    assert!(matches!(other, Error::Api(error) if error.code == ErrorCode::IdempotencyConflict));
    assert_eq!(stack.client().tasks("limit=100").await.unwrap().tasks.len(), 1);
}

#[tokio::test]
async fn readers_who_are_cut_see_every_event_once() {
    let stack = Stack::start().await;
    stack.warm_up().await;
    let request =
        task(json!({"prompt": "Tell a story.", "max_tokens": 120, "min_tokens": 120, "temperature": 1}));
    let job = stack.client().submit(&request).await.unwrap().job_id;
    let readers = (0..100_usize).map(async |reader| {
        let mut seen: Vec<(String, TaskEvent)> = Vec::new();
        // Each is cut several times, after another number of events each time.
        for cut_after in [1 + reader % 7, 3 + reader % 31, 1 + reader % 3, usize::MAX] {
            let last = seen.last().map(|(id, _)| id.clone());
            seen.extend(numbered(&stack, &job, last, cut_after).await);
        }
        seen
    });
    let all = join_all(readers).await;
    let whole = numbered(&stack, &job, None, usize::MAX).await;
    assert!(whole.len() > 120 && whole.last().is_some_and(|(_, event)| event.is_last()));
    for (reader, seen) in all.iter().enumerate() {
        assert_eq!(seen, &whole, "reader {reader}");
    }
    let after_the_last = numbered(&stack, &job, whole.last().map(|(id, _)| id.clone()), usize::MAX).await;
    assert_eq!(after_the_last, []);
}

#[tokio::test]
async fn a_reader_goes_on_with_the_attempt_of_the_next_queen() {
    let mut stack = Stack::start().await;
    stack.warm_up().await;
    let request =
        task(json!({"prompt": "Tell a story.", "max_tokens": 200, "min_tokens": 200, "temperature": 1}));
    let job = stack.client().submit(&request).await.unwrap().job_id;
    let before = numbered(&stack, &job, None, 20).await;
    stack.kill_and_restart().await;
    let after = numbered(&stack, &job, before.last().map(|(id, _)| id.clone()), usize::MAX).await;
    let view = stack.client().task(&job).await.unwrap();
    assert_eq!((view.status, view.attempt), (TaskStatus::Completed, 2));
    let text = |events: &[(String, TaskEvent)]| -> String {
        events.iter().filter_map(|(_, event)| token(event)).collect()
    };
    assert!(
        after.iter().any(|(_, event)| matches!(event, TaskEvent::Started(_))),
        "the attempt is told from its start"
    );
    assert_eq!(text(&after), view.output);
    assert!(view.output.starts_with(&text(&before)), "the seed was kept, so the tokens are the same");
}

#[tokio::test]
async fn tasks_are_previewed_listed_and_explained() {
    let stack = Stack::start().await;
    let client = stack.client();
    let hello = task(json!({"prompt": "Say hello.", "max_tokens": 4, "priority": "batch"}));
    let preview = client.preview(&hello).await.unwrap();
    assert_eq!((preview.feasible, preview.reason.as_str(), preview.queue_position), (true, "cold_start", 1));
    stack.warm_up().await;
    let preview = client.preview(&hello).await.unwrap();
    assert_eq!((preview.feasible, preview.queue_position, preview.node.as_deref()), (true, 0, Some("local")));
    let nowhere = task(json!({"prompt": "Say hello.", "node": "nowhere"}));
    let preview = client.preview(&nowhere).await.unwrap();
    assert!(!preview.feasible && preview.reason.contains("nowhere"), "{preview:?}");
    assert!(client.tasks("").await.unwrap().tasks.is_empty(), "a preview queues nothing");

    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(client.submit(&hello).await.unwrap().job_id);
    }
    ended(&stack, &jobs).await;
    let page = client.tasks("limit=2&order=asc").await.unwrap();
    assert!(page.has_more && page.tasks.iter().map(|task| &task.job_id).eq(&jobs[..2]));
    let page = client.tasks(&format!("limit=9&order=asc&status=completed&after={}", jobs[1])).await.unwrap();
    assert!(!page.has_more && page.tasks.iter().map(|task| &task.job_id).eq(&jobs[2..]));
    assert!(page.tasks.iter().all(|task| task.model == MODEL && task.finished_at_ms.is_some()));
    assert!(client.tasks("status=failed").await.unwrap().tasks.is_empty());
    assert!(client.tasks("status=odd").await.is_err() && client.tasks("after=nothing").await.is_err());
    let decision = client.decision(&jobs[0]).await.unwrap().decision;
    assert_eq!((decision.node.as_str(), decision.attempt), ("local", 1));
}

#[tokio::test]
async fn a_tasks_owner_alone_sees_it() {
    let stack = Stack::start_with(&["--local-hive", "spawn", "--token", "s3cret"]).await;
    let owner = client::HttpClient::new(&stack.url).with_token("s3cret");
    let job: Value = owner.post("/v2/tasks", &json!({"prompt": "Hi", "max_tokens": 1})).await.unwrap();
    let path = format!("/v2/tasks/{}", job["job_id"].as_str().unwrap());
    assert!(owner.get::<Value>(&path).await.is_ok());
    assert!(stack.http().get::<Value>(&path).await.is_err(), "who shows no token learns nothing");
}

#[tokio::test]
async fn a_response_in_the_background_is_made_by_the_next_queen() {
    let mut stack = Stack::start().await;
    stack.warm_up().await;
    let body =
        json!({"model": MODEL, "input": "Tell a story.", "background": true, "max_output_tokens": 150});
    let made: Value = stack.http().post("/v1/responses", &body).await.unwrap();
    let path = format!("/v1/responses/{}", made["id"].as_str().unwrap());
    eventually("it is being made", PATIENCE, async || {
        let response: Value = stack.http().get(&path).await.ok()?;
        (response["status"] == "in_progress").then_some(())
    })
    .await;
    stack.kill_and_restart().await;
    let response: Value = eventually("it has ended", PATIENCE, async || {
        let response: Value = stack.http().get(&path).await.ok()?;
        (response["completed_at"] != Value::Null || response["incomplete_details"] != Value::Null)
            .then_some(response)
    })
    .await;
    assert!(response["output"][0]["content"][0]["text"].as_str().is_some_and(|text| !text.is_empty()));
    let task = stack.client().task(&made["id"].as_str().unwrap().into()).await.unwrap();
    assert_eq!((task.status, task.attempt), (TaskStatus::Completed, 2), "it is a task as well");
}

#[tokio::test]
async fn a_task_for_vectors_is_told_in_one_piece_and_kept() {
    let mut stack = Stack::start().await;
    let body = json!({"kind": "embedding", "input": ["a first text", "a second one"], "priority": "batch"});
    let first = stack.client().submit(&task(body.clone())).await.unwrap().job_id;
    // The next queen makes what this one leaves.
    let second = stack.client().submit(&task(body)).await.unwrap().job_id;
    stack.kill_and_restart().await;
    let views = ended(&stack, &[first.clone(), second]).await;
    let asked: Value = stack
        .http()
        .post("/v1/embeddings", &json!({"model": EMBEDDING_MODEL, "input": ["a first text", "a second one"]}))
        .await
        .unwrap();
    for view in &views {
        assert_eq!((view.status, &view.error), (TaskStatus::Completed, &None), "{view:?}");
        let result = view.result.as_ref().unwrap();
        assert_eq!(result.model, EMBEDDING_MODEL);
        for text in 0..2 {
            let vector = serde_json::from_value(asked["data"][text]["embedding"].clone()).unwrap();
            assert!(result.embeddings[text] == Vector::Float(vector), "as for /v1/embeddings");
        }
        assert_eq!(serde_json::to_value(result.usage).unwrap(), asked["usage"]);
        assert!(view.decision.is_some() && view.output.is_empty() && view.usage.unwrap().prompt_tokens > 0);
    }
    let events = told(&stack, &first, None).await;
    let names: Vec<_> = events.iter().map(|(_, event)| event.name()).collect();
    assert_eq!(names[names.len() - 3..], ["started", "result", "end"]);
    let ids: Vec<_> = events.iter().filter_map(|(id, _)| id.clone()).collect();
    let rest = told(&stack, &first, ids.iter().rev().nth(1).cloned()).await;
    assert_eq!(rest, events[events.len() - 1..], "who has seen the result is told the end");

    let preview = stack.client().preview(&task(json!({"kind": "embedding", "input": "x"}))).await.unwrap();
    assert!(preview.feasible && preview.worker_id.is_some(), "{preview:?}");
    let wrong = task(json!({"kind": "embedding", "input": "x", "model": MODEL}));
    match stack.client().submit(&wrong).await {
        Err(Error::Api(error)) => assert_eq!(error.code, ErrorCode::UnsupportedModel),
        other => panic!("a chat model makes no vectors: {other:?}"),
    }
}

/// All of a task's events.
async fn told(stack: &Stack, job: &JobId, last: Option<String>) -> Vec<(Option<String>, TaskEvent)> {
    let last = last.map(|last| ("last-event-id".parse().unwrap(), last));
    let headers: Vec<_> = last.into_iter().collect();
    let mut events = stack.http().get_events(&format!("/v2/tasks/{job}/events"), &headers).await.unwrap();
    let mut all = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        let parsed = TaskEvent::parse(&event.name, &event.data).unwrap().expect("a known event");
        all.push((event.id, parsed));
    }
    all
}

/// So many of a task's events that have a number, as long as there are so many; then the reader goes.
async fn numbered(
    stack: &Stack,
    job: &JobId,
    last: Option<String>,
    count: usize,
) -> Vec<(String, TaskEvent)> {
    let last = last.map(|last| ("last-event-id".parse().unwrap(), last));
    let headers: Vec<_> = last.into_iter().collect();
    let mut events = stack.http().get_events(&format!("/v2/tasks/{job}/events"), &headers).await.unwrap();
    let mut all = Vec::new();
    while all.len() < count
        && let Some(event) = events.next().await.unwrap()
    {
        let parsed = TaskEvent::parse(&event.name, &event.data).unwrap().expect("a known event");
        if let Some(id) = event.id {
            all.push((id, parsed));
        }
    }
    let ids: BTreeSet<_> = all.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), all.len(), "no id comes twice");
    all
}

fn token(event: &TaskEvent) -> Option<&str> {
    match event {
        TaskEvent::Token(token) => Some(&token.token),
        _ => None,
    }
}
