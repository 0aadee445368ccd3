//! Errors as the client's own types; what may be asked again is asked again, after the time that the server tells.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::{ApiErrorResponse, OpenAIError};
use async_openai::middleware::retry::OpenAIRetryLayer;
use async_openai::middleware::{HttpRequestFactory, ReqwestService};
use async_openai::types::chat::ChatCompletionResponseStream;
use async_openai::types::embeddings::CreateEmbeddingRequestArgs;
use compat_tests::{EMBEDDING_MODEL, Stack, eventually};
use futures::future::join_all;
use tower::{Layer, ServiceExt, service_fn};

use crate::{FREED_WITHIN, PATIENCE, client, config, long_question, question, taken};

/// Tells at once when a model must be loaded first, and lets one request wait.
const IMPATIENT: [&str; 6] = ["--local-hive", "spawn", "--queue-limit", "1", "--cold-start-seconds", "0"];

/// What each attempt of a request met, and when.
#[derive(Clone, Default)]
struct Attempts(Arc<Mutex<Vec<Attempt>>>);

#[derive(Clone)]
struct Attempt {
    status: u16,
    retry_after: Option<String>,
    at: Instant,
}

impl Attempts {
    fn all(&self) -> Vec<Attempt> {
        self.0.lock().unwrap().clone()
    }

    fn statuses(&self) -> Vec<u16> {
        self.all().iter().map(|attempt| attempt.status).collect()
    }

    /// From the first refusal to the next answer.
    fn pause(&self) -> Duration {
        let all = self.all();
        all[1].at - all[0].at
    }
}

/// A client with the crate's own retries, which notes its attempts.
fn noting(stack: &Stack, max_retries: usize) -> (Client<OpenAIConfig>, Attempts) {
    let attempts = Attempts::default();
    let noted = attempts.clone();
    let service = service_fn(move |request: HttpRequestFactory| {
        let noted = noted.clone();
        async move {
            let response = ReqwestService::default().oneshot(request).await?;
            let retry_after =
                response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
            let attempt = Attempt { status: response.status().as_u16(), retry_after, at: Instant::now() };
            noted.0.lock().unwrap().push(attempt);
            Ok::<_, OpenAIError>(response)
        }
    });
    let service = OpenAIRetryLayer::new(max_retries).layer(service);
    (client(stack).with_http_service(service), attempts)
}

pub(crate) fn refused<T>(outcome: Result<T, OpenAIError>) -> (u16, Option<String>, ApiErrorResponse) {
    match outcome {
        Err(OpenAIError::ApiError(error)) => {
            (error.status_code.as_u16(), error.api_error.code.clone(), error)
        }
        Err(other) => panic!("not the server's answer: {other}"),
        Ok(_) => panic!("it succeeded"),
    }
}

/// Takes all slots and the one place in the queue.
async fn fill(stack: &Stack) -> Vec<ChatCompletionResponseStream> {
    let slots = stack.worker().await.slots_total;
    let client = client(stack);
    let ask = async |_| client.chat().create_stream(long_question().build().unwrap()).await.unwrap();
    let mut streams = join_all((0..slots).map(ask)).await;
    taken(stack, slots, PATIENCE).await;
    streams.push(ask(0).await);
    streams
}

#[tokio::test]
async fn what_is_wrong_is_said_in_the_clients_own_types() {
    let stack = Stack::start().await;
    let (client, attempts) = noting(&stack, 3);
    let chat = client.chat();

    let (status, code, error) = refused(chat.create(question("Hi").temperature(3.0).build().unwrap()).await);
    assert_eq!((status, code.as_deref()), (400, Some("INVALID_REQUEST")));
    assert_eq!(error.api_error.param.as_deref(), Some("temperature"));
    assert_eq!(error.api_error.r#type.as_deref(), Some("invalid_request_error"));

    let (status, code, _) = refused(chat.create(question(&"word ".repeat(20_000)).build().unwrap()).await);
    assert_eq!((status, code.as_deref()), (400, Some("context_length_exceeded")));

    let (status, code, _) =
        refused(chat.create(question("Hi").model("no-such-model").build().unwrap()).await);
    assert_eq!((status, code.as_deref()), (404, Some("model_not_found")));
    let (status, ..) =
        refused(chat.create_stream(question("Hi").model("no-such-model").build().unwrap()).await);
    assert_eq!(status, 404, "a stream that cannot begin is a status too");

    assert_eq!(attempts.statuses(), [400, 400, 404, 404], "what cannot succeed is not asked again");
}

#[tokio::test]
async fn a_key_that_is_not_the_right_one() {
    let stack = Stack::start_with(&["--local-hive", "spawn", "--token", "s3cret"]).await;
    let (status, code, _) = refused(client(&stack).models().list().await);
    assert_eq!((status, code.as_deref()), (401, Some("invalid_api_key")));
    Client::with_config(config(&stack).with_api_key("s3cret")).models().list().await.unwrap();
}

#[tokio::test]
async fn a_model_that_is_not_loaded_yet_is_waited_for() {
    let stack = Stack::start_with(&IMPATIENT).await;
    let (client, attempts) = noting(&stack, 2);
    let answer = client.chat().create(question("Hi").build().unwrap()).await.unwrap();
    assert_eq!(answer.choices.len(), 1);
    assert_eq!(attempts.statuses(), [503, 200]);
    assert_eq!(attempts.all()[0].retry_after.as_deref(), Some("5"));
    assert!(attempts.pause() >= Duration::from_secs(5));

    let (client, attempts) = noting(&stack, 0);
    let request = CreateEmbeddingRequestArgs::default().model(EMBEDDING_MODEL).input("Hi").build().unwrap();
    // The crate reads no codes from errors of servers, and hands on what came.
    let (status, _, error) = refused(client.embeddings().create(request).await);
    assert_eq!((status, attempts.statuses()), (503, vec![503]));
    assert!(error.api_error.message.contains(r#""code":"MODEL_LOADING""#), "{error}");
}

#[tokio::test]
async fn a_full_queue_is_asked_again_after_the_time_that_it_tells() {
    let stack = Stack::start_with(&["--local-hive", "spawn", "--queue-limit", "1"]).await;
    stack.warm_up().await;
    let full = fill(&stack).await;

    let (client, attempts) = noting(&stack, 0);
    let (status, code, error) = refused(client.chat().create(question("Hi").build().unwrap()).await);
    assert_eq!((status, code.as_deref(), attempts.statuses()), (429, Some("QUEUE_FULL"), vec![429]));
    assert_eq!(error.api_error.r#type.as_deref(), Some("rate_limit_error"));

    let (client, attempts) = noting(&stack, 3);
    let asking = tokio::spawn(async move { client.chat().create(question("Hi").build().unwrap()).await });
    eventually("the first attempt is refused", PATIENCE, async || attempts.all().first().cloned()).await;
    drop(full);
    asking.await.unwrap().unwrap();
    assert_eq!(attempts.statuses(), [429, 200]);
    // Left to itself the client asks again after a tenth of a second.
    assert!(attempts.pause() >= Duration::from_secs(1));
    taken(&stack, 0, FREED_WITHIN).await;
}

#[tokio::test]
async fn nobody_listens() {
    let nowhere = OpenAIConfig::new().with_api_base("http://127.0.0.1:1/v1").with_api_key("none");
    let client = Client::with_config(nowhere).with_http_service(ReqwestService::default());
    let error = client.models().list().await.unwrap_err();
    assert!(matches!(error, OpenAIError::Reqwest(ref error) if error.is_connect()), "{error}");
}
