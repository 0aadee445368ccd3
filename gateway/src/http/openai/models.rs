//! GET /v1/models and /v1/models/{model}.

use std::collections::BTreeMap;

use axum::extract::Path;
use daemon::http::{Failure, Json};
use protocol::hive::ModelEntry;
use protocol::openai::models::{Model, ModelList, ModelState};
use protocol::worker::WorkerState;
use protocol::{ApiError, ErrorCode, ErrorEnvelope};

use super::super::State;
use crate::hives::Fleet;

/// All models of all catalogs, those that would be fetched or started on first use included, and aliases of them.
#[utoipa::path(
    get, path = "/models", operation_id = "list_models", tag = "openai",
    responses((status = 200, description = "The answer", body = ModelList))
)]
pub(in crate::http) async fn list(queen: State) -> Json<ModelList> {
    let fleet = queen.inference.hives.fleet();
    let names: BTreeMap<&str, &ModelEntry> = fleet
        .nodes()
        .flat_map(|(_, node)| node.models.values())
        .map(|entry| (entry.reference.as_str(), entry))
        .collect();
    let named = names.into_keys().filter_map(|name| describe(&fleet, name, name));
    let aliases = queen.inference.names.aliases().filter_map(|(alias, name)| describe(&fleet, alias, name));
    Json(ModelList { object: "list".to_owned(), data: named.chain(aliases).collect() })
}

/// One model. A name may hold slashes.
#[utoipa::path(
    get, path = "/models/{*model}", operation_id = "retrieve_model", tag = "openai",
    params(("model" = String, Path)),
    responses(
        (status = 200, description = "The answer", body = Model),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn retrieve(
    queen: State,
    Path(name): Path<String>,
) -> Result<Json<Model>, Failure> {
    let missing = || {
        let message = "This model does not exist on this server.";
        ApiError::new(ErrorCode::ModelNotFound, message).with_param("model")
    };
    let root = queen.inference.names.resolve(&name)?;
    Ok(Json(describe(&queen.inference.hives.fleet(), &name, root).ok_or_else(missing)?))
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
