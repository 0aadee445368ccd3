//! One request of a batch, answered as its endpoint answers it.

use futures::future::try_join_all;
use protocol::hive::ModelKind;
use protocol::openai::batches::{BatchAnswer, BatchLine, BatchLineError, BatchResponse};
use protocol::openai::chat::ChatCompletionRequest;
use protocol::openai::completions::CompletionRequest;
use protocol::openai::embeddings::EmbeddingRequest;
use protocol::openai::responses::ResponseRequest;
use protocol::task::Priority;
use protocol::{ApiError, ErrorCode, ErrorEnvelope};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::inference::{
    Asked, Asker, Head, Inference, ResponseOrder, best_choices, chat_completion, chat_request, completion,
    completion_order, embed_request, embedding_list, response, response_order,
};
use crate::responses::{Keep, context};
use crate::store::{Job, JobState, Store};

/// Checks a request as far as that can be done before it is answered; tells its model.
pub(super) async fn check(
    inference: &Inference,
    store: &Store,
    owner: &str,
    url: &str,
    body: &Value,
) -> Result<String, ApiError> {
    // Responses are kept for those who go on with them, as they are outside of batches.
    let meaningless: &[&str] =
        if url == "/v1/responses" { &["stream", "background"] } else { &["stream", "store"] };
    for name in meaningless {
        if body.get(name).is_some_and(|value| *value == Value::Bool(true)) {
            let message = format!("'{name}' has no meaning in a batch.");
            return Err(ApiError::new(ErrorCode::UnsupportedParameter, message).with_param(*name));
        }
    }
    let (model, kind) = match url {
        "/v1/chat/completions" => (chat_request(parsed(body)?, None)?.model, ModelKind::TextGen),
        "/v1/completions" => {
            let request: CompletionRequest = parsed(body)?;
            let model = request.model.clone();
            completion_order(request, None)?;
            (model, ModelKind::TextGen)
        }
        "/v1/responses" => {
            let request: ResponseRequest = parsed(body)?;
            let context = context(store, owner, &request).await?;
            (response_order(request, &context, None)?.request.model, ModelKind::TextGen)
        }
        _ => {
            let request: EmbeddingRequest = parsed(body)?;
            let model = request.model.clone();
            embed_request(request)?;
            (model, ModelKind::Embedding)
        }
    };
    match inference.check_model(&model, kind) {
        // Which models there are is known when the machines are there again.
        Err(error) if error.code == ErrorCode::HiveUnavailable => {}
        checked => checked?,
    }
    Ok(inference.names.shown(&model))
}

/// Answers the request of a job.
pub(crate) async fn answer(
    inference: &Inference,
    store: &Store,
    job: &Job,
    asker: &Asker,
) -> Result<Value, ApiError> {
    let line: BatchLine = serde_json::from_str(&job.request).map_err(not_json)?;
    match &*line.url {
        "/v1/chat/completions" => chat(inference, parsed(&line.body)?, asker).await,
        "/v1/responses" => response_of(inference, store, job, parsed(&line.body)?, asker).await,
        "/v1/completions" => texts(inference, parsed(&line.body)?, asker).await,
        "/v1/embeddings" => vectors(inference, parsed(&line.body)?, asker).await,
        other => Err(ApiError::invalid("url", format!("'{other}' cannot be asked in a batch."))),
    }
}

async fn chat(inference: &Inference, body: ChatCompletionRequest, asker: &Asker) -> Result<Value, ApiError> {
    let mut request = chat_request(body, None)?;
    request.priority = Priority::Batch;
    let head = Head::new("chatcmpl", &inference.names.shown(&request.model));
    let wants_logprobs = request.order.logprobs.is_some();
    let (completed, _) = inference.complete(request, asker).await?;
    value(&chat_completion(head, completed, wants_logprobs))
}

/// A response is kept under the job's own id, so that another attempt keeps no second one.
async fn response_of(
    inference: &Inference,
    store: &Store,
    job: &Job,
    body: ResponseRequest,
    asker: &Asker,
) -> Result<Value, ApiError> {
    let context = context(store, &job.owner, &body).await?;
    let mut order = response_order(body, &context, None)?;
    order.request.priority = Priority::Batch;
    let model = inference.names.shown(&order.request.model);
    let ResponseOrder { request, draft, input } =
        order.named(job.id.replacen("batch_req_", "resp_", 1), model);
    let (completed, _) = inference.complete(request, asker).await?;
    let response = response(draft, completed);
    if response.store {
        Keep::new(store, &job.owner, input).keep_anew(&response).await?;
    }
    value(&response)
}

async fn texts(inference: &Inference, body: CompletionRequest, asker: &Asker) -> Result<Value, ApiError> {
    let head = Head::new("cmpl", &inference.names.shown(&body.model));
    let order = completion_order(body, None)?;
    let answers = order.requests.into_iter().map(|mut request| {
        request.priority = Priority::Batch;
        inference.complete(request, asker)
    });
    let answers = try_join_all(answers).await?.into_iter();
    let best = answers.map(|(answer, _)| best_choices(answer, order.choices)).collect();
    value(&completion(head, best, order.logprobs))
}

async fn vectors(inference: &Inference, body: EmbeddingRequest, asker: &Asker) -> Result<Value, ApiError> {
    let model = body.model.clone();
    let asked = Asked { model: &model, timeout: None, asker, priority: Priority::Batch };
    let (answer, _) = inference.embed(asked, embed_request(body)?).await?;
    value(&embedding_list(answer, inference.names.shown(&model)))
}

/// What the batch's files say of a request that was answered, or refused.
pub(crate) fn answered(job: &Job, answer: Option<&Result<Value, ApiError>>) -> String {
    let (status_code, body) = match answer {
        None => return not_sent("batch_cancelled"),
        Some(Ok(body)) => (200, body.clone()),
        Some(Err(error)) => {
            let envelope = ErrorEnvelope::from(error.clone());
            (error.code.status(), serde_json::to_value(envelope).unwrap_or_default())
        }
    };
    let response = BatchResponse { status_code, request_id: job.id.clone(), body };
    written(&BatchAnswer {
        id: job.id.clone(),
        custom_id: custom_id(job),
        response: Some(response),
        error: None,
    })
}

/// What is kept of a request that was not sent.
pub(super) fn not_sent(code: &str) -> String {
    let message = match code {
        "batch_expired" => "This request could not be executed before the completion window expired.",
        "batch_failed" => "The batch's file is not valid.",
        _ => "The batch was cancelled.",
    };
    written(&BatchLineError { code: code.to_owned(), message: message.to_owned() })
}

/// What the batch's files say of a job, and whether it went well.
pub(super) fn told(job: &Job) -> (String, JobState) {
    let result = job.result.as_deref().unwrap_or_default();
    if serde_json::from_str::<BatchAnswer>(result).is_ok() {
        return (result.to_owned(), job.state);
    }
    let text = if let Ok(error) = serde_json::from_str::<BatchLineError>(result) {
        let (id, custom_id) = (job.id.clone(), custom_id(job));
        written(&BatchAnswer { id, custom_id, response: None, error: Some(error) })
    } else {
        let message = "The request was given up: the server ended again and again while it ran.";
        answered(job, Some(&Err(ApiError::new(ErrorCode::Internal, message))))
    };
    (text, job.state)
}

fn custom_id(job: &Job) -> String {
    serde_json::from_str::<BatchLine>(&job.request).map(|line| line.custom_id).unwrap_or_default()
}

fn parsed<T: DeserializeOwned>(body: &Value) -> Result<T, ApiError> {
    T::deserialize(body).map_err(not_json)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn not_json(error: serde_json::Error) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, format!("The request is not valid: {error}."))
}

fn value(answer: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(answer).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written");
        ApiError::new(ErrorCode::Internal, "The answer cannot be written.")
    })
}

fn written(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).unwrap_or_default()
}
