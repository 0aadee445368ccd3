//! OpenAI's endpoints.

pub(super) mod chat;
pub(super) mod completions;
pub(super) mod embeddings;
pub(super) mod models;
pub(super) mod rerank;
mod stream;
pub(super) mod tokens;
pub(super) mod unavailable;

use std::time::{SystemTime, UNIX_EPOCH};

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
