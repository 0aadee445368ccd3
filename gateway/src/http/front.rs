//! The way of every request to the routes, and of its answer back. Each piece is a function around what is inside of it; as
//! layers of the router each of them would cost every request a box and a copy of all that is inside.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Method, Uri};
use axum::response::Response;
use bytes::Bytes;
use daemon::auth::Door;
use tower::{BoxError, Service, ServiceBuilder};
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

use super::body::{self, BodyLimits};
use super::drain::{self, Drain};
use super::idempotency::{self, Replays};
use super::{DoorSettings, anthropic};
use crate::inference::Spans;

/// Bodies may be this large.
const BODY_LIMIT_BYTES: usize = 32 * 1024 * 1024;
/// Browsers need not ask again for this long.
const PREFLIGHT_FOR: Duration = Duration::from_hours(1);
/// Besides /v1, clients in the field use these; the longer first.
const ALIASES: [&str; 2] = ["/openai/v1/", "/openai/"];

/// What stands around the routes.
struct Front {
    routes: Router,
    drain: Drain,
    door: Door,
    limits: BodyLimits,
    replays: Replays,
}

/// Puts the front before the routes.
pub(super) fn before<B>(
    routes: Router,
    settings: DoorSettings,
    drain: Drain,
) -> impl Service<Request<B>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let front = Arc::new(Front {
        routes,
        drain,
        door: Door::new(settings.token),
        limits: BodyLimits { bytes: BODY_LIMIT_BYTES, within: settings.body_within },
        replays: Replays::default(),
    });
    // Around all else: a browser asks without a credential first, and must be told why it was refused too.
    let cors = (!settings.cors_origins.is_empty()).then(|| cors(&settings.cors_origins));
    ServiceBuilder::new().option_layer(cors).service_fn(move |request: Request<B>| {
        let front = front.clone();
        // In a box, which is gone once the head is there: a connection keeps the room of its last request.
        Box::pin(async move { Ok::<_, Infallible>(front.answer(request.map(Body::new)).await) })
    })
}

impl Front {
    async fn answer(&self, mut request: Request) -> Response {
        if let Some(uri) = meant(request.uri()) {
            *request.uri_mut() = uri;
        }
        processing_time(request, async |request| {
            anthropic::in_its_words(request, async |request| {
                daemon::http::correlated(request, async |request| {
                    if is_open(request.uri().path()) {
                        self.route(request).await
                    } else {
                        self.admitted(request).await
                    }
                })
                .await
            })
            .await
        })
        .await
    }

    async fn admitted(&self, request: Request) -> Response {
        drain::admit(&self.drain, request, async |mut request| {
            // Nothing is kept of those who may not pass.
            if let Err(error) = self.door.let_in(&mut request) {
                return body::refuse(request, error).await;
            }
            // A replay compares bodies, so they are read outside of it.
            body::read(self.limits, request, async |request| {
                idempotency::replay(&self.replays, request, async |request| self.route(request).await).await
            })
            .await
        })
        .await
    }

    async fn route(&self, mut request: Request) -> Response {
        DefaultBodyLimit::max(self.limits.bytes).apply(&mut request);
        let Ok(response) = self.routes.clone().call(request).await;
        response
    }
}

/// Whether anyone may ask here, at any time.
fn is_open(path: &str) -> bool {
    matches!(path, "/health" | "/openapi.json" | "/docs") || path.starts_with("/docs/")
}

/// The address that an alias stands for.
fn meant(uri: &Uri) -> Option<Uri> {
    let asked = uri.path_and_query()?.as_str();
    let rest = ALIASES.iter().find_map(|alias| asked.strip_prefix(alias))?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(format!("/v1/{rest}")).ok();
    Uri::from_parts(parts).ok()
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

/// Official SDKs show this to their users; it ends with the response's head, since a stream has no other end to tell.
async fn processing_time(request: Request, inside: impl AsyncFnOnce(Request) -> Response) -> Response {
    let started = Instant::now();
    let mut response = inside(request).await;
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
    let mut timing = String::with_capacity(96);
    for (name, duration) in [("route", route), ("queue", queue), ("worker", worker), ("overhead", overhead)] {
        let comma = if timing.is_empty() { "" } else { ", " };
        let (ms, us) = (duration.as_millis(), duration.subsec_micros() % 1000);
        // Writing to a string cannot fail.
        let _ = write!(timing, "{comma}{name};dur={ms}.{us:03}");
    }
    timing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_stand_for_v1() {
        let meant = |uri: &str| meant(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(meant("/openai/v1/models?limit=1").as_deref(), Some("/v1/models?limit=1"));
        assert_eq!(meant("/openai/chat/completions").as_deref(), Some("/v1/chat/completions"));
        assert_eq!(meant("http://host:1/openai/models").as_deref(), Some("http://host:1/v1/models"));
        for itself in ["/v1/openai/v1/models", "/openai", "/openaiv1/models", "*"] {
            assert_eq!(meant(itself), None, "{itself}");
        }
    }

    #[test]
    fn spans_are_told_in_milliseconds() {
        let us = Duration::from_micros;
        let spans = Spans { route: us(7), queue: us(1_020), worker: us(2_000_300) };
        let told = server_timing(spans, us(2_001_400));
        assert_eq!(told, "route;dur=0.007, queue;dur=1.020, worker;dur=2000.300, overhead;dur=0.073");
    }

    #[test]
    fn only_health_and_documents_are_open() {
        for path in ["/health", "/docs", "/docs/index.html", "/openapi.json"] {
            assert!(is_open(path), "{path}");
        }
        for path in ["/", "/v1/models", "/v2/tasks", "/docsx", "/health/x", "//health"] {
            assert!(!is_open(path), "{path}");
        }
    }
}
