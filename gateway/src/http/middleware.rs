//! The layers around all of the queen's routes, besides those that every daemon has.

use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use axum::response::Response;

/// Adds the layers.
pub(super) fn layers<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    // Official SDKs show this to their users; it ends with the response's head, since a stream has no other end to tell.
    router.layer(middleware::from_fn(processing_time))
}

async fn processing_time(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .insert("openai-processing-ms", HeaderValue::from(started.elapsed().as_millis() as u64));
    response
}
