//! Responses that were kept: /v1/responses/{response_id}.

use axum::Extension;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use daemon::auth::Caller;
use daemon::http::{Failure, Json, Path};
use protocol::openai::responses::{self, Item, ResponseDeleted, ResponseInputItems};
use protocol::{ApiError, ErrorCode, ErrorEnvelope};

use super::super::super::State;
use super::super::{not_kept, read_kept};
use super::conversation::{conversation, no_conversation};
use crate::http::page::{self, Parameters, parameter};
use crate::inference::check_includes;
use crate::store::{Kind, Object, Order};

/// A response that was stored.
#[utoipa::path(
    get, path = "/v1/responses/{response_id}", operation_id = "get_response", tag = "openai",
    params(
        ("response_id" = String, Path),
        ("include" = Option<Vec<String>>, Query, description = "Accepted: a stored response holds all that it was made with"),
        ("stream" = Option<bool>, Query, description = "Must be absent or false: events are told once, as they come"),
        ("starting_after" = Option<u64>, Query, description = "Must be absent"),
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
    let follows = |name: &&str| parameter(&parameters, name).is_some_and(|value| value != "false");
    if let Some(name) = ["stream", "starting_after"].into_iter().find(follows) {
        let message = format!(
            "'{name}': this server tells the events of a response once, as they come; without it the whole response is told."
        );
        return Err(ApiError::new(ErrorCode::UnsupportedParameter, message).with_param(name).into());
    }
    let body = find(&queen, &caller, &id).await?.body;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
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
    if !queen.store.delete(caller.as_str(), Kind::Response, &id).await.map_err(ApiError::from)? {
        return Err(missing().into());
    }
    Ok(Json(ResponseDeleted { id, object: "response", deleted: true }))
}

/// Cancel a response that is made in the background, which none is: closing its stream cancels any other.
#[utoipa::path(
    post, path = "/v1/responses/{response_id}/cancel", operation_id = "cancel_response", tag = "openai",
    params(("response_id" = String, Path)),
    responses(
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
    find(&queen, &caller, &id).await?;
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
    let object = find(&queen, &caller, &id).await?;
    let mut items = match &object.previous {
        Some(previous) => {
            let past = conversation(&queen.store, caller.as_str(), previous).await?;
            past.ok_or_else(|| no_conversation(previous))?
        }
        None => Vec::new(),
    };
    items.extend(read_kept::<Vec<Item>>(&object.input)?);
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
