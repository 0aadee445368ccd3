//! OpenAI's endpoints.

pub(super) mod chat;
pub(super) mod completions;
pub(super) mod embeddings;
pub(super) mod models;
pub(super) mod rerank;
pub(super) mod responses;
pub(super) mod tokens;
pub(super) mod unavailable;

use protocol::{ApiError, ErrorCode};
use uuid::Uuid;

use crate::clock::unix_seconds;
use crate::inference::Head;

/// The head of a new answer whose id begins with `prefix`.
fn new_head(prefix: &str, model: &str) -> Head {
    Head {
        id: format!("{prefix}-{}", Uuid::new_v4().simple()),
        created: unix_seconds(),
        model: model.to_owned(),
        system_fingerprint: format!("rbee-{}", env!("CARGO_PKG_VERSION")),
    }
}

/// Who asks is told of nobody else's objects, nor that there are any.
fn not_kept(param: &str, what: &str) -> ApiError {
    let message = format!("There is no stored {what} with this id.");
    ApiError::new(ErrorCode::NotFound, message).with_param(param).with_action(
        "Check the id. What is stored is kept for a limited time, and for the credential that it was made with.",
    )
}
