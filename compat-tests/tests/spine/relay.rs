//! What a worker writes reaches the client at once.

use std::time::Duration;

use compat_tests::fakes::{FAKE_MODEL, FakeHive, FakeWorker, token_text};
use compat_tests::{RawConnection, Stack};
use serde_json::{Value, json};

/// With Nagle's algorithm on any socket of the way, a small write waits for the acknowledgement of the one before, which
/// a reader delays by 40 ms on a connection that goes to and fro. It does so once for each answer: what is measured is
/// many short answers over the same connections.
const AT_ONCE: Duration = Duration::from_millis(10);
const ANSWERS: usize = 40;
const TOKENS: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(30);
const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn two_small_writes_1_ms_apart_arrive_within_10_ms() {
    let worker = FakeWorker::start().await;
    let hive = FakeHive::start(&worker).await;
    let stack = Stack::start_with(&["--local-hive", "attach", "--hive-port", &hive.port.to_string()]).await;
    let mut connection = RawConnection::post(&stack.url, CHAT, &request()).await;
    let mut delays = Vec::new();
    for _ in 0..ANSWERS {
        for index in 0..TOKENS {
            let text = token_text(index);
            let arrived = connection.read_until(PATIENCE, |received| received.contains(&text)).await.at;
            delays.push(arrived - worker.written()[index as usize]);
        }
        connection.read_until(PATIENCE, |received| received.ends_with("\r\n0\r\n\r\n")).await;
        connection.post_again(CHAT, &request()).await;
    }
    delays.sort_unstable();
    // Not the worst: now and then the machine does something else for longer than that.
    let most = delays[delays.len() * 3 / 4];
    assert!(most < AT_ONCE, "{delays:?}");
}

fn request() -> Value {
    json!({
        "model": FAKE_MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": TOKENS,
        "stream": true,
    })
}
