//! GET /v1/models and /v1/models/{model}.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::hive::ModelKind;

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// The name that requests use.
    pub id: String,
    /// Always "model".
    pub object: String,
    /// When it was fetched, seconds since 1970; 0 if it has not been.
    pub created: i64,
    /// Always "rbee".
    pub owned_by: String,
    /// rbee: running, loading, downloaded or available (will be fetched on first use).
    pub state: ModelState,
    /// rbee: what it is for.
    pub kind: ModelKind,
    /// The catalog's name, which differs from `id` where that is an alias.
    pub root: String,
    /// rbee: tokens that prompt and answer may hold together, once a worker has loaded it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
}

/// How near a model is to answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ModelState {
    Running,
    Loading,
    Downloaded,
    Available,
}

/// All models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// Always "list".
    pub object: String,
    /// The models, by name.
    pub data: Vec<Model>,
}
