//! The header Idempotency-Key: what was answered once is answered again, and not done again.
//!
//! Kept are answers that succeeded, in memory, for a day at most and within a bound; a request that failed, or whose caller
//! went away, may be sent again under its key. Of two that come at once, the second waits for the first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use daemon::auth::Caller;
use daemon::http::Failure;
use http_body::Frame;
use protocol::{ApiError, ErrorCode, headers};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::timeout;

use super::asking;
use crate::store::Idempotency;
use crate::tasks::key_conflict;

/// An answer of more bytes is not kept.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// All answers together.
const KEPT_BYTES_MAX: u64 = 64 << 20;
const KEPT_FOR: Duration = Duration::from_hours(24);
/// Who says nothing of a deadline waits so long for another's answer.
const LONGEST_WAIT: Duration = Duration::from_mins(10);
const KEY_BYTES_MAX: usize = 255;

/// Where keys are kept with what they made.
const DURABLE: &str = "/v2/tasks";

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

type Hash = [u8; 32];

/// The answers that are kept, and the requests under way.
#[derive(Clone)]
pub(super) struct Replays {
    answered: moka::sync::Cache<Hash, Arc<Answer>>,
    running: Arc<Mutex<HashMap<Hash, Running>>>,
}

/// A request under way, and the signal of its end.
#[derive(Clone)]
struct Running {
    body: Hash,
    ended: watch::Receiver<()>,
}

/// What was answered.
struct Answer {
    /// Of the request's body.
    body: Hash,
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<Bytes>,
}

/// How a request stands to those before it.
enum Known {
    No(Recorder),
    Running(watch::Receiver<()>),
    Answered(Arc<Answer>),
    /// The key was used for something else.
    Differs,
}

impl Default for Replays {
    fn default() -> Self {
        let weight = |_: &Hash, answer: &Arc<Answer>| {
            answer.bytes.iter().map(Bytes::len).sum::<usize>().saturating_add(512) as u32
        };
        let answered = moka::sync::Cache::builder()
            .weigher(weight)
            // A key is used again soon or never: how often others were used says nothing of it.
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .max_capacity(KEPT_BYTES_MAX)
            .time_to_live(KEPT_FOR)
            .build();
        Self { answered, running: Arc::default() }
    }
}

impl Replays {
    fn look_up(&self, key: Hash, body: Hash) -> Known {
        // Whoever ends goes from one of the two to the other under the lock.
        let mut running = self.running();
        if let Some(answer) = self.answered.get(&key) {
            return if answer.body == body { Known::Answered(answer) } else { Known::Differs };
        }
        match running.entry(key) {
            Entry::Occupied(known) if known.get().body == body => Known::Running(known.get().ended.clone()),
            Entry::Occupied(_) => Known::Differs,
            Entry::Vacant(free) => {
                let (signal, ended) = watch::channel(());
                free.insert(Running { body, ended });
                Known::No(Recorder { replays: self.clone(), key, body, _signal: signal })
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Hash, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a request that bears a key, or tells what was answered to it.
pub(super) async fn replay(
    replays: &Replays,
    request: Request,
    inside: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let is_ours = request.method() == Method::POST && request.uri().path() != DURABLE;
    let key = match key(request.headers()) {
        Ok(Some(key)) if is_ours => key,
        Ok(_) => return inside(request).await,
        Err(error) => return Failure(error).into_response(),
    };
    let patience = match asking::timeout(request.headers()) {
        Ok(timeout) => timeout.unwrap_or(LONGEST_WAIT),
        Err(error) => return Failure(error).into_response(),
    };
    let caller = request.extensions().get::<Caller>().map_or("", Caller::as_str);
    let key = hash(&[caller.as_bytes(), request.uri().path().as_bytes(), key.as_bytes()]);
    let (parts, body) = request.into_parts();
    // The body is there already and within its limit.
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        return Failure(ApiError::new(ErrorCode::Internal, "The body is gone.")).into_response();
    };
    let body = hash(&[&bytes]);
    loop {
        match replays.look_up(key, body) {
            Known::No(recorder) => {
                let response = inside(Request::from_parts(parts, Body::from(bytes))).await;
                return recorder.record(response);
            }
            Known::Answered(answer) => return answer.replay(),
            Known::Running(mut ended) => {
                // The sender of the signal is dropped at the end, and says nothing before.
                let end = async { while ended.changed().await.is_ok() {} };
                if timeout(patience, end).await.is_err() {
                    let message = "The first request under this Idempotency-Key has no answer yet.";
                    return Failure(ApiError::new(ErrorCode::Timeout, message)).into_response();
                }
            }
            Known::Differs => {
                return Failure(key_conflict()).into_response();
            }
        }
    }
}

/// The key of a request, if it bears one.
fn key(headers: &HeaderMap) -> Result<Option<&HeaderValue>, ApiError> {
    let Some(key) = headers.get(headers::IDEMPOTENCY_KEY) else { return Ok(None) };
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let message = format!("The header Idempotency-Key must have 1 to {KEY_BYTES_MAX} bytes.");
        return Err(ApiError::invalid("Idempotency-Key", message));
    }
    Ok(Some(key))
}

/// The key of a request whose answer is in the store, where it outlasts this process.
pub(super) fn durable_key(
    headers: &HeaderMap,
    body: &impl Serialize,
) -> Result<Option<Idempotency>, ApiError> {
    let Some(key) = key(headers)? else { return Ok(None) };
    let body = serde_json::to_vec(body).unwrap_or_default();
    let digest = crate::hex(&hash(&[&body]));
    Ok(Some(Idempotency { key: String::from_utf8_lossy(key.as_bytes()).into_owned(), digest }))
}

/// Tells that this was answered before.
pub(super) fn mark_replayed(response: &mut Response) {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

impl Answer {
    fn replay(&self) -> Response {
        let body = self.bytes.concat();
        let mut response = (self.status, self.headers.clone(), body).into_response();
        mark_replayed(&mut response);
        response
    }
}

/// Keeps the answer to a request under way; dropping it lets the next one try.
struct Recorder {
    replays: Replays,
    key: Hash,
    body: Hash,
    _signal: watch::Sender<()>,
}

impl Recorder {
    fn record(self, response: Response) -> Response {
        if !response.status().is_success() {
            return response;
        }
        let (parts, body) = response.into_parts();
        let mut headers = parts.headers.clone();
        headers.remove(header::CONTENT_LENGTH);
        let answer = Answer { body: self.body, status: parts.status, headers, bytes: Vec::new() };
        let recorded = Recorded { inner: body, length: 0, recording: Some((self, answer)) };
        Response::from_parts(parts, Body::new(recorded))
    }

    fn keep(self, answer: Answer) {
        self.replays.answered.insert(self.key, Arc::new(answer));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.replays.running().remove(&self.key);
    }
}

/// A body that is kept when it has come to its end.
struct Recorded {
    inner: Body,
    length: usize,
    recording: Option<(Recorder, Answer)>,
}

impl Recorded {
    fn take(&mut self, data: &Bytes) {
        self.length += data.len();
        if self.length > ANSWER_BYTES_MAX || is_error_event(data) {
            self.recording = None;
        } else if let Some((_, answer)) = &mut self.recording {
            answer.bytes.push(data.clone());
        }
    }

    fn end(&mut self) {
        if let Some((recorder, answer)) = self.recording.take() {
            recorder.keep(answer);
        }
    }
}

/// A stream that ends with an error has not succeeded, whatever its status says.
fn is_error_event(frames: &[u8]) -> bool {
    // JSON holds no raw line break, so that no answer's text can look like this.
    let begins = |frame: &[u8]| {
        frame.starts_with(b"data: {\"error\"")
            || frame.starts_with(b"event: error")
            || frame.starts_with(b"event: response.failed")
    };
    let breaks = frames.windows(2).enumerate().filter(|(_, pair)| pair == b"\n\n");
    begins(frames) || breaks.into_iter().any(|(place, _)| begins(&frames[place + 2..]))
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.take(data);
                }
                // The connection may not ask again after the last frame of a body of known length.
                if self.inner.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(_)) => self.recording = None,
            None => self.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
