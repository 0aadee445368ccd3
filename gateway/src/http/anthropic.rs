//! Anthropic's endpoints, and the envelope that its callers read errors in.

pub(super) mod messages;
pub(super) mod models;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use daemon::http::Json;
use protocol::anthropic::AnthropicError;
use protocol::{ApiError, headers};

/// Whether a caller speaks Anthropic's language, as all of its SDKs say of themselves.
pub(super) fn is_spoken(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

/// Adds the layer that answers those who speak it: around everything, so that whatever refuses a request, its error has
/// their envelope.
pub(super) fn in_its_words(router: Router) -> Router {
    router.layer(middleware::from_fn(translate))
}

async fn translate(request: Request, next: Next) -> Response {
    let is_spoken = is_spoken(request.headers()) || is_its_own(request.uri().path());
    let mut response = next.run(request).await;
    if !is_spoken {
        return response;
    }
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let (mut head, _) = response.into_parts();
        head.headers.remove(header::CONTENT_LENGTH);
        response = Response::from_parts(head, in_its_envelope(error));
    }
    if let Some(id) = response.headers().get(headers::REQUEST_ID).cloned() {
        response.headers_mut().insert("request-id", id);
    }
    response
}

fn in_its_envelope(error: ApiError) -> Body {
    Json(AnthropicError::from(error)).into_response().into_body()
}

/// Whether only who speaks the language asks here.
fn is_its_own(path: &str) -> bool {
    let path = path.strip_prefix("/openai").unwrap_or(path);
    let path = path.strip_prefix("/v1").unwrap_or(path);
    matches!(path, "/messages" | "/messages/count_tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_endpoints_are_known_wherever_they_are_mounted() {
        for path in ["/v1/messages", "/openai/v1/messages", "/openai/messages/count_tokens"] {
            assert!(is_its_own(path), "{path}");
        }
        for path in ["/v1/chat/completions", "/v1/threads/t/messages", "/v1/models"] {
            assert!(!is_its_own(path), "{path}");
        }
    }
}
