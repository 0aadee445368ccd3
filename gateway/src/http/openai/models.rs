//! GET /v1/models and /v1/models/{model}.

use std::collections::{BTreeMap, HashMap};

use axum::extract::Query;
use axum::http::HeaderMap;
use daemon::http::{Failure, Json, Path};
use protocol::anthropic::{ModelInfo, ModelPage};
use protocol::hive::ModelEntry;
use protocol::openai::models::{Model, ModelList, ModelState};
use protocol::worker::WorkerState;
use protocol::{ApiError, ErrorCode, ErrorEnvelope};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::{State, anthropic};
use crate::hives::Fleet;

/// Models in the language of who asks.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum Models {
    /// OpenAI's.
    List(ModelList),
    /// Anthropic's.
    Page(ModelPage),
}

/// One model in the language of who asks.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum OneModel {
    /// OpenAI's.
    Model(Model),
    /// Anthropic's.
    Info(ModelInfo),
}

/// All models of all catalogs, those that would be fetched or started on first use included, and aliases of them.
#[utoipa::path(
    get, path = "/v1/models", operation_id = "list_models", tag = "openai",
    params(
        ("anthropic-version" = Option<String>, Header, description = "If given, the answer is Anthropic's: a page"),
        ("limit" = Option<u32>, Query, description = "Of a page: how many models at most, 1 to 1000; 20 if absent"),
        ("after_id" = Option<String>, Query, description = "Of a page: the model that comes before its first one"),
        ("before_id" = Option<String>, Query, description = "Of a page: the model that comes after its last one"),
    ),
    responses((status = 200, description = "The answer", body = Models))
)]
pub(in crate::http) async fn list(
    queen: State,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Models>, Failure> {
    let fleet = queen.inference.hives.fleet();
    let names: BTreeMap<&str, &ModelEntry> = fleet
        .nodes()
        .flat_map(|(_, node)| node.models.values())
        .map(|entry| (entry.reference.as_str(), entry))
        .collect();
    let named = names.into_keys().filter_map(|name| describe(&fleet, name, name));
    let aliases = queen.inference.names.aliases().filter_map(|(alias, name)| describe(&fleet, alias, name));
    let data: Vec<Model> = named.chain(aliases).collect();
    if anthropic::is_spoken(&headers) {
        return Ok(Json(Models::Page(anthropic::models::page(&data, &query)?)));
    }
    Ok(Json(Models::List(ModelList { object: "list".to_owned(), data })))
}

/// One model. A name may hold slashes.
#[utoipa::path(
    get, path = "/v1/models/{*model}", operation_id = "retrieve_model", tag = "openai",
    params(("model" = String, Path)),
    responses(
        (status = 200, description = "The answer; Anthropic's with the header anthropic-version", body = OneModel),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn retrieve(
    queen: State,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<OneModel>, Failure> {
    let missing = || {
        let message = "This model does not exist on this server.";
        ApiError::new(ErrorCode::ModelNotFound, message).with_param("model")
    };
    let root = queen.inference.names.resolve(&name)?;
    let model = describe(&queen.inference.hives.fleet(), &name, root).ok_or_else(missing)?;
    if anthropic::is_spoken(&headers) {
        return Ok(Json(OneModel::Info(anthropic::models::info(&model))));
    }
    Ok(Json(OneModel::Model(model)))
}

fn describe(fleet: &Fleet, id: &str, root: &str) -> Option<Model> {
    let entry = fleet.model(root)?;
    let workers =
        || fleet.reachable_workers().map(|(_, worker)| worker).filter(|worker| worker.model_ref == root);
    let running = workers().find(|worker| worker.state.takes_requests());
    let state = if running.is_some() {
        ModelState::Running
    } else if workers().any(|worker| worker.state == WorkerState::Loading) {
        ModelState::Loading
    } else if entry.downloaded {
        ModelState::Downloaded
    } else {
        ModelState::Available
    };
    Some(Model {
        id: id.to_owned(),
        object: "model".to_owned(),
        created: entry.downloaded_at.unwrap_or(0),
        owned_by: "rbee".to_owned(),
        state,
        kind: entry.kind,
        root: root.to_owned(),
        context_length: running.map(|worker| worker.context_length).filter(|length| *length > 0),
    })
}
