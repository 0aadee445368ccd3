//! The HTTP that all typed clients speak: JSON out, JSON or events back, errors in the envelope.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use protocol::{ApiError, ErrorCode, ErrorEnvelope};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::sse::{RawEvent, SseDecoder, SseError};
use crate::transport::{Connector, Tcp, Transport};

/// A JSON answer may be this large.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Servers of ours send a comment at least every 10 s, so a stream silent for this long is dead.
const STREAM_SILENCE: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer answered with an error.
    #[error("{0}")]
    Api(ApiError),
    /// No connection could be made.
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// Whom we wanted to reach.
        url: String,
        /// Why not.
        cause: String,
    },
    /// The connection broke, or what came over it makes no sense.
    #[error("the connection to {url} broke: {cause}")]
    Broken {
        /// Whom we were talking to.
        url: String,
        /// What happened.
        cause: String,
    },
}

impl Error {
    /// The error as a caller of ours may see it; `code` names a fault of the connection itself.
    pub fn into_api_error(self, code: ErrorCode, message: &str) -> ApiError {
        match self {
            Self::Api(error) => error,
            Self::Unreachable { .. } | Self::Broken { .. } => ApiError::new(code, message),
        }
    }
}

/// A server of ours begins to answer with events within this time; what takes longer is told by the events.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// A client for one base URL.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    base_url: Arc<str>,
    headers: HeaderMap,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClient").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl HttpClient {
    /// A client over plain TCP.
    pub fn new(base_url: &str) -> Self {
        Self::over(Arc::new(Tcp), base_url)
    }

    /// A client over this transport.
    pub fn over(transport: Arc<dyn Transport>, base_url: &str) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_mins(1))
            .pool_timer(TokioTimer::new())
            .build(Connector(transport));
        Self { client, base_url: base_url.trim_end_matches('/').into(), headers: HeaderMap::new() }
    }

    /// Shows this token with every request.
    pub fn with_token(self, token: &str) -> Self {
        self.with_header(header::AUTHORIZATION, &format!("Bearer {token}"))
    }

    /// Sends this header with every request; a value that cannot stand in a header is left out.
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// The same connections, speaking to another base URL with no headers of its own.
    pub fn at(&self, base_url: &str) -> Self {
        Self {
            client: self.client.clone(),
            base_url: base_url.trim_end_matches('/').into(),
            headers: HeaderMap::new(),
        }
    }

    /// GET, JSON back.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let response = self.send(Method::GET, path, Bytes::new(), &[]).await?;
        self.read(response).await
    }

    /// POST JSON, JSON back.
    pub async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Error> {
        self.post_with(path, body, &[]).await
    }

    /// POST JSON with further headers, JSON back.
    pub async fn post_with<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        headers: &[(HeaderName, String)],
    ) -> Result<T, Error> {
        let body = self.encode(body)?;
        let response = self.send(Method::POST, path, body, headers).await?;
        self.read(response).await
    }

    /// GET, events back.
    pub async fn get_events(&self, path: &str, headers: &[(HeaderName, String)]) -> Result<Events, Error> {
        self.events(self.send(Method::GET, path, Bytes::new(), headers)).await
    }

    /// POST JSON, events back.
    pub async fn post_events<B: Serialize + Sync>(
        &self,
        path: &str,
        body: &B,
        headers: &[(HeaderName, String)],
    ) -> Result<Events, Error> {
        let body = self.encode(body)?;
        self.events(self.send(Method::POST, path, body, headers)).await
    }

    fn encode<B: Serialize>(&self, body: &B) -> Result<Bytes, Error> {
        serde_json::to_vec(body).map(Bytes::from).map_err(|error| self.broken(&error))
    }

    async fn events(
        &self,
        head: impl Future<Output = Result<Response<Incoming>, Error>>,
    ) -> Result<Events, Error> {
        let response = tokio::time::timeout(HEAD_WITHIN, head).await.map_err(|_| Error::Broken {
            url: self.base_url.to_string(),
            cause: format!("no answer within {} s", HEAD_WITHIN.as_secs()),
        })??;
        Ok(Events {
            body: response.into_body(),
            decoder: SseDecoder::default(),
            url: self.base_url.clone(),
            last_frame: Instant::now(),
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &[(HeaderName, String)],
    ) -> Result<Response<Incoming>, Error> {
        let has_body = method != Method::GET;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base_url))
            .body(Full::new(body))
            .map_err(|error| self.broken(&error))?;
        *request.headers_mut() = self.headers.clone();
        if has_body {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                request.headers_mut().insert(name, value);
            }
        }
        let response = self.client.request(request).await.map_err(|error| {
            if error.is_connect() {
                Error::Unreachable { url: self.base_url.to_string(), cause: chain(&error) }
            } else {
                self.broken(&error)
            }
        })?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, Error> {
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| Error::Broken { url: self.base_url.to_string(), cause: error.to_string() })
    }

    async fn read<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, Error> {
        let body = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.broken(&error))
    }

    /// The envelope of an answer that is an error; something else in the way (a proxy, say) may have written it.
    async fn refusal(&self, response: Response<Incoming>) -> Error {
        let status = response.status();
        let body = match self.body(response).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        serde_json::from_slice::<ErrorEnvelope>(&body)
            .map_or_else(|_| self.foreign_refusal(status), |envelope| Error::Api(envelope.error))
    }

    fn foreign_refusal(&self, status: StatusCode) -> Error {
        Error::Broken {
            url: self.base_url.to_string(),
            cause: format!("HTTP {status} without rbee's error body"),
        }
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        Error::Broken { url: self.base_url.to_string(), cause: chain(error) }
    }
}

/// An error and its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Events as they come. Dropping them closes the connection.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    decoder: SseDecoder,
    url: Arc<str>,
    /// Kept here and not in the call, since callers give up waiting and come back.
    last_frame: Instant,
}

impl Events {
    /// The next event, or `None` at the end of the stream. May be cancelled without losing an event.
    pub async fn next(&mut self) -> Result<Option<RawEvent>, Error> {
        loop {
            if let Some(event) =
                self.decoder.next_event().map_err(|error: SseError| self.broken(&error.to_string()))?
            {
                return Ok(Some(event));
            }
            let frame = tokio::time::timeout_at(self.last_frame + STREAM_SILENCE, self.body.frame())
                .await
                .map_err(|_| self.broken("nothing came for 30 s, not even a keep-alive"))?;
            self.last_frame = Instant::now();
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.broken(&chain(&error))),
                Some(Ok(frame)) => {
                    if let Some(chunk) = frame.data_ref() {
                        self.decoder.push(chunk);
                    }
                }
            }
        }
    }

    /// The next event that `parse` knows; unknown ones are passed over.
    pub async fn next_as<T>(
        &mut self,
        parse: impl Fn(&str, &str) -> serde_json::Result<Option<T>>,
    ) -> Result<Option<(T, Option<String>)>, Error> {
        while let Some(event) = self.next().await? {
            let parsed = parse(&event.name, &event.data).map_err(|error| self.broken(&error.to_string()))?;
            if let Some(parsed) = parsed {
                return Ok(Some((parsed, event.id)));
            }
        }
        Ok(None)
    }

    fn broken(&self, cause: &str) -> Error {
        Error::Broken { url: self.url.to_string(), cause: cause.to_owned() }
    }
}
