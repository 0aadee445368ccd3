//! POST /v1/responses.

pub(in crate::http) mod stored;

use axum::response::{IntoResponse, Response};
use daemon::http::{Failure, Json};
use futures::StreamExt;
use protocol::ErrorEnvelope;
use protocol::openai::responses::{self, NumberedEvent, ResponseInputTokens, ResponseRequest};
use uuid::Uuid;

use super::super::State;
use crate::http::asking::Asking;
use crate::http::stream::streamed;
use crate::inference::{ResponseWriter, response, response_order};
use crate::responses::{Background, Keep, KeptWriter, context};

/// Answer an input, or go on with a conversation that is kept. With `stream`, the answer is a stream of named events, each with
/// its number; without `"store": false`, it is kept, unless it failed. With `background`, the answer comes at once, and the
/// response is made whether or not anyone is there, and though the server be started anew meanwhile; ask for it by its id.
#[utoipa::path(
    post, path = "/v1/responses", operation_id = "create_response", tag = "openai",
    request_body = ResponseRequest,
    responses(
        (status = 200, description = "The response; its events with `stream`", content(
            (responses::Response = "application/json"),
            (NumberedEvent = "text/event-stream"),
        )),
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
    Json(body): Json<ResponseRequest>,
) -> Result<Response, Failure> {
    let wants_stream = body.stream.unwrap_or(false);
    let timeout = if wants_stream { asking.stream_timeout() } else { asking.answer_timeout() };
    let is_background = body.background.unwrap_or(false);
    let context = context(&queen.store, &asking.asker.caller, &body).await?;
    let order = response_order(body, &context, timeout)?;
    let model = queen.inference.names.shown(&order.request.model);
    let order = order.named(format!("resp_{}", Uuid::new_v4().simple()), model);
    if is_background {
        return in_background(queen, asking, Background::new(order), wants_stream).await;
    }
    let draft = order.draft;
    let keep = draft.store.then(|| Keep::new(&queen.store, &asking.asker.caller, order.input));
    if wants_stream {
        let (events, sharing) = queen.inference.stream(order.request, &asking.asker).await?;
        let events = events.map(|event| (0, event));
        let writer = ResponseWriter::new(draft);
        let answer = match keep {
            None => streamed(events, writer).await?,
            Some(keep) => streamed(events, KeptWriter::new(writer, keep)).await?,
        };
        return Ok(asking.told(answer, sharing));
    }
    let (completed, sharing) = queen.inference.complete(order.request, &asking.asker).await?;
    let response = response(draft, completed);
    if let Some(keep) = keep {
        keep.keep(&response).await?;
    }
    Ok(asking.told(Json(response), sharing))
}

/// Has a response made by a job. Its events are those of the job, which others may follow as well.
async fn in_background(
    queen: State,
    asking: Asking,
    background: Background,
    wants_stream: bool,
) -> Result<Response, Failure> {
    let (draft, owner) = (background.draft.clone(), &asking.asker.caller);
    queen.jobs.submit_response(background, owner).await?;
    if !wants_stream {
        return Ok(Json(draft).into_response());
    }
    Ok(stored::followed(&queen, owner, draft, None).await?)
}

/// Count the tokens of a request's prompt: what its answer would tell as `usage.input_tokens`. Nothing is generated.
#[utoipa::path(
    post, path = "/v1/responses/input_tokens", operation_id = "count_response_input_tokens", tag = "openai",
    request_body = ResponseRequest,
    responses(
        (status = 200, description = "The number; it may be more than the context holds", body = ResponseInputTokens),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
        (status = 429, description = "The queue is full", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
        (status = 504, description = "The deadline has passed", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn count_input(
    queen: State,
    asking: Asking,
    Json(body): Json<ResponseRequest>,
) -> Result<Json<ResponseInputTokens>, Failure> {
    let context = context(&queen.store, &asking.asker.caller, &body).await?;
    let request = response_order(body, &context, asking.answer_timeout())?.request;
    let input_tokens = queen.inference.count_tokens(&request, &asking.asker).await?;
    Ok(Json(ResponseInputTokens { object: "response.input_tokens", input_tokens }))
}
