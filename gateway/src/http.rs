//! The door: every route of the queen.

mod anthropic;
mod docs;
mod health;
mod middleware;
mod models;
mod openai;
mod stream;
mod tasks;
mod workers;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use daemon::auth::{Door, Token, require_token};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::inference::Inference;
use crate::tasks::Jobs;

pub use docs::openapi;

/// What the handlers work with.
pub struct Queen {
    pub(crate) inference: Inference,
    pub(crate) jobs: Jobs,
    pub(crate) started: Instant,
    /// Cancelled when the queen was told to stop.
    pub(crate) stop: CancellationToken,
}

type State = axum::extract::State<Arc<Queen>>;
type Routes = OpenApiRouter<Arc<Queen>>;

/// Bodies may be this large.
const BODY_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// OpenAI's surface and Anthropic's, wherever they are mounted.
fn openai_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(openai::chat::create))
        .routes(routes!(openai::completions::create))
        .routes(routes!(openai::embeddings::create))
        .routes(routes!(openai::rerank::create))
        .routes(routes!(openai::models::list))
        .routes(routes!(openai::models::retrieve))
        .routes(routes!(anthropic::messages::create))
}

/// rbee's own surface.
fn task_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(tasks::submit))
        .routes(routes!(tasks::get, tasks::delete))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::events))
        .routes(routes!(workers::list))
        .routes(routes!(workers::health))
        .routes(routes!(workers::shutdown))
        .routes(routes!(models::pull))
}

/// All routes that want a credential, and their description.
fn guarded_routes() -> Routes {
    OpenApiRouter::new().nest("/v1", openai_routes()).nest("/v2", task_routes())
}

/// The whole URL space.
pub fn router(queen: Arc<Queen>, token: Option<Token>) -> Router {
    let (guarded, _) = guarded_routes().split_for_parts();
    // Clients in the field use these base URLs as well; the document tells of /v1 only.
    let (alias, _) = openai_routes().split_for_parts();
    let guarded = guarded.nest("/openai/v1", alias.clone()).nest("/openai", alias);
    let guarded = guarded.layer(axum::middleware::from_fn_with_state(Door::new(token), require_token));
    let (open, _) = OpenApiRouter::new().routes(routes!(health::health)).split_for_parts();
    let router = guarded.merge(open).merge(docs::routes()).with_state(queen);
    anthropic::in_its_words(daemon::http::with_manners(middleware::layers(router), BODY_LIMIT_BYTES))
}
