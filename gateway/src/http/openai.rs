//! OpenAI's endpoints.

pub(super) mod chat;
pub(super) mod completions;
pub(super) mod embeddings;
pub(super) mod models;
pub(super) mod rerank;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use protocol::ApiError;
use uuid::Uuid;

use crate::inference::Head;

/// The head of a new answer whose id begins with `prefix`.
fn new_head(prefix: &str, model: &str) -> Head {
    Head {
        id: format!("{prefix}-{}", Uuid::new_v4().simple()),
        created: now_seconds(),
        model: model.to_owned(),
        system_fingerprint: format!("rbee-{}", env!("CARGO_PKG_VERSION")),
    }
}

/// Seconds since 1970, as OpenAI's `created` has it.
fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64
}

/// How long the caller will wait, if the request tells.
pub(super) fn request_timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get("x-request-timeout-ms") else { return Ok(None) };
    let milliseconds = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    milliseconds.map(|ms| Some(Duration::from_millis(ms))).ok_or_else(|| {
        ApiError::invalid(
            "x-request-timeout-ms",
            "The header X-Request-Timeout-Ms must be a whole number of milliseconds.",
        )
    })
}
