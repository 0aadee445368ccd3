//! What a worker writes reaches the client at once.

use std::time::Duration;

use compat_tests::fakes::{FAKE_MODEL, FakeHive, FakeWorker, Pairs, token_text};
use compat_tests::{RawConnection, Stack};
use serde_json::json;

/// With Nagle's algorithm on any socket of the way, the second write of a pair waits for the reader's delayed
/// acknowledgement of the first: 40 ms.
const AT_ONCE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn two_small_writes_1_ms_apart_arrive_within_10_ms() {
    let pairs = Pairs { count: 40, pause: Duration::from_millis(20) };
    let worker = FakeWorker::start(pairs).await;
    let hive = FakeHive::start(&worker).await;
    let stack = Stack::start_with(&["--local-hive", "attach", "--hive-port", &hive.port.to_string()]).await;
    let body = json!({
        "model": FAKE_MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": true,
    });
    let mut connection = RawConnection::post(&stack.url, "/v1/chat/completions", &body).await;
    let mut arrived = Vec::new();
    for index in 0..2 * pairs.count {
        let text = token_text(index);
        arrived.push(connection.read_until(PATIENCE, |received| received.contains(&text)).await.at);
    }
    let mut delays: Vec<Duration> =
        worker.written().iter().zip(&arrived).map(|(written, arrived)| *arrived - *written).collect();
    assert_eq!(delays.len(), 2 * pairs.count as usize);
    delays.sort_unstable();
    // Not the worst: now and then the machine does something else for longer than that. Nagle would delay half of all.
    let most = delays[delays.len() * 3 / 4];
    assert!(most < AT_ONCE, "{delays:?}");
}
