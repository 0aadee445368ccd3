//! An error as a response.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::{ApiError, ErrorEnvelope};

/// An error on its way to the caller. The layer that knows the request's id writes the body and logs the error, once.
#[derive(Debug)]
pub struct Failure(pub ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = render(self.0.clone());
        response.extensions_mut().insert(self.0);
        response
    }
}

/// Where nothing better is known, a refusal for now is worth asking after again in this time.
const RETRY_AFTER_MS: u64 = 1000;

/// Writes an error as status, headers and body.
pub(super) fn render(mut error: ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        error.retry_after_ms.get_or_insert(RETRY_AFTER_MS);
    }
    let mut headers = HeaderMap::new();
    if let Some(retry_after_ms) = error.retry_after_ms {
        let whole_seconds = Duration::from_millis(retry_after_ms.saturating_add(999)).as_secs();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds));
        headers.insert("retry-after-ms", HeaderValue::from(retry_after_ms));
    }
    headers
        .insert("x-should-retry", HeaderValue::from_static(if error.retriable { "true" } else { "false" }));
    (status, headers, axum::Json(ErrorEnvelope { error })).into_response()
}
