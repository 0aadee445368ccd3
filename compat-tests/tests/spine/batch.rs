//! A batch outlasts the queen: she is killed half-way, and it ends complete all the same.
//!
//! `RBEE_BATCH_LINES=500` gives it so many requests.

use std::collections::BTreeMap;
use std::time::Duration;

use compat_tests::{MODEL, Stack, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests under `cargo test`.
const LINES: usize = 60;
const PATIENCE: Duration = Duration::from_mins(5);

#[tokio::test]
async fn a_batch_ends_complete_though_the_queen_is_killed_half_way() {
    let lines = std::env::var("RBEE_BATCH_LINES").map_or(LINES, |text| text.parse().unwrap());
    let mut stack = Stack::start().await;
    stack.warm_up().await;
    let file = upload(&stack, lines).await;
    let body = json!({
        "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
    });
    let batch: Value = stack.http().post("/v1/batches", &body).await.unwrap();
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    let count = |batch: &Value| batch["request_counts"]["completed"].as_u64().unwrap() as usize;
    eventually("half of it is answered", PATIENCE, async || {
        let batch: Value = stack.http().get(&path).await.ok()?;
        (count(&batch) >= lines / 2).then_some(())
    })
    .await;
    stack.kill_and_restart().await;
    let found: Value = stack.http().get(&path).await.unwrap();
    assert!(count(&found) < lines, "she was killed before the end");
    let batch: Value = eventually("it has ended", PATIENCE, async || {
        let batch: Value = stack.http().get(&path).await.ok()?;
        (batch["status"] == "completed").then_some(batch)
    })
    .await;
    assert_eq!((count(&batch), &batch["error_file_id"]), (lines, &Value::Null), "{batch}");
    let content = content(&stack, batch["output_file_id"].as_str().unwrap()).await;
    let mut answers = BTreeMap::new();
    for line in content.lines() {
        let answer: Value = serde_json::from_str(line).unwrap();
        assert_eq!(answer["response"]["status_code"], 200);
        *answers.entry(answer["custom_id"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(answers.len(), lines, "none is lost");
    assert!(answers.values().all(|count| *count == 1), "none is answered twice: {answers:?}");
}

/// Uploads a file of so many requests; its id.
async fn upload(stack: &Stack, lines: usize) -> String {
    let line = |number: usize| {
        let body = json!({
            "model": MODEL, "messages": [{"role": "user", "content": format!("Say {number}.")}], "max_tokens": 4,
        });
        json!({"custom_id": format!("line-{number}"), "method": "POST", "url": "/v1/chat/completions", "body": body})
            .to_string()
    };
    let lines: Vec<String> = (0..lines).map(line).collect();
    let form = format!(
        "--edge\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--edge\r\nContent-Disposition: form-data; \
         name=\"file\"; filename=\"requests.jsonl\"\r\n\r\n{}\n\r\n--edge--\r\n",
        lines.join("\n")
    );
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: rbee\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=edge\r\n\
         Content-Length: {}\r\n\r\n",
        form.len()
    );
    let file: Value = serde_json::from_str(&exchange(stack, &(head + &form)).await).unwrap();
    file["id"].as_str().unwrap().to_owned()
}

/// A file's text.
async fn content(stack: &Stack, id: &str) -> String {
    let head = format!("GET /v1/files/{id}/content HTTP/1.1\r\nHost: rbee\r\nConnection: close\r\n\r\n");
    exchange(stack, &head).await
}

/// Sends a request, and tells the body of its answer. The typed client speaks JSON only.
async fn exchange(stack: &Stack, request: &str) -> String {
    let mut stream = TcpStream::connect(stack.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}
