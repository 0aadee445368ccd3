//! The OpenAPI document and the page that tries it out.

mod manners;

use axum::Router;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use super::{Queen, guarded_routes, health};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "queen-rbee",
        description = "One OpenAI-compatible server over all your machines. Point an OpenAI SDK's base_url at /v1."
    ),
    modifiers(&Bearer),
    security((), ("bearer" = []))
)]
struct Document;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

/// The queen's OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let routes = OpenApiRouter::with_openapi(Document::openapi())
        .merge(guarded_routes())
        .routes(routes!(health::health));
    let mut document = routes.split_for_parts().1;
    super::openai::unavailable::describe(&mut document);
    manners::describe(&mut document);
    // The router's mark for "slashes included" means nothing in OpenAPI.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    document
}

/// /docs and /openapi.json; they tell nothing that the source does not.
pub(super) fn routes() -> Router<std::sync::Arc<Queen>> {
    SwaggerUi::new("/docs").url("/openapi.json", openapi()).into()
}
