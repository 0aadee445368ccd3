//! The database server crashes again and again under a queen: connections break, what was not committed is gone, and the
//! server reads its journal. Whatever was acknowledged ends once.
//!
//! `RBEE_OUTAGE_RUNS=50` crashes it that often.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use compat_tests::{ProcessId, Signal, Stack, eventually, kill};
use futures::future::join_all;
use protocol::ErrorCode;
use protocol::task::TaskStatus;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(3);
/// Crashes under `cargo test`.
const RUNS: usize = 4;
const TASKS: usize = 8;
/// The server crashes at most so long after the first submission.
const CRASHES_WITHIN_MS: u64 = 600;

#[tokio::test]
async fn every_task_ends_once_however_often_the_database_crashes() {
    let Ok(database) = std::env::var("RBEE_TEST_POSTGRES") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "RBEE_TEST_POSTGRES names no server");
        return eprintln!("left out: RBEE_TEST_POSTGRES names no server");
    };
    let runs = std::env::var("RBEE_OUTAGE_RUNS").map_or(RUNS, |text| text.parse().unwrap());
    let stack = Stack::start_with(&["--local-hive", "spawn", "--database-url", &database]).await;
    stack.warm_up().await;
    let mut jobs: BTreeMap<String, String> = BTreeMap::new();
    let asked_again = Cell::new(0);
    for run in 0..runs {
        let crash = async {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..=CRASHES_WITHIN_MS))).await;
            let before = eventually("the server has connections", PATIENCE, async || {
                Some(backends(&database)).filter(|backends| !backends.is_empty())
            })
            .await;
            kill(before[fastrand::usize(..before.len())], Signal::KILL);
            eventually("the server has ended all connections", PATIENCE, async || {
                backends(&database).iter().all(|backend| !before.contains(backend)).then_some(())
            })
            .await;
        };
        let keys = (0..TASKS).map(|task| format!("outage-{}-{run}-{task}", std::process::id()));
        let submitted = join_all(keys.map(async |key| {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..=CRASHES_WITHIN_MS))).await;
            let id = taken_in(&stack, &key, &asked_again).await;
            (key, id)
        }));
        jobs.extend(tokio::join!(submitted, crash).0);
    }
    let mut attempts = BTreeMap::new();
    for (key, id) in &jobs {
        let view = eventually(&format!("{key} has ended"), PATIENCE, async || {
            let view = stack.client().task(&id.as_str().into()).await.ok()?;
            view.finished_at_ms.is_some().then_some(view)
        })
        .await;
        assert_eq!(view.status, TaskStatus::Completed, "{key}: {view:?}");
        assert_eq!(&taken_in(&stack, key, &asked_again).await, id, "{key} is one task");
        *attempts.entry(view.attempt).or_insert(0) += 1;
    }
    assert_eq!(jobs.len(), runs * TASKS);
    let counts = stack.client().queue().await.unwrap().tasks;
    assert_eq!((counts.unfinished, counts.held), (0, 0), "nothing is left");
    let (tasks, asked_again, fenced) = (jobs.len(), asked_again.get(), counts.fenced);
    eprintln!(
        "{runs} crashes, {tasks} tasks, {asked_again} times asked again, attempts {attempts:?}, {fenced} ends refused"
    );
}

/// Submits a task. Who is not told that it was kept asks again under the same key.
async fn taken_in(stack: &Stack, key: &str, asked_again: &Cell<u32>) -> String {
    let http = stack.http().with_header(&"idempotency-key".parse().unwrap(), key);
    let body = json!({"prompt": format!("Say {key}."), "max_tokens": 6, "temperature": 1});
    eventually("it is taken in", PATIENCE, async || match http.post::<_, Value>("/v2/tasks", &body).await {
        Ok(answer) => Some(answer["job_id"].as_str().unwrap().to_owned()),
        Err(client::Error::Api(error)) if error.code == ErrorCode::DatabaseUnavailable => {
            asked_again.set(asked_again.get() + 1);
            None
        }
        Err(error) => panic!("{key}: {error}"),
    })
    .await
}

/// The server's processes that serve connections: if one is killed, the server takes its memory for broken, ends all
/// others, and begins anew with its journal.
fn backends(database: &str) -> Vec<ProcessId> {
    let (_, address) = database.rsplit_once('@').unwrap();
    let port = address.split(['/', '?']).next().unwrap().rsplit_once(':').unwrap().1;
    let (port, is_backend) = (format!("port={port}"), |title: &str| title.starts_with("postgres: rbee "));
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let title = std::fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?.replace('\0', " ");
        let status = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let parent: u32 = status.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        Some((id, parent, title))
    });
    let processes: Vec<_> = processes.collect();
    let server = processes.iter().find(|(_, _, title)| title.contains(&port) && title.contains("postgres"));
    let server = server.expect("the server runs on this machine").0;
    let own = processes.iter().filter(|(_, parent, title)| *parent == server && is_backend(title));
    own.map(|(id, ..)| *id).collect()
}
