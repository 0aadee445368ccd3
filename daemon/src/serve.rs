//! Listening, and stopping to listen.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::driven::Driven;

/// The head of a request comes within this time, on a connection that waits for its next one too: longer than our own
/// clients keep such a connection, so that none is closed while they take it up again.
const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// A peer that speaks HTTP/2 and is silent is asked this often whether it is there, and has this long to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Requests of one HTTP/2 connection at once.
const CONCURRENT_STREAMS_MAX: u32 = 1024;
/// Headers of one HTTP/2 request.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// What a connection begins with whose peer speaks HTTP/2 (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A beginning of it is looked at again after this time.
const PEEK_PAUSE: Duration = Duration::from_millis(10);
/// Where no connection can be accepted, for lack of descriptors as a rule, the next try is so much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds an address; port 0 takes a free one. The error names the address and what to do.
pub async fn bind(ip: IpAddr, port: u16) -> io::Result<(TcpListener, SocketAddr)> {
    let address = SocketAddr::new(ip, port);
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let advice = if error.kind() == io::ErrorKind::AddrInUse {
            "; another process has it: stop that one, or choose another port with --port (0 takes a free one)"
        } else {
            ""
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}{advice}"))
    })?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Serves HTTP/1.1 and HTTP/2 until `stop` is cancelled, then lets running requests end for at most `grace`.
pub async fn serve<S>(listener: TcpListener, service: S, stop: CancellationToken, grace: Duration)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let builder = protocols();
    let connections = GracefulShutdown::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Of what concerns one connection, the peer that closed it already knows.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
                {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        set_nodelay(&stream);
        let service = TowerToHyperService::new(service.clone());
        let (builder, watcher, stop) = (builder.clone(), connections.watcher(), stop.clone());
        tokio::spawn(async move {
            // Nothing else bounds the time until a peer has said which protocol it speaks.
            let speaks = tokio::time::timeout(HEAD_WITHIN, first_word(&stream));
            let Some(Ok(Ok(()))) = stop.run_until_cancelled(speaks).await else { return };
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = Driven::new(watcher.watch(connection.into_owned())).await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(grace, connections.shutdown()).await.is_err() {
        tracing::warn!(
            grace_ms = grace.as_millis() as u64,
            "connections were still open at the end of the grace period"
        );
    }
}

/// Waits until what has come is no mere beginning of what HTTP/2 begins with.
async fn first_word(stream: &TcpStream) -> io::Result<()> {
    let mut word = [0; HTTP2_PREFACE.len()];
    loop {
        stream.readable().await?;
        let length = stream.peek(&mut word).await?;
        if length == 0 || length == word.len() || word[..length] != HTTP2_PREFACE[..length] {
            return Ok(());
        }
        // The kernel does not tell of a second byte while the first is unread.
        tokio::time::sleep(PEEK_PAUSE).await;
    }
}

fn protocols() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX);
    builder
}

/// Without TCP_NODELAY a small server-sent event waits up to 40 ms for the reader's acknowledgement.
fn set_nodelay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
}
