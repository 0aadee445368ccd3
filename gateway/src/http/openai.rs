//! OpenAI's endpoints.

pub(super) mod batches;
pub(super) mod chat;
pub(super) mod completions;
pub(super) mod embeddings;
pub(super) mod files;
pub(super) mod models;
pub(super) mod rerank;
pub(super) mod responses;
pub(super) mod tokens;
pub(super) mod unavailable;

use protocol::{ApiError, ErrorCode};

/// Who asks is told of nobody else's objects, nor that there are any.
fn not_kept(param: &str, what: &str) -> ApiError {
    let message = format!("There is no stored {what} with this id.");
    ApiError::new(ErrorCode::NotFound, message).with_param(param).with_action(
        "Check the id. What is stored is kept for a limited time, and for the credential that it was made with.",
    )
}
