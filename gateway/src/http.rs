//! The door: every route of the queen.

mod anthropic;
mod asking;
mod body;
mod docs;
mod drain;
mod health;
mod idempotency;
mod middleware;
mod models;
mod openai;
mod stream;
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
use crate::store::Store;
use crate::tasks::Jobs;

pub use docs::openapi;
pub use drain::Drain;

/// What the handlers work with.
pub struct Queen {
    pub(crate) inference: Inference,
    pub(crate) jobs: Jobs,
    pub(crate) store: Store,
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

/// OpenAI's surface and Anthropic's, wherever they are mounted.
fn openai_routes() -> Routes {
    let routes = OpenApiRouter::new()
        .routes(routes!(openai::chat::create, openai::chat::stored::list))
        .routes(routes!(
            openai::chat::stored::retrieve,
            openai::chat::stored::update,
            openai::chat::stored::delete
        ))
        .routes(routes!(openai::chat::stored::messages))
        .routes(routes!(openai::responses::create))
        .routes(routes!(openai::responses::count_input))
        .routes(routes!(openai::responses::stored::retrieve, openai::responses::stored::delete))
        .routes(routes!(openai::responses::stored::cancel))
        .routes(routes!(openai::responses::stored::input_items))
        .routes(routes!(openai::completions::create))
        .routes(routes!(openai::embeddings::create))
        .routes(routes!(openai::rerank::create))
        .routes(routes!(openai::tokens::tokenize))
        .routes(routes!(openai::tokens::detokenize))
        .routes(routes!(openai::models::list))
        .routes(routes!(openai::models::retrieve))
        .routes(routes!(anthropic::messages::create))
        .routes(routes!(anthropic::messages::count_tokens));
    openai::unavailable::add(routes)
}

/// rbee's own surface, and what clients of Cohere's service look for beside it.
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
        .routes(routes!(openai::rerank::create_v2))
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
    // The outermost first. They are added as one, since each that is added by itself costs every request a box or two.
    let guarded = guarded.layer((
        from_fn_with_state(drain, drain::admit),
        // Nothing is read of those who may not pass.
        from_fn_with_state(door, require_token),
        // A replay compares bodies, so they are read outside of it.
        from_fn_with_state(limits, body::read),
        from_fn_with_state(idempotency::Replays::default(), idempotency::replay),
    ));
    let (open, _) = OpenApiRouter::new().routes(routes!(health::health)).split_for_parts();
    let router = guarded.merge(open).merge(docs::routes()).with_state(queen);
    let router = anthropic::in_its_words(daemon::http::with_manners(router, BODY_LIMIT_BYTES));
    middleware::layers(router, &settings.cors_origins)
}
