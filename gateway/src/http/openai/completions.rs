//! POST /v1/completions.

use axum::response::Response;
use daemon::http::{Failure, Json};
use futures::future::try_join_all;
use futures::{StreamExt, stream};
use protocol::ErrorEnvelope;
use protocol::openai::completions::{Completion, CompletionRequest};

use super::super::State;
use crate::http::asking::Asking;
use crate::http::stream::streamed;
use crate::inference::{CompletionWriter, Head, Sharing, best_choices, completion, completion_order};

/// Continue a text, or several. With `stream`, the answer is a stream of `text_completion`s that ends with `[DONE]`.
#[utoipa::path(
    post, path = "/v1/completions", operation_id = "create_completion", tag = "openai",
    request_body = CompletionRequest,
    responses(
        (
            status = 200, description = "The answer",
            content((Completion = "application/json"), (Completion = "text/event-stream"))
        ),
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
    asking: Asking,
    Json(body): Json<CompletionRequest>,
) -> Result<Response, Failure> {
    let wants_stream = body.stream.unwrap_or(false);
    let include_usage = body.stream_options.unwrap_or_default().include_usage.unwrap_or(false);
    let head = Head::new("cmpl", &queen.inference.names.shown(&body.model));
    let timeout = if wants_stream { asking.stream_timeout() } else { asking.answer_timeout() };
    let order = completion_order(body, timeout)?;
    let prompts = order.requests.len();
    if wants_stream {
        let streams =
            order.requests.into_iter().map(|request| queen.inference.stream(request, &asking.asker));
        // Dropping the streams that were admitted cancels them, should one be refused.
        let streams = try_join_all(streams).await?;
        let writer = CompletionWriter::new(head, prompts, order.choices, include_usage);
        let sharing = Sharing::of_all(streams.iter().map(|(_, sharing)| *sharing));
        let numbered = streams.into_iter().enumerate();
        let events = stream::select_all(
            numbered.map(|(number, (events, _))| events.map(move |event| (number, event)).boxed()),
        );
        return Ok(asking.told(streamed(events, writer).await?, sharing));
    }
    let answers = order.requests.into_iter().map(|request| queen.inference.complete(request, &asking.asker));
    let answers = try_join_all(answers).await?;
    let sharing = Sharing::of_all(answers.iter().map(|(_, sharing)| *sharing));
    let best = answers.into_iter().map(|(answer, _)| best_choices(answer, order.choices));
    Ok(asking.told(Json(completion(head, best.collect(), order.logprobs)), sharing))
}
