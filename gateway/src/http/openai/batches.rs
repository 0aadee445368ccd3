//! /v1/batches: files of requests that are answered when there is time.

use axum::Extension;
use daemon::auth::Caller;
use daemon::http::{Failure, Json, Path};
use protocol::ErrorEnvelope;
use protocol::openai::batches::{BatchList, BatchObject, BatchRequest};

use super::super::State;
use crate::http::page::{self, Parameters};
use crate::store::Order;

/// Have the requests of a file answered, each as if it had been sent to its endpoint, when nobody waits for anything more
/// urgent. The file has one request a line, JSON: `{"custom_id", "method": "POST", "url", "body"}`.
#[utoipa::path(
    post, path = "/v1/batches", operation_id = "create_batch", tag = "batches",
    request_body = BatchRequest,
    responses(
        (status = 200, description = "The batch; its file is checked meanwhile", body = BatchObject),
        (status = 400, description = "The request is not valid", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such file", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn create(
    queen: State,
    Extension(caller): Extension<Caller>,
    Json(body): Json<BatchRequest>,
) -> Result<Json<BatchObject>, Failure> {
    Ok(Json(queen.batches.create(body, caller.as_str()).await?))
}

/// How a batch stands.
#[utoipa::path(
    get, path = "/v1/batches/{batch_id}", operation_id = "retrieve_batch", tag = "batches",
    params(("batch_id" = String, Path)),
    responses(
        (status = 200, description = "The batch", body = BatchObject),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn retrieve(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<BatchObject>, Failure> {
    Ok(Json(queen.batches.get(caller.as_str(), &id).await?))
}

/// Cancel a batch. What is answered by then is kept; its output file tells.
#[utoipa::path(
    post, path = "/v1/batches/{batch_id}/cancel", operation_id = "cancel_batch", tag = "batches",
    params(("batch_id" = String, Path)),
    responses(
        (status = 200, description = "The batch", body = BatchObject),
        (status = 400, description = "It has ended", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn cancel(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<BatchObject>, Failure> {
    Ok(Json(queen.batches.cancel(caller.as_str(), &id).await?))
}

/// The caller's batches, the newest first.
#[utoipa::path(
    get, path = "/v1/batches", operation_id = "list_batches", tag = "batches",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 100; 20 if absent"),
        ("after" = Option<String>, Query, description = "The id after which the page begins"),
    ),
    responses(
        (status = 200, description = "A page of them", body = BatchList),
        (status = 400, description = "The page is none", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn list(
    queen: State,
    Extension(caller): Extension<Caller>,
    parameters: Parameters,
) -> Result<Json<BatchList>, Failure> {
    let page = page::page(&parameters, Order::NewestFirst)?;
    let batches = queen.batches.list(caller.as_str(), &page).await?.ok_or_else(page::no_such_beginning)?;
    let id = |batch: &BatchObject| batch.id.clone();
    Ok(Json(BatchList {
        object: "list".to_owned(),
        first_id: batches.entries.first().map(id),
        last_id: batches.entries.last().map(id),
        data: batches.entries,
        has_more: batches.has_more,
    }))
}
