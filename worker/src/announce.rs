//! Tells the hive that this worker listens, before the load begins.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use protocol::hive::WorkerReady;

/// Pauses between the attempts. The hive spawned this process, so it is there; at most it is short of a moment.
const PAUSES_MS: [u64; 3] = [100, 400, 1_000];
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Posts the ready callback. A hive that cannot be reached is logged, not fatal: it also watches the process and its
/// port, and a worker whose hive is gone ends by other means.
pub(crate) async fn announce(hive_url: &str, ready: &WorkerReady) {
    let mut pauses = PAUSES_MS.iter();
    loop {
        match attempt(hive_url, ready).await {
            Ok(()) => return,
            Err(error) => {
                let Some(pause_ms) = pauses.next() else {
                    tracing::warn!(hive_url, error, "the hive could not be told that this worker listens");
                    return;
                };
                tokio::time::sleep(Duration::from_millis(*pause_ms)).await;
            }
        }
    }
}

async fn attempt(hive_url: &str, ready: &WorkerReady) -> Result<(), String> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let body = serde_json::to_vec(ready).map_err(|error| error.to_string())?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}/v1/workers/ready", hive_url.trim_end_matches('/')))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let response = tokio::time::timeout(ATTEMPT, client.request(request))
        .await
        .map_err(|_| format!("no answer within {} ms", ATTEMPT.as_millis()))?
        .map_err(|error| error.to_string())?;
    if response.status().is_success() {
        Ok(())
    } else {
        Err(format!("the hive answered {}", response.status()))
    }
}
