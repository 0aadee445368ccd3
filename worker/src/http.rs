//! The worker's HTTP door: the route table, and the check that a caller means this worker and this run of it.

mod execute;
mod lifecycle;
mod tokens;
mod vectors;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use daemon::http::{Failure, with_manners};
use protocol::{ApiError, ErrorCode, headers};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::service::Service;

/// Bytes of a request body at most: whatever the queen takes fits, though she may write it longer than she read it.
const BODY_BYTES_MAX: usize = 64 << 20;

#[derive(OpenApi)]
#[openapi(info(
    title = "rbee worker",
    description = "One process, one model. Workers listen on loopback; callers other than a queen or a hive ask the queen."
))]
struct Document;

fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(execute::execute))
        .routes(routes!(execute::cancel))
        .routes(routes!(vectors::embed))
        .routes(routes!(vectors::rerank))
        .routes(routes!(tokens::tokenize))
        .routes(routes!(tokens::detokenize))
        .routes(routes!(lifecycle::health))
        .routes(routes!(lifecycle::ready))
        .routes(routes!(lifecycle::loading_progress))
        .routes(routes!(lifecycle::shutdown))
}

/// All routes and what is around them.
pub fn router(service: Arc<Service>) -> Router {
    let (router, document) = routes().split_for_parts();
    let router = router
        .layer(middleware::from_fn_with_state(service.clone(), check_addressee))
        .with_state(service)
        .route("/openapi.json", get(async move || axum::Json(document)));
    with_manners(router, BODY_BYTES_MAX)
}

/// The OpenAPI document of the routes.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

/// Refuses what is meant for another worker: ports are recycled, ids are not.
async fn check_addressee(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let config = &service.config;
    let expected =
        [(headers::WORKER_ID, config.worker_id.as_str()), (headers::BOOT_ID, config.boot_id.as_str())];
    for (header, own) in expected {
        if request.headers().get(header).is_some_and(|meant| meant.as_bytes() != own.as_bytes()) {
            let message = format!("The request is meant for another worker: {header} here is '{own}'.");
            return Failure(ApiError::new(ErrorCode::WorkerMismatch, message)).into_response();
        }
    }
    next.run(request).await
}
