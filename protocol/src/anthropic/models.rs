//! GET /v1/models and /v1/models/{model} for callers who speak Anthropic's language.

use serde::Serialize;
use utoipa::ToSchema;

/// Some of the models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelPage {
    /// The models.
    pub data: Vec<ModelInfo>,
    /// Whether there are more in the direction that was asked for.
    pub has_more: bool,
    /// The first one's id.
    pub first_id: Option<String>,
    /// The last one's id.
    pub last_id: Option<String>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelInfo {
    /// The name that requests use.
    pub id: String,
    /// Always "model".
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The same name.
    pub display_name: String,
    /// When it was fetched, as in RFC 3339; the beginning of 1970 if it has not been.
    pub created_at: String,
    /// Always "active".
    pub lifecycle: &'static str,
    /// Tokens that prompt and answer may hold together, once a worker has loaded it.
    pub max_input_tokens: Option<u32>,
    /// The same.
    pub max_tokens: Option<u32>,
}
