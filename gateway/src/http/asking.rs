//! Who asks, how long the answer is of use, and what the caller is told about its way.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use daemon::auth::Caller;
use daemon::http::{Failure, RequestId};
use protocol::ApiError;

use crate::inference::{Asker, Clock, Sharing};

/// Tells whether an answer came from the cache, and as `off` asks for one that does not.
const CACHE: HeaderName = HeaderName::from_static("x-rbee-cache");

/// Tells what the routing script decided.
const ROUTING: HeaderName = HeaderName::from_static("x-rbee-routing");

/// An SDK that gives up does so by its own clock, and tells its caller so in its own words; ours comes after.
const AFTER_READ_TIMEOUT: Duration = Duration::from_millis(500);
/// A longer time is as good as none, and too long a one could not be reckoned with.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// What a request's head says of the one who asks.
pub(super) struct Asking {
    pub(super) asker: Asker,
    /// What the caller said.
    timeout: Option<Duration>,
    /// How long the caller's SDK waits for something to read.
    read_timeout: Option<Duration>,
}

impl<S: Sync> FromRequestParts<S> for Asking {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let asker = Asker {
            correlation_id: parts.extensions.get().map_or("", |RequestId(id)| id).into(),
            caller: parts.extensions.get().map_or("", Caller::as_str).into(),
            may_share: !wants_no_cache(&parts.headers),
            was_admitted: false,
            clock: Clock::start(),
        };
        Ok(Self { asker, timeout: timeout(&parts.headers)?, read_timeout: read_timeout(&parts.headers) })
    }
}

impl Asking {
    /// How long a stream is of use.
    pub(super) fn stream_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// How long an answer in one piece is of use: an SDK that has read nothing for its time gives up.
    pub(super) fn answer_timeout(&self) -> Option<Duration> {
        self.timeout.into_iter().chain(self.read_timeout).min()
    }

    /// Adds to an answer how it came about.
    pub(super) fn told(&self, answer: impl IntoResponse, sharing: Sharing) -> Response {
        let mut response = answer.into_response();
        response.extensions_mut().insert(self.asker.clock.spans());
        let routing = self.asker.clock.routing().and_then(|decision| HeaderValue::from_str(decision).ok());
        if let Some(routing) = routing {
            response.headers_mut().insert(ROUTING, routing);
        }
        let sharing = match sharing {
            Sharing::Off => return response,
            Sharing::Miss => "miss",
            Sharing::Hit => "hit",
        };
        response.headers_mut().insert(CACHE, HeaderValue::from_static(sharing));
        response
    }
}

/// How long an answer is of use, as far as the caller says.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let said = [timeout_header(headers)?, deadline_header(headers)?];
    Ok(said.into_iter().flatten().min().map(|timeout| timeout.min(LONGEST)))
}

fn wants_no_cache(headers: &HeaderMap) -> bool {
    let says = |name: &HeaderName, words: &[&str]| {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(',').any(|word| words.iter().any(|known| word.trim().eq_ignore_ascii_case(known)))
    };
    says(&CACHE, &["off"]) || says(&axum::http::header::CACHE_CONTROL, &["no-cache", "no-store"])
}

fn timeout_header(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get("x-request-timeout-ms") else { return Ok(None) };
    let milliseconds = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    milliseconds.map(|ms| Some(Duration::from_millis(ms))).ok_or_else(|| {
        let message = "The header X-Request-Timeout-Ms must be a whole number of milliseconds.";
        ApiError::invalid("X-Request-Timeout-Ms", message)
    })
}

fn deadline_header(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get("x-deadline") else { return Ok(None) };
    let instant = value.to_str().ok().and_then(|text| text.trim().parse::<jiff::Timestamp>().ok());
    let left = instant.map(|instant| jiff::Timestamp::now().duration_until(instant));
    // What lies in the past is no time at all.
    left.map(|left| Some(left.try_into().unwrap_or(Duration::ZERO))).ok_or_else(|| {
        let message =
            "The header X-Deadline must be a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z.";
        ApiError::invalid("X-Deadline", message)
    })
}

/// Seconds, as the official SDKs tell them; a hint that cannot be read is none.
fn read_timeout(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("x-stainless-read-timeout")?.to_str().ok()?.trim().parse().ok()?;
    let timeout = Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero())?;
    Some(timeout.min(LONGEST) + AFTER_READ_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn deadlines_are_read_in_every_way_to_tell_them() {
        let soon = jiff::Timestamp::now() + Duration::from_mins(1);
        let left = deadline_header(&headers("x-deadline", &soon.to_string())).unwrap().unwrap();
        assert!(left > Duration::from_secs(55) && left <= Duration::from_mins(1), "{left:?}");
        let past = deadline_header(&headers("x-deadline", "2001-01-01T00:00:00+01:00")).unwrap();
        assert_eq!(past, Some(Duration::ZERO));
        assert!(deadline_header(&headers("x-deadline", "tomorrow")).is_err());
        let timeout = timeout_header(&headers("x-request-timeout-ms", " 250 ")).unwrap();
        assert_eq!(timeout, Some(Duration::from_millis(250)));
        assert!(timeout_header(&headers("x-request-timeout-ms", "soon")).is_err());
        assert_eq!(
            read_timeout(&headers("x-stainless-read-timeout", "1.5")),
            Some(Duration::from_millis(1500) + AFTER_READ_TIMEOUT)
        );
        assert!(read_timeout(&headers("x-stainless-read-timeout", "1e19")).unwrap() < LONGEST * 2);
        for hint in ["", "NaN", "-1", "0", "never", "1e400", "-1e19"] {
            assert_eq!(read_timeout(&headers("x-stainless-read-timeout", hint)), None, "{hint}");
        }
    }

    #[test]
    fn a_header_turns_the_cache_off() {
        for (name, value, is_off) in [
            ("x-rbee-cache", "off", true),
            ("cache-control", "max-age=0, No-Cache", true),
            ("cache-control", "max-age=0", false),
            ("x-rbee-cache", "on", false),
        ] {
            assert_eq!(wants_no_cache(&headers(name, value)), is_off, "{name}: {value}");
        }
    }
}
