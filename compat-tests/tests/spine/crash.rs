//! The queen is killed again and again, at any moment of a task's life: before and after it is kept, claimed, begun, ended.
//!
//! `RBEE_CRASH_RUNS=200` kills her that often; the seed of the moments is told, and `RBEE_CRASH_SEED` repeats it.

use std::collections::BTreeMap;
use std::time::Duration;

use compat_tests::{Signal, Stack, eventually};
use fastrand::Rng;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use protocol::task::TaskStatus;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(3);
/// Deaths under `cargo test`.
const RUNS: usize = 10;
/// Tasks that are submitted while she lives.
const TASKS: usize = 6;
/// She is killed at most so long after the first submission: before a worker is there, or while one is at work.
const LIVES_MS: [u64; 2] = [120, 1500];

#[tokio::test]
async fn every_task_ends_once_however_often_the_queen_is_killed() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let runs = number("RBEE_CRASH_RUNS").map_or(RUNS, |runs| runs as usize);
    let seed = number("RBEE_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut rng = Rng::with_seed(seed);
    let mut stack = Stack::start().await;
    stack.warm_up().await;
    // By their keys, the ids of the tasks that were acknowledged; none of those that were not.
    let mut tasks: BTreeMap<String, Option<String>> = BTreeMap::new();
    for run in 0..runs {
        let unacknowledged = tasks.iter().filter(|(_, id)| id.is_none()).map(|(key, _)| key.clone());
        let keys: Vec<String> =
            unacknowledged.chain((0..TASKS).map(|task| format!("{run}-{task}"))).collect();
        tasks.extend(keys.iter().map(|key| (key.clone(), None)));
        let mut submissions: FuturesUnordered<_> = keys.iter().map(|key| submit(&stack, key)).collect();
        let killed = tokio::time::sleep(Duration::from_millis(rng.u64(..=LIVES_MS[run % 2])));
        tokio::pin!(killed);
        loop {
            tokio::select! {
                biased;
                () = &mut killed => break,
                Some((key, answer)) = submissions.next() => {
                    // A refusal is none: nothing here is wrong with the tasks.
                    let id = answer.unwrap()["job_id"].as_str().unwrap().to_owned();
                    tasks.insert(key, Some(id));
                }
            }
        }
        stack.signal_queen(Signal::KILL);
        // What was answered in the last moment counts as acknowledged.
        while let Some((key, answer)) = submissions.next().await {
            if let Ok(answer) = answer {
                tasks.insert(key, Some(answer["job_id"].as_str().unwrap().to_owned()));
            }
        }
        drop(submissions);
        stack.queen_ended(PATIENCE).await;
        stack.restart().await;
    }
    for (key, id) in &mut tasks {
        let (_, again) = submit(&stack, key).await;
        let again = again.unwrap()["job_id"].as_str().unwrap().to_owned();
        assert_eq!(id.get_or_insert(again.clone()), &again, "{key}: its key makes one task (seed {seed})");
    }
    let (mut attempts, mut given_up) = (BTreeMap::new(), 0);
    for (key, id) in &tasks {
        let job = id.clone().unwrap().into();
        let view = eventually(&format!("{key} has ended (seed {seed})"), PATIENCE, async || {
            let view = stack.client().task(&job).await.ok()?;
            view.finished_at_ms.is_some().then_some(view)
        })
        .await;
        // That is what becomes of a task over which one queen after the other dies, as these do.
        let is_given_up = view.error.as_ref().is_some_and(|error| error.message.contains("given up"));
        assert!(view.status == TaskStatus::Completed || is_given_up, "{key} (seed {seed}): {view:?}");
        given_up += usize::from(is_given_up);
        let ends = ends(&stack, id.as_deref().unwrap()).await;
        assert_eq!(ends, 1, "{key} ends once (seed {seed})");
        *attempts.entry(view.attempt).or_insert(0) += 1;
    }
    assert_eq!(all(&stack).await, tasks.len(), "there are no others (seed {seed})");
    let counts = stack.client().queue().await.unwrap().tasks;
    assert_eq!((counts.unfinished, counts.held), (0, 0), "nothing is left (seed {seed})");
    eprintln!(
        "{runs} deaths, {} tasks, {given_up} given up, attempts {attempts:?}, seed {seed}",
        tasks.len()
    );
}

async fn submit(stack: &Stack, key: &str) -> (String, Result<Value, client::Error>) {
    let http = stack.http().with_header(&"idempotency-key".parse().unwrap(), key);
    let body = json!({"prompt": format!("Say {key}."), "max_tokens": 6, "temperature": 1});
    (key.to_owned(), http.post("/v2/tasks", &body).await)
}

/// How many last events a task has.
async fn ends(stack: &Stack, id: &str) -> usize {
    let mut events = stack.http().get_events(&format!("/v2/tasks/{id}/events"), &[]).await.unwrap();
    let mut ends = 0;
    while let Some(event) = events.next().await.unwrap() {
        ends += usize::from(event.name == "end" || event.name == "error");
    }
    ends
}

/// How many tasks there are.
async fn all(stack: &Stack) -> usize {
    let (mut count, mut after) = (0, String::new());
    loop {
        let page = stack.client().tasks(&format!("limit=100{after}")).await.unwrap();
        count += page.tasks.len();
        let Some(last) = page.tasks.last().filter(|_| page.has_more) else { return count };
        after = format!("&after={}", last.job_id);
    }
}
