//! The door: every route of the queen.

mod asking;
mod body;
mod docs;
mod drain;
mod health;
mod idempotency;
mod middleware;
mod models;
mod openai;
mod tasks;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::middleware::from_fn_with_state;
use daemon::auth::{Door, Token, require_token};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::inference::Inference;
use crate::tasks::Jobs;

pub use docs::openapi;
pub use drain::Drain;

/// What the handlers work with.
pub struct Queen {
    pub(crate) inference: Inference,
    pub(crate) jobs: Jobs,
    pub(crate) started: Instant,
    /// Cancelled when the queen was told to stop.
    pub(crate) stop: CancellationToken,
}

/// How the door is kept.
pub struct DoorSettings {
    /// What callers must show.
    pub token: Option<Token>,
    /// Time from a request's head to its body's end.
    pub body_within: Duration,
    /// Origins whose pages may use this server; `*` for all.
    pub cors_origins: Vec<String>,
}

type State = axum::extract::State<Arc<Queen>>;
type Routes = OpenApiRouter<Arc<Queen>>;

/// Bodies may be this large.
const BODY_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// OpenAI's surface, wherever it is mounted.
fn openai_routes() -> Routes {
    let routes = OpenApiRouter::new()
        .routes(routes!(openai::chat::create))
        .routes(routes!(openai::completions::create))
        .routes(routes!(openai::embeddings::create))
        .routes(routes!(openai::rerank::create))
        .routes(routes!(openai::tokens::tokenize))
        .routes(routes!(openai::tokens::detokenize))
        .routes(routes!(openai::models::list))
        .routes(routes!(openai::models::retrieve));
    openai::unavailable::add(routes)
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
pub fn router(queen: Arc<Queen>, settings: DoorSettings, drain: Drain) -> Router {
    let (guarded, _) = guarded_routes().split_for_parts();
    // Clients in the field use these base URLs as well; the document tells of /v1 only.
    let (alias, _) = openai_routes().split_for_parts();
    let guarded = guarded.nest("/openai/v1", alias.clone()).nest("/openai", alias);
    let door = Door::new(settings.token);
    let limits = body::BodyLimits { bytes: BODY_LIMIT_BYTES, within: settings.body_within };
    let guarded = guarded
        .layer(from_fn_with_state(idempotency::Replays::default(), idempotency::replay))
        // A replay compares bodies, so they are read outside of it.
        .layer(from_fn_with_state(limits, body::read))
        // Nothing is read of those who may not pass.
        .layer(from_fn_with_state(door, require_token))
        .layer(from_fn_with_state(drain, drain::admit));
    let (open, _) = OpenApiRouter::new().routes(routes!(health::health)).split_for_parts();
    let router = guarded.merge(open).merge(docs::routes()).with_state(queen);
    daemon::http::with_manners(middleware::layers(router, &settings.cors_origins), BODY_LIMIT_BYTES)
}
