//! Everything ends when it should, in whatever way its end comes.

use std::time::Duration;

use client::Error;
use compat_tests::{Sampled, Signal, Stack, eventually, kill};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

const ORDERLY: Duration = Duration::from_secs(10);
const ORPHANED: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn sigterm_ends_queen_hive_and_workers_in_order() {
    let mut stack = Stack::start().await;
    stack.warm_up().await;
    assert_eq!(stack.sandbox.processes().len(), 3, "{:?}", stack.sandbox.processes());
    assert!(stack.sandbox.data_dir().join("queen.json").exists());
    stack.signal_queen(Signal::TERM);
    let status = stack.queen_ended(ORDERLY).await;
    assert_eq!(status.code(), Some(0));
    // In order means that those whom she started were gone before she was.
    assert_eq!(stack.sandbox.processes(), []);
    assert!(!stack.sandbox.data_dir().join("queen.json").exists());
}

#[tokio::test]
async fn sigterm_ends_a_stream_that_outlasts_the_grace_with_an_error() {
    let mut stack = Stack::start().await;
    stack.warm_up().await;
    let mut stream = stack.stream("Tell a long story.", 5000).await;
    stream.next_text().await;
    stack.signal_queen(Signal::TERM);
    let frames = stream.rest().await;
    let last = frames.last().expect("the stream goes on for the grace period");
    assert_eq!(last["error"]["code"], "SHUTTING_DOWN", "{last}");
    assert!(!frames.contains(&done()));
    assert_eq!(stack.queen_ended(ORDERLY).await.code(), Some(0));
    stack.sandbox.emptied(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn during_the_grace_running_streams_end_well_and_new_requests_are_told_to_come_again() {
    let mut stack = Stack::start_with(&["--local-hive", "spawn", "--drain-seconds", "30"]).await;
    stack.warm_up().await;
    let mut stream = stack.stream("Tell a story.", 150).await;
    stream.next_text().await;
    stack.signal_queen(Signal::TERM);
    let refusal = eventually("new requests are refused", ORDERLY, async || match stack.ask("Hi", 1).await {
        Err(Error::Api(error)) => Some(error),
        Ok(_) => None,
        Err(error) => panic!("the door is closed while a stream runs: {error}"),
    })
    .await;
    assert_eq!(refusal.code.as_str(), "SHUTTING_DOWN");
    assert!(refusal.retriable && refusal.retry_after_ms.is_some(), "{refusal:?}");
    assert_eq!(stack.client().health().await.expect("health is told to the end").status, "draining");
    assert_eq!(stream.rest().await.last(), Some(&done()), "the stream ends well");
    // Nothing runs any more, so that she need not wait for the rest of the grace.
    assert_eq!(stack.queen_ended(ORDERLY).await.code(), Some(0));
}

#[tokio::test]
async fn who_neither_reads_nor_writes_does_not_hold_the_queen() {
    let mut stack = Stack::start().await;
    stack.warm_up().await;
    // The one stops in the middle of its request, the other takes nothing of a long answer.
    let mut half = tokio::net::TcpStream::connect(stack.url.strip_prefix("http://").unwrap()).await.unwrap();
    half.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHost: rbee\r\nContent-Length: 100\r\n\r\n")
        .await
        .unwrap();
    let deaf = stack.send("Tell a long story.", 5000, Sampled::Streamed).await;
    eventually("the long answer is under way", PATIENCE, async || {
        let worker = stack.worker().await;
        (worker.slots_available < worker.slots_total).then_some(())
    })
    .await;
    stack.signal_queen(Signal::TERM);
    assert_eq!(stack.queen_ended(ORDERLY).await.code(), Some(0));
    stack.sandbox.emptied(Duration::from_secs(1)).await;
    drop((half, deaf));
}

#[tokio::test]
async fn hive_and_workers_end_when_the_queen_is_killed() {
    let mut stack = Stack::start().await;
    stack.warm_up().await;
    stack.signal_queen(Signal::KILL);
    stack.queen_ended(ORDERLY).await;
    stack.sandbox.emptied(ORPHANED).await;
}

#[tokio::test]
async fn a_killed_hive_takes_its_workers_along_and_is_started_again() {
    let stack = Stack::start().await;
    let worker = stack.warm_up().await;
    let [hive] = stack.sandbox.processes_of("rbee-hive")[..] else { panic!("one hive") };
    kill(hive, Signal::KILL);
    let old = worker.pid.unwrap();
    eventually("the old worker is gone", ORPHANED, async || {
        (!stack.sandbox.processes_of("worker-rbee").contains(&old)).then_some(())
    })
    .await;
    eventually("the next request works", PATIENCE, async || stack.ask("Hi", 1).await.ok()).await;
    let hives = stack.sandbox.processes_of("rbee-hive");
    assert!(hives.len() == 1 && hives[0] != hive, "{hives:?}");
}

#[tokio::test]
async fn a_worker_killed_in_mid_stream_is_an_error_and_not_an_end() {
    let stack = Stack::start().await;
    let worker = stack.warm_up().await;
    let mut stream = stack.stream("Tell a long story.", 5000).await;
    stream.next_text().await;
    kill(worker.pid.unwrap(), Signal::KILL);
    let frames = stream.rest().await;
    let last = frames.last().expect("something tells of the loss");
    assert_eq!(last["error"]["code"], "WORKER_LOST", "{last}");
    assert!(!frames.contains(&done()));
    assert!(frames.iter().all(|frame| frame["choices"][0]["finish_reason"].is_null()));
    stack.ask("Hi", 1).await.expect("the next request works");
    assert_ne!(stack.worker().await.boot_id, worker.boot_id);
}

#[tokio::test]
async fn a_second_queen_on_the_same_data_is_refused() {
    let stack = Stack::start().await;
    let output = stack.sandbox.command("queen-rbee").args(["daemon", "--local-hive", "off"]).output();
    let output = tokio::time::timeout(ORDERLY, output).await.expect("she ends at once").unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("already runs"), "{message}");
    stack.client().health().await.expect("the first is not disturbed");
}

fn done() -> Value {
    Value::String("[DONE]".into())
}
