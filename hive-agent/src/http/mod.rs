//! The hive's HTTP door: the whole URL space, and what guards it.

mod events;
mod health;
mod models;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use daemon::auth::{Door, Token, require_token};
use daemon::http::with_manners;
use protocol::hive::HiveHealth;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::catalog::Catalog;
use crate::events::Board;
use crate::workers::Workers;

/// Bytes of a request body at most; the largest is a spawn order.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Event streams show at least this often that they live; the queen's suspicion starts at 15 s.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What the handlers work with.
#[derive(Debug, Clone)]
pub struct App {
    /// What /health answers.
    pub health: HiveHealth,
    /// The processes.
    pub workers: Workers,
    /// The models.
    pub catalog: Catalog,
    /// What is known of both.
    pub board: Arc<Board>,
    /// Cancelled when open streams must end.
    pub closing: CancellationToken,
}

#[derive(OpenApi)]
#[openapi(info(
    title = "rbee hive",
    description = "One machine's models and workers. A hive executes orders and reports; the queen decides."
))]
struct Document;

/// What nobody needs a token for: health, and the callback of workers. A worker proves itself by its worker id and boot
/// id, which only the hive that made them up and the worker know; the hive's token is not for it to have.
fn public_routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::health))
        .routes(routes!(workers::ready))
}

fn guarded_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(workers::spawn))
        .routes(routes!(workers::list))
        .routes(routes!(workers::shutdown))
        .routes(routes!(models::list))
        .routes(routes!(models::download))
        .routes(routes!(models::download_progress))
        .routes(routes!(events::events))
}

/// All routes and what is around them.
pub fn router(app: App, token: Option<Token>) -> Router {
    let guarded = guarded_routes().layer(middleware::from_fn_with_state(Door::new(token), require_token));
    let (router, document) = public_routes().merge(guarded).split_for_parts();
    let router = router.with_state(app).route("/openapi.json", get(async move || axum::Json(document)));
    with_manners(router, BODY_BYTES_MAX)
}

/// The OpenAPI document of the routes.
pub fn document() -> utoipa::openapi::OpenApi {
    public_routes().merge(guarded_routes()).into_openapi()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_endpoint_is_documented() {
        let document = super::document();
        let paths: Vec<&str> = document.paths.paths.keys().map(String::as_str).collect();
        for path in [
            "/health",
            "/v1/events",
            "/v1/models/download",
            "/v1/models/download/progress",
            "/v1/models/list",
            "/v1/workers/list",
            "/v1/workers/ready",
            "/v1/workers/shutdown",
            "/v1/workers/spawn",
        ] {
            assert!(paths.contains(&path), "{path} is not in {paths:?}");
        }
    }
}
