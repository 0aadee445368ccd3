//! The layers around all that the queen answers, outside of those that every daemon has.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::Response;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

use crate::inference::Spans;

/// Browsers need not ask again for this long.
const PREFLIGHT_FOR: Duration = Duration::from_hours(1);

/// Adds the layers, around all that answers.
pub(super) fn layers(router: Router, cors_origins: &[String]) -> Router {
    // Official SDKs show this to their users; it ends with the response's head, since a stream has no other end to tell.
    let router = router.layer(middleware::from_fn(processing_time));
    // Around all else: a browser asks without a credential first, and must be told why it was refused too.
    if cors_origins.is_empty() { router } else { router.layer(cors(cors_origins)) }
}

fn cors(origins: &[String]) -> CorsLayer {
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // SDKs send headers of their own, which no list could keep up with.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(Any)
        .max_age(PREFLIGHT_FOR)
}

async fn processing_time(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let mut response = next.run(request).await;
    let elapsed = started.elapsed();
    let spans = response.extensions_mut().remove::<Spans>();
    let headers = response.headers_mut();
    headers.insert("openai-processing-ms", HeaderValue::from(elapsed.as_millis() as u64));
    if let Some(Ok(timing)) = spans.map(|spans| server_timing(spans, elapsed).try_into()) {
        headers.insert("server-timing", timing);
    }
    response
}

/// In milliseconds, as browsers and tracing tools read them.
fn server_timing(Spans { route, queue, worker }: Spans, total: Duration) -> String {
    let overhead = total.saturating_sub(queue + worker + route);
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    format!(
        "route;dur={:.3}, queue;dur={:.3}, worker;dur={:.3}, overhead;dur={:.3}",
        ms(route),
        ms(queue),
        ms(worker),
        ms(overhead)
    )
}
