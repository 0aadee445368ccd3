//! The layers around every daemon's routes.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use protocol::{ApiError, ErrorCode, headers};
use uuid::Uuid;

use super::Failure;
use super::failure::render;

/// The id by which one request is known, in its extensions.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Adds what every daemon's routes have around them.
pub fn with_manners(router: Router, body_limit_bytes: usize) -> Router {
    // Added as one, since each that is added by itself costs every request a box or two.
    with_fallbacks(router).layer((
        middleware::from_fn(async |request: Request, next: Next| {
            correlated(request, async |request| next.run(request).await).await
        }),
        DefaultBodyLimit::max(body_limit_bytes),
    ))
}

/// Adds the answers to what has no route.
pub fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(async || Failure(ApiError::new(ErrorCode::NotFound, "There is no such endpoint.")))
        .method_not_allowed_fallback(async || {
            Failure(ApiError::new(ErrorCode::MethodNotAllowed, "This endpoint does not take this method."))
        })
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(message, "a handler panicked");
    Failure(ApiError::new(ErrorCode::Internal, "The server made a mistake; it is logged.")).into_response()
}

/// Gives a request its id. Whatever answers it inside, be it a panic, the answer has the id and is logged once, and an error
/// has the envelope.
pub async fn correlated(mut request: Request, inside: impl AsyncFnOnce(Request) -> Response) -> Response {
    let started = Instant::now();
    let id = shown_id(request.headers()).unwrap_or_else(|| Uuid::new_v4().to_string());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = AssertUnwindSafe(inside(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| panicked(panic.as_ref()));
    let elapsed_ms = started.elapsed().as_millis() as u64;
    if let Some(mut error) = response.extensions_mut().remove::<ApiError>() {
        log_failure(&error, &id, &method, &path, elapsed_ms);
        // The headers already set (Allow, say) stay; the body is written anew with the id in it.
        error.correlation_id = Some(id.clone());
        let kept = std::mem::take(response.headers_mut());
        response = render(error.clone());
        // For a layer around this one, which may have to say it in other words.
        response.extensions_mut().insert(error);
        for (name, value) in kept.iter().filter(|(name, _)| *name != "content-length") {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    } else {
        tracing::debug!(request_id = %id, %method, path, status = response.status().as_u16(), elapsed_ms, "answered");
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(headers::REQUEST_ID, value);
    }
    response
}

fn log_failure(error: &ApiError, id: &str, method: &axum::http::Method, path: &str, elapsed_ms: u64) {
    let (code, status) = (error.code.as_str(), error.code.status());
    if status >= 500 {
        tracing::warn!(request_id = %id, %method, path, status, code, elapsed_ms, message = error.message, "failed");
    } else {
        tracing::info!(request_id = %id, %method, path, status, code, elapsed_ms, "refused");
    }
}

/// The id that the caller gave its request, if it is one that can stand in a log.
fn shown_id(headers: &HeaderMap) -> Option<String> {
    let id = ["x-request-id", "x-client-request-id", "x-correlation-id"]
        .iter()
        .find_map(|name| headers.get(*name))?;
    let id = id.to_str().ok()?;
    let fits = (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    fits.then(|| id.to_owned())
}
