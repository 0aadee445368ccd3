//! The HTTP that all typed clients speak: JSON out, JSON or events back, errors in the envelope.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use protocol::{ApiError, ErrorCode, ErrorEnvelope};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::http1::{Body, Failure, Peer, Pool};
use crate::sse::{RawEvent, SseDecoder, SseError};
use crate::transport::{Tcp, Transport};

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
    pool: Arc<Pool>,
    base_url: Arc<str>,
    /// Whom the base URL names; none if it is not one.
    peer: Option<Arc<Peer>>,
    /// The path of the base URL.
    base_path: Arc<str>,
    /// The headers of every request, as they are written.
    fields: String,
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
        Self::of(Arc::new(Pool::new(transport)), base_url)
    }

    /// Shows this token with every request.
    pub fn with_token(self, token: &str) -> Self {
        self.with_header(&header::AUTHORIZATION, &format!("Bearer {token}"))
    }

    fn of(pool: Arc<Pool>, base_url: &str) -> Self {
        let base_url = base_url.trim_end_matches('/');
        let base_path = base_url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
        let peer = peer(base_url);
        let mut fields = String::new();
        if let Some(Peer { host, port }) = &peer {
            write_field(&mut fields, &header::HOST, &format!("{host}:{port}"));
        }
        Self {
            pool,
            base_url: base_url.into(),
            peer: peer.map(Arc::new),
            base_path: base_path.into(),
            fields,
        }
    }

    /// Sends this header with every request; a value that cannot stand in a header is left out.
    pub fn with_header(mut self, name: &HeaderName, value: &str) -> Self {
        write_field(&mut self.fields, name, value);
        self
    }

    /// The same connections, speaking to another base URL with no headers of its own.
    pub fn at(&self, base_url: &str) -> Self {
        Self::of(self.pool.clone(), base_url)
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

    async fn events(&self, head: impl Future<Output = Result<Body, Error>>) -> Result<Events, Error> {
        let body = tokio::time::timeout(HEAD_WITHIN, head).await.map_err(|_| Error::Broken {
            url: self.base_url.to_string(),
            cause: format!("no answer within {} s", HEAD_WITHIN.as_secs()),
        })??;
        Ok(Events {
            body,
            decoder: SseDecoder::default(),
            url: self.base_url.clone(),
            last_part: Instant::now(),
        })
    }

    /// Sends a request; the body is that of an answer that is no error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &[(HeaderName, String)],
    ) -> Result<Body, Error> {
        let not_a_url = || Error::Unreachable {
            url: self.base_url.to_string(),
            cause: "not a URL that begins with http://".to_owned(),
        };
        let peer = self.peer.as_ref().ok_or_else(not_a_url)?;
        let head = self.head(&method, path, body.len(), headers)?;
        let (status, body) = self.pool.ask(peer, head, body).await.map_err(|failure| match failure {
            Failure::Unreachable(error) => {
                Error::Unreachable { url: self.base_url.to_string(), cause: chain(&error) }
            }
            Failure::Broken(error) => self.broken(&error),
        })?;
        if status.is_success() { Ok(body) } else { Err(self.refusal(status, body).await) }
    }

    fn head(
        &self,
        method: &Method,
        path: &str,
        body_length: usize,
        headers: &[(HeaderName, String)],
    ) -> Result<Bytes, Error> {
        let base_path = &*self.base_path;
        // What comes from outside, such as a job's id, may not end the line.
        path.parse::<PathAndQuery>().map_err(|error| self.broken(&error))?;
        let mut head = String::with_capacity(512);
        let fields = &*self.fields;
        // Writing to a string cannot fail.
        let _ = write!(head, "{method} {base_path}{path} HTTP/1.1\r\n{fields}");
        for (name, value) in headers {
            write_field(&mut head, name, value);
        }
        if method != Method::GET {
            let _ = write!(head, "content-type: application/json\r\ncontent-length: {body_length}\r\n");
        }
        head.push_str("\r\n");
        Ok(head.into())
    }

    async fn body(&self, mut body: Body) -> Result<BytesMut, Error> {
        let mut whole = BytesMut::new();
        while let Some(part) = body.part().await.map_err(|error| self.broken(&error))? {
            if whole.len() + part.len() > MAX_ANSWER_BYTES {
                let cause = format!("an answer is larger than {} MiB", MAX_ANSWER_BYTES >> 20);
                return Err(Error::Broken { url: self.base_url.to_string(), cause });
            }
            whole.unsplit(part);
        }
        Ok(whole)
    }

    async fn read<T: DeserializeOwned>(&self, body: Body) -> Result<T, Error> {
        let body = self.body(body).await?;
        serde_json::from_slice(&body).map_err(|error| self.broken(&error))
    }

    /// The envelope of an answer that is an error; something else in the way (a proxy, say) may have written it.
    async fn refusal(&self, status: StatusCode, body: Body) -> Error {
        let body = match self.body(body).await {
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

/// Writes a header, if its value can stand in one.
fn write_field(head: &mut String, name: &HeaderName, value: &str) {
    if HeaderValue::from_str(value).is_ok() {
        for part in [name.as_str(), ": ", value, "\r\n"] {
            head.push_str(part);
        }
    }
}

/// Whom a URL names.
fn peer(url: &str) -> Option<Peer> {
    let url: Uri = url.parse().ok()?;
    let host = url.host().filter(|_| url.scheme_str() == Some("http"))?;
    Some(Peer { host: host.to_owned(), port: url.port_u16().unwrap_or(80) })
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
    body: Body,
    decoder: SseDecoder,
    url: Arc<str>,
    /// Kept here and not in the call, since callers give up waiting and come back.
    last_part: Instant,
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
            let part = tokio::time::timeout_at(self.last_part + STREAM_SILENCE, self.body.part())
                .await
                .map_err(|_| self.broken("nothing came for 30 s, not even a keep-alive"))?;
            self.last_part = Instant::now();
            match part.map_err(|error| self.broken(&chain(&error)))? {
                Some(part) => self.decoder.push(&part),
                None => return Ok(None),
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
