//! POST /v1/responses.

mod conversation;
mod keep;
pub(in crate::http) mod stored;

use axum::Extension;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use daemon::auth::Caller;
use daemon::http::{Failure, Json, RequestId};
use futures::StreamExt;
use protocol::ErrorEnvelope;
use protocol::openai::responses::{self, NumberedEvent, ResponseRequest};
use uuid::Uuid;

use self::conversation::context;
use self::keep::{Keep, KeptWriter};
use super::super::State;
use super::request_timeout;
use super::stream::{events, streamed};
use crate::clock::unix_seconds;
use crate::inference::{ResponseWriter, collect, response, response_order};

/// Answer an input, or go on with a conversation that is kept. With `stream`, the answer is a stream of named events, each with
/// its number; without `"store": false`, it is kept.
#[utoipa::path(
    post, path = "/responses", operation_id = "create_response", tag = "openai",
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
        (status = 501, description = "Responses are not made in the background", body = ErrorEnvelope),
        (status = 503, description = "No capacity now; retry-after tells when", body = ErrorEnvelope),
        (status = 504, description = "The deadline has passed", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn create(
    queen: State,
    headers: HeaderMap,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<ResponseRequest>,
) -> Result<Response, Failure> {
    let wants_stream = body.stream.unwrap_or(false);
    let context = context(&queen.store, &caller, &body).await?;
    let order = response_order(body, context, request_timeout(&headers)?)?;
    let run = queen.inference.run(order.request, &request_id).await?;
    let mut draft = order.draft;
    draft.id = format!("resp_{}", Uuid::new_v4().simple());
    draft.created_at = unix_seconds();
    run.model().clone_into(&mut draft.model);
    let keep = draft.store.then(|| Keep::new(&queen.store, &caller, order.input));
    if wants_stream {
        let events = Box::pin(events(run).map(|event| (0, event)));
        let writer = ResponseWriter::new(draft);
        return Ok(match keep {
            None => streamed(events, writer).await?,
            Some(keep) => streamed(events, KeptWriter::new(writer, keep)).await?,
        });
    }
    let response = response(draft, collect(run).await?);
    if let Some(keep) = keep {
        keep.keep(&response).await?;
    }
    Ok(Json(response).into_response())
}
