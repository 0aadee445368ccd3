//! Chat completions that were kept: /v1/chat/completions/{completion_id} and what lists them.

use axum::Extension;
use daemon::auth::Caller;
use daemon::http::{Failure, Json, Path};
use protocol::openai::chat::{
    ChatCompletion, ChatCompletionDeleted, ChatCompletionList, ChatCompletionUpdate, StoredMessage,
    StoredMessageList,
};
use protocol::{ApiError, ErrorEnvelope};

use super::super::super::State;
use super::super::not_kept;
use crate::http::page::{self, Parameters, parameter};
use crate::inference::metadata;
use crate::store::{Kind, Object, Order, read_kept};

/// The chat completions that were made with `store`, oldest first. `metadata[key]=value` asks for those that bear this pair.
#[utoipa::path(
    get, path = "/v1/chat/completions", operation_id = "list_chat_completions", tag = "openai",
    params(
        ("after" = Option<String>, Query, description = "The id after which the page begins"),
        ("limit" = Option<u32>, Query, description = "Entries at most, 1 to 100; 20 if absent"),
        ("order" = Option<String>, Query, description = "asc (oldest first) or desc; asc if absent"),
        ("model" = Option<String>, Query, description = "Only those that this model answered, by the name asked for"),
        ("metadata" = Option<Object>, Query, style = DeepObject, explode, description = "Only those that bear these pairs"),
    ),
    responses(
        (status = 200, description = "A page of them", body = ChatCompletionList),
        (status = 400, description = "The page is none", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn list(
    queen: State,
    Extension(caller): Extension<Caller>,
    parameters: Parameters,
) -> Result<Json<ChatCompletionList>, Failure> {
    let page = page::page(&parameters, Order::OldestFirst)?;
    let (model, pairs) = (parameter(&parameters, "model"), page::metadata(&parameters));
    let listed = queen.store.list(caller.as_str(), Kind::ChatCompletion, &page, model, &pairs);
    let paged = listed.await.map_err(ApiError::from)?.ok_or_else(page::no_such_beginning)?;
    let data = paged.entries.into_iter().map(completion).collect::<Result<Vec<_>, _>>()?;
    let id = |completion: &ChatCompletion| completion.id.clone();
    Ok(Json(ChatCompletionList {
        object: "list",
        first_id: data.first().map(id),
        last_id: data.last().map(id),
        data,
        has_more: paged.has_more,
    }))
}

/// A chat completion that was made with `store`.
#[utoipa::path(
    get, path = "/v1/chat/completions/{completion_id}", operation_id = "get_chat_completion", tag = "openai",
    params(("completion_id" = String, Path)),
    responses(
        (status = 200, description = "The completion", body = ChatCompletion),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn retrieve(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<ChatCompletion>, Failure> {
    Ok(Json(completion(find(&queen, &caller, &id).await?)?))
}

/// Replace the metadata of a chat completion that was made with `store`.
#[utoipa::path(
    post, path = "/v1/chat/completions/{completion_id}", operation_id = "update_chat_completion", tag = "openai",
    params(("completion_id" = String, Path)),
    request_body = ChatCompletionUpdate,
    responses(
        (status = 200, description = "The completion", body = ChatCompletion),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn update(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(body): Json<ChatCompletionUpdate>,
) -> Result<Json<ChatCompletion>, Failure> {
    metadata(body.metadata.as_ref())?;
    let pairs = body.metadata.unwrap_or_default();
    let changed = queen.store.set_metadata(caller.as_str(), Kind::ChatCompletion, &id, pairs);
    if !changed.await.map_err(ApiError::from)? {
        return Err(missing().into());
    }
    Ok(Json(completion(find(&queen, &caller, &id).await?)?))
}

/// Delete a chat completion that was made with `store`.
#[utoipa::path(
    delete, path = "/v1/chat/completions/{completion_id}", operation_id = "delete_chat_completion", tag = "openai",
    params(("completion_id" = String, Path)),
    responses(
        (status = 200, description = "It is gone", body = ChatCompletionDeleted),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn delete(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<ChatCompletionDeleted>, Failure> {
    let deleted = queen.store.delete(caller.as_str(), Kind::ChatCompletion, &id);
    if !deleted.await.map_err(ApiError::from)? {
        return Err(missing().into());
    }
    Ok(Json(ChatCompletionDeleted { id, object: "chat.completion.deleted", deleted: true }))
}

/// The messages that a chat completion answers, the first one first.
#[utoipa::path(
    get, path = "/v1/chat/completions/{completion_id}/messages", operation_id = "list_chat_completion_messages", tag = "openai",
    params(
        ("completion_id" = String, Path),
        ("after" = Option<String>, Query, description = "The id after which the page begins"),
        ("limit" = Option<u32>, Query, description = "Entries at most, 1 to 100; 20 if absent"),
        ("order" = Option<String>, Query, description = "asc or desc; asc if absent"),
    ),
    responses(
        (status = 200, description = "A page of them", body = StoredMessageList),
        (status = 400, description = "The page is none", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn messages(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Json<StoredMessageList>, Failure> {
    let page = page::page(&parameters, Order::OldestFirst)?;
    let messages: Vec<StoredMessage> = read_kept(&find(&queen, &caller, &id).await?.input)?;
    let paged = page::cut(messages, &page, |message| &message.id)?;
    let id = |message: &StoredMessage| message.id.clone();
    Ok(Json(StoredMessageList {
        object: "list",
        first_id: paged.entries.first().map(id),
        last_id: paged.entries.last().map(id),
        data: paged.entries,
        has_more: paged.has_more,
    }))
}

async fn find(queen: &State, caller: &Caller, id: &str) -> Result<Object, ApiError> {
    queen.store.get(caller.as_str(), Kind::ChatCompletion, id).await?.ok_or_else(missing)
}

fn missing() -> ApiError {
    not_kept("completion_id", "chat completion")
}

fn completion(object: Object) -> Result<ChatCompletion, ApiError> {
    let completion: ChatCompletion = read_kept(&object.body)?;
    Ok(ChatCompletion { metadata: Some(object.metadata), ..completion })
}
