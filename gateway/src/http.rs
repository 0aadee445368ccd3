//! The door: every route of the queen.

mod anthropic;
mod asking;
mod body;
mod docs;
mod drain;
mod front;
mod health;
mod idempotency;
mod models;
mod openai;
mod page;
mod queue;
mod routing;
mod stream;
mod tasks;
mod workers;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::HttpBody;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use daemon::auth::Token;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::batches::Batches;
use crate::inference::Inference;
use crate::store::Store;
use crate::tasks::Jobs;

pub use docs::openapi;
pub use drain::Drain;

/// What the handlers work with.
pub struct Queen {
    pub(crate) inference: Inference,
    pub(crate) jobs: Jobs,
    pub(crate) batches: Batches,
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

/// OpenAI's surface and Anthropic's.
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
        .routes(routes!(openai::files::create, openai::files::list))
        .routes(routes!(openai::files::retrieve, openai::files::delete))
        .routes(routes!(openai::files::content))
        .routes(routes!(openai::batches::create, openai::batches::list))
        .routes(routes!(openai::batches::retrieve))
        .routes(routes!(openai::batches::cancel))
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
        .routes(routes!(tasks::submit, tasks::list))
        .routes(routes!(tasks::preview))
        .routes(routes!(tasks::get, tasks::delete))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::events))
        .routes(routes!(queue::queue))
        .routes(routes!(queue::decision))
        .routes(routes!(routing::state))
        .routes(routes!(routing::decisions))
        .routes(routes!(routing::decision))
        .routes(routes!(routing::validate))
        .routes(routes!(routing::simulate))
        .routes(routes!(routing::replay))
        .routes(routes!(workers::list))
        .routes(routes!(workers::health))
        .routes(routes!(workers::shutdown))
        .routes(routes!(models::pull))
        .routes(routes!(openai::rerank::create_v2))
}

/// All routes that want a credential, and their description.
fn guarded_routes() -> Routes {
    openai_routes().merge(task_routes())
}

/// The whole URL space.
pub fn service<B>(
    queen: Arc<Queen>,
    settings: DoorSettings,
    drain: Drain,
) -> impl Service<Request<B>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let (routes, _) = guarded_routes().routes(routes!(health::health)).split_for_parts();
    let routes = routes.merge(docs::routes()).with_state(queen);
    front::before(daemon::http::with_fallbacks(routes), settings, drain)
}
