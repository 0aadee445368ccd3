//! Anthropic's endpoints, and the envelope that its callers read errors in.

pub(super) mod messages;
pub(super) mod models;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use daemon::http::Json;
use protocol::anthropic::AnthropicError;
use protocol::{ApiError, headers};

/// Whether a caller speaks Anthropic's language, as all of its SDKs say of themselves.
pub(super) fn is_spoken(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

/// Answers those who speak it in their envelope, whatever refused the request inside.
pub(super) async fn in_its_words(
    request: Request,
    inside: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let is_spoken = is_spoken(request.headers())
        || matches!(request.uri().path(), "/v1/messages" | "/v1/messages/count_tokens");
    let mut response = inside(request).await;
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
