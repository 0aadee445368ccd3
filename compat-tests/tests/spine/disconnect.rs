//! A client that goes away frees the worker at once, in whatever phase its request is.

use std::time::{Duration, Instant};

use client::HttpClient;
use client::worker::WorkerClient;
use compat_tests::{RawConnection, Sampled, Stack, eventually};
use protocol::hive::WorkerInfo;

const FREED_WITHIN: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_mins(1);

/// More tokens than are generated before the test is over.
const ENDLESS: u32 = 5000;
/// Times that the request is made and cut; the middle one of the times counts, since the machine does other things too.
const ROUNDS: usize = 3;

#[tokio::test]
async fn before_the_first_token() {
    let stack = Stack::start().await;
    let worker = stack.warm_up().await;
    // Long enough that the prompt is still being read when the connection is cut.
    let prompt = "The quick brown fox jumps over the lazy dog. ".repeat(150);
    freed(&stack, &worker, &prompt, Sampled::Streamed, async |connection| {
        let text = connection.so_far();
        assert!(!has_text(&text), "too late, tokens came already: {text}");
    })
    .await;
}

#[tokio::test]
async fn in_mid_stream() {
    let stack = Stack::start().await;
    let worker = stack.warm_up().await;
    freed(&stack, &worker, "Tell a long story.", Sampled::Streamed, async |connection| {
        connection.read_until(PATIENCE, has_text).await;
    })
    .await;
}

#[tokio::test]
async fn without_streaming() {
    let stack = Stack::start().await;
    let worker = stack.warm_up().await;
    freed(&stack, &worker, "Tell a long story.", Sampled::Whole, async |connection| {
        assert_eq!(connection.so_far(), "");
    })
    .await;
}

/// Sends the request, waits until the worker works on it and `reach` says the phase is reached, cuts the connection and
/// measures until the worker itself says that it is free.
async fn freed(
    stack: &Stack,
    worker: &WorkerInfo,
    prompt: &str,
    sampled: Sampled,
    mut reach: impl AsyncFnMut(&mut RawConnection),
) {
    let direct = WorkerClient::new(HttpClient::new(&worker.url), &worker.id, &worker.boot_id);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let mut connection = stack.send(prompt, ENDLESS, sampled).await;
        eventually("the worker works", PATIENCE, async || {
            let health = direct.health().await.unwrap();
            (health.slots_available < health.slots_total).then_some(())
        })
        .await;
        reach(&mut connection).await;
        let cut = Instant::now();
        drop(connection);
        eventually("the worker is free", PATIENCE, async || {
            let health = direct.health().await.unwrap();
            (health.slots_available == health.slots_total).then_some(())
        })
        .await;
        times.push(cut.elapsed());
    }
    times.sort_unstable();
    assert!(times[ROUNDS / 2] < FREED_WITHIN, "{times:?}");
    stack.ask("Hi", 1).await.expect("the queen gives the slot out again");
}

/// Whether a stream has brought text already: its first chunk has an empty one.
fn has_text(stream: &str) -> bool {
    stream.split("\"content\":\"").skip(1).any(|rest| !rest.starts_with('"'))
}
