//! POST /v1/completions.

use axum::Extension;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use daemon::http::{Failure, Json, RequestId};
use futures::future::try_join_all;
use futures::{StreamExt, stream};
use protocol::ErrorEnvelope;
use protocol::openai::completions::{Completion, CompletionRequest};

use super::super::State;
use super::super::stream::{events, streamed};
use super::{new_head, request_timeout};
use crate::inference::{CompletionWriter, best_choices, collect, completion, completion_order};

/// Continue a text, or several. With `stream`, the answer is a stream of `text_completion`s that ends with `[DONE]`.
#[utoipa::path(
    post, path = "/completions", operation_id = "create_completion", tag = "openai",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answer", body = Completion),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
        (status = 429, description = "The queue is full", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
        (status = 504, description = "The deadline has passed", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn create(
    queen: State,
    headers: HeaderMap,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Json(body): Json<CompletionRequest>,
) -> Result<Response, Failure> {
    let wants_stream = body.stream.unwrap_or(false);
    let include_usage = body.stream_options.unwrap_or_default().include_usage.unwrap_or(false);
    let head = new_head("cmpl", &queen.inference.names.shown(&body.model));
    let order = completion_order(body, request_timeout(&headers)?)?;
    let runs = order.requests.into_iter().map(|request| queen.inference.run(request, &request_id));
    // Dropping the runs that were admitted cancels them, should one be refused.
    let runs = try_join_all(runs).await?;
    if wants_stream {
        let writer = CompletionWriter::new(head, runs.len(), order.choices, include_usage);
        let numbered = runs.into_iter().enumerate();
        let events = stream::select_all(
            numbered.map(|(number, run)| events(run).map(move |event| (number, event)).boxed()),
        );
        return Ok(streamed(events, writer).await?);
    }
    let answers = try_join_all(runs.into_iter().map(collect)).await?;
    let best = answers.into_iter().map(|answer| best_choices(answer, order.choices));
    Ok(Json(completion(head, best.collect(), order.logprobs)).into_response())
}
