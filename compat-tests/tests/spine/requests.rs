//! Requests through every door that is not OpenAI's, and errors.

use std::time::{Duration, Instant};

use client::{Error, HttpClient};
use compat_tests::{MODEL, Sampled, Stack, chat_body};
use protocol::events::FinishReason;
use protocol::task::{TaskRequest, TaskStatus};
use protocol::{ApiError, ErrorCode, TaskEvent};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn the_first_request_starts_a_worker_and_a_stream_holds_meanwhile() {
    let stack = Stack::start().await;
    assert!(stack.client().workers().await.unwrap().workers.is_empty());
    let mut stream = stack.stream("Hi", 4).await;
    stream.next_text().await;
    assert_eq!(stream.rest().await.last(), Some(&Value::String("[DONE]".into())));
    assert_eq!(stack.worker().await.model_ref, MODEL);
}

#[tokio::test]
async fn tasks_are_submitted_followed_and_cancelled() {
    let stack = Stack::start().await;
    stack.warm_up().await;
    let client = stack.client();

    let job = client
        .submit(&task(json!({"prompt": "Hi", "max_tokens": 8, "temperature": 0})))
        .await
        .unwrap()
        .job_id;
    let events = all_events(&stack, &job).await;
    let text: String = events.iter().filter_map(token).collect();
    let view = client.task(&job).await.unwrap();
    assert_eq!((view.status, view.output, view.model.as_str()), (TaskStatus::Completed, text, MODEL));
    assert!(matches!(events.last(), Some(TaskEvent::End(_))));
    assert_eq!(events.iter().filter(|event| event.is_last()).count(), 1);
    assert_eq!(all_events(&stack, &job).await, events, "a finished task tells the same again");

    let job = client
        .submit(&task(json!({"prompt": "Tell a long story.", "max_tokens": 5000, "temperature": 0})))
        .await
        .unwrap()
        .job_id;
    let mut events = client.task_events(&job).await.unwrap();
    while token(&events.next().await.unwrap().unwrap()).is_none() {}
    assert_eq!(client.cancel(&job).await.unwrap().status, TaskStatus::Cancelled);
    let mut last = None;
    while let Some(event) = events.next().await.unwrap() {
        last = Some(event);
    }
    assert!(matches!(last, Some(TaskEvent::End(end)) if end.finish_reason == FinishReason::Cancelled));
    assert_eq!(client.cancel(&job).await.unwrap().status, TaskStatus::Cancelled, "once more changes nothing");
}

#[tokio::test]
async fn a_deadline_ends_every_kind_of_request() {
    let stack = Stack::start().await;
    stack.warm_up().await;
    let started = Instant::now();
    let timeout = |milliseconds: u32| ("x-request-timeout-ms".parse().unwrap(), milliseconds.to_string());

    let whole = chat_body("Tell a long story.", 5000, Sampled::Whole);
    let (name, value) = timeout(500);
    let http = stack.http().with_header(&name, &value);
    let error = http.post::<_, Value>("/v1/chat/completions", &whole).await.unwrap_err();
    assert_eq!(api(error).code, ErrorCode::Timeout);

    let streamed = chat_body("Tell a long story.", 5000, Sampled::Streamed);
    let mut events =
        stack.http().post_events("/v1/chat/completions", &streamed, &[timeout(1500)]).await.unwrap();
    let mut last = None;
    while let Some(event) = events.next().await.unwrap() {
        last = Some(event.data);
    }
    let last: Value = serde_json::from_str(&last.unwrap()).expect("an error and not [DONE]");
    assert_eq!(last["error"]["code"], "TIMEOUT");

    let job = task(
        json!({"prompt": "Tell a long story.", "max_tokens": 5000, "temperature": 0, "deadline_ms": 500}),
    );
    let job = stack.client().submit(&job).await.unwrap().job_id;
    let events = all_events(&stack, &job).await;
    assert!(
        matches!(events.last(), Some(TaskEvent::Error(envelope)) if envelope.error.code == ErrorCode::Timeout)
    );
    assert_eq!(stack.client().task(&job).await.unwrap().status, TaskStatus::Failed);
    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let stack = Stack::start().await;
    let bad = task(json!({"prompt": "Hi", "model": "no-such-model"}));
    let error = api(stack.client().submit(&bad).await.unwrap_err());
    assert_eq!((error.code, error.param.as_deref()), (ErrorCode::ModelNotFound, Some("model")));
    let error = api(stack.client().task(&"00000000-0000-0000-0000-000000000000".into()).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::JobNotFound);
    let error = api(stack.client().pull("no-such-model").await.expect_err("cannot be fetched"));
    assert_eq!(error.code, ErrorCode::ModelNotFound);
    let error = api(stack.http().get::<Value>("/v1/nothing").await.unwrap_err());
    assert_eq!(error.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_token_guards_all_but_health_and_docs() {
    let stack = Stack::start_with(&["--local-hive", "spawn", "--token", "s3cret"]).await;
    let paths = ["/v1/models", "/v2/workers/list"];
    for path in paths {
        assert_eq!(
            api(stack.http().get::<Value>(path).await.unwrap_err()).code,
            ErrorCode::InvalidApiKey,
            "{path}"
        );
        let guest = HttpClient::new(&stack.url).with_token("s3cret");
        guest.get::<Value>(path).await.expect(path);
    }
    stack.http().get::<Value>("/health").await.unwrap();
    let document = stack.http().get::<Value>("/openapi.json").await.unwrap();
    assert!(document["paths"]["/v1/chat/completions"].is_object());
}

fn task(body: Value) -> TaskRequest {
    serde_json::from_value(body).unwrap()
}

fn token(event: &TaskEvent) -> Option<String> {
    match event {
        TaskEvent::Token(token) => Some(token.token.clone()),
        _ => None,
    }
}

async fn all_events(stack: &Stack, job: &protocol::JobId) -> Vec<TaskEvent> {
    let mut events = stack.client().task_events(job).await.unwrap();
    let mut all = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        all.push(event);
    }
    all
}

fn api(error: Error) -> ApiError {
    match error {
        Error::Api(error) => error,
        other => panic!("not an answer: {other}"),
    }
}
