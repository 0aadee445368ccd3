//! Responses that were kept: /v1/responses/{response_id}.

use axum::Extension;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use daemon::auth::Caller;
use daemon::http::{Failure, Json, Path};
use futures::StreamExt;
use protocol::openai::responses::{self, Item, ResponseDeleted, ResponseInputItems};
use protocol::{ApiError, ErrorCode, ErrorEnvelope, JobId};

use super::super::super::State;
use super::super::not_kept;
use crate::http::page::{self, Parameters, parameter};
use crate::http::stream::streamed;
use crate::inference::{ResponseWriter, check_includes};
use crate::responses::{Background, conversation, no_conversation};
use crate::store::{Kind, Object, Order, read_kept};
use crate::tasks::IsEnded;

/// A response that was stored.
#[utoipa::path(
    get, path = "/v1/responses/{response_id}", operation_id = "get_response", tag = "openai",
    params(
        ("response_id" = String, Path),
        ("include" = Option<Vec<String>>, Query, description = "Accepted: a stored response holds all that it was made with"),
        ("stream" = Option<bool>, Query, description = "Tell the events of a response that is or was made in the background"),
        ("starting_after" = Option<u64>, Query, description = "With `stream`, the number of the event that was seen last"),
    ),
    responses(
        (status = 200, description = "The response", body = responses::Response),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn retrieve(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Response, Failure> {
    check_includes(&page::list(&parameters, "include"))?;
    let seen = parameter(&parameters, "starting_after").map(|text| {
        text.parse().map_err(|_| {
            ApiError::invalid("starting_after", "'starting_after' must be the number of an event.")
        })
    });
    if parameter(&parameters, "stream").is_some_and(|value| value != "false") {
        let background = queen.jobs.background(caller.as_str(), &id, IsEnded::Either).await?;
        let Some(background) = background else {
            // What is not there is that first.
            find(&queen, &caller, &id).await?;
            let message =
                "'stream': only the events of a response that is made in the background can be told again.";
            return Err(ApiError::new(ErrorCode::UnsupportedParameter, message).with_param("stream").into());
        };
        return Ok(followed(&queen, caller.as_str(), background.draft, seen.transpose()?).await?);
    }
    if seen.is_some() {
        let message = "'starting_after' needs 'stream'.";
        return Err(ApiError::invalid("starting_after", message).into());
    }
    if let Some(response) = queen.jobs.response(caller.as_str(), &id).await? {
        return Ok(Json(response).into_response());
    }
    let body = find(&queen, &caller, &id).await?.body;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The events of a response that is or was made in the background, after the one that was seen last.
pub(super) async fn followed(
    queen: &State,
    owner: &str,
    draft: responses::Response,
    seen: Option<u64>,
) -> Result<Response, ApiError> {
    let events = queen.jobs.events(owner, &JobId::from(draft.id.as_str()), None).await?;
    let events = events.map(|(_, event)| (0, event));
    let kept = queen.store.get(owner, Kind::Response, &draft.id).await?;
    let kept = kept.map(|object| read_kept::<responses::Response>(&object.body)).transpose()?;
    let completed_at = kept.and_then(|response| response.completed_at);
    streamed(Box::pin(events), ResponseWriter::again(draft, seen, completed_at)).await
}

/// Delete a response that was stored. Those that go on from it can be gone on from no more.
#[utoipa::path(
    delete, path = "/v1/responses/{response_id}", operation_id = "delete_response", tag = "openai",
    params(("response_id" = String, Path)),
    responses(
        (status = 200, description = "It is gone", body = ResponseDeleted),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn delete(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<ResponseDeleted>, Failure> {
    if queen.jobs.background(caller.as_str(), &id, IsEnded::Either).await?.is_some() {
        queen.jobs.cancel(caller.as_str(), &JobId::from(id.as_str())).await?;
        // What tells how it was made goes first: a deletion that is cut short is asked for again.
        queen.store.forget(caller.as_str(), &id).await.map_err(ApiError::from)?;
    }
    if !queen.store.delete(caller.as_str(), Kind::Response, &id).await.map_err(ApiError::from)? {
        return Err(missing().into());
    }
    Ok(Json(ResponseDeleted { id, object: "response", deleted: true }))
}

/// Cancel a response that is made in the background. One that has ended stays as it is; any other is cancelled by closing its
/// stream.
#[utoipa::path(
    post, path = "/v1/responses/{response_id}/cancel", operation_id = "cancel_response", tag = "openai",
    params(("response_id" = String, Path)),
    responses(
        (status = 200, description = "The response as it stands", body = responses::Response),
        (status = 400, description = "It was not made in the background", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn cancel(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<responses::Response>, Failure> {
    if queen.jobs.background(caller.as_str(), &id, IsEnded::No).await?.is_some() {
        queen.jobs.cancel(caller.as_str(), &JobId::from(id.as_str())).await?;
    }
    if let Some(response) = queen.jobs.response(caller.as_str(), &id).await? {
        return Ok(Json(response));
    }
    let response: responses::Response = read_kept(&find(&queen, &caller, &id).await?.body)?;
    if response.background {
        return Ok(Json(response));
    }
    let message = "Only a response that is made in the background can be cancelled; this one has ended.";
    let error = ApiError::invalid("response_id", message);
    Err(error.with_action("Close the connection to end a response that is being made.").into())
}

/// What a response was made from: the items of all responses that it goes on from, and its own; the newest first.
#[utoipa::path(
    get, path = "/v1/responses/{response_id}/input_items", operation_id = "list_input_items", tag = "openai",
    params(
        ("response_id" = String, Path),
        ("after" = Option<String>, Query, description = "The id after which the page begins"),
        ("limit" = Option<u32>, Query, description = "Entries at most, 1 to 100; 20 if absent"),
        ("order" = Option<String>, Query, description = "asc or desc; desc if absent"),
        ("include" = Option<Vec<String>>, Query, description = "Accepted: items hold all that they were kept with"),
    ),
    responses(
        (status = 200, description = "A page of them", body = ResponseInputItems),
        (status = 400, description = "The page is none", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn input_items(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Json<ResponseInputItems>, Failure> {
    let page = page::page(&parameters, Order::NewestFirst)?;
    check_includes(&page::list(&parameters, "include"))?;
    let background = queen.jobs.background(caller.as_str(), &id, IsEnded::No).await?;
    let (previous, input) = if let Some(Background { draft, input, .. }) = background {
        (draft.previous_response_id, input)
    } else {
        let object = find(&queen, &caller, &id).await?;
        (object.previous, read_kept::<Vec<Item>>(&object.input)?)
    };
    let mut items = match &previous {
        Some(previous) => {
            let past = conversation(&queen.store, caller.as_str(), previous).await?;
            past.ok_or_else(|| no_conversation(previous))?
        }
        None => Vec::new(),
    };
    items.extend(input);
    let paged = page::cut(items, &page, Item::id)?;
    let id = |item: &Item| item.id().to_owned();
    Ok(Json(ResponseInputItems {
        object: "list",
        first_id: paged.entries.first().map(id),
        last_id: paged.entries.last().map(id),
        data: paged.entries,
        has_more: paged.has_more,
    }))
}

async fn find(queen: &State, caller: &Caller, id: &str) -> Result<Object, ApiError> {
    queen.store.get(caller.as_str(), Kind::Response, id).await?.ok_or_else(missing)
}

fn missing() -> ApiError {
    not_kept("response_id", "response")
}
