//! How bytes reach a peer: TCP here, an SSH channel where a hive is remote. Nothing above knows which.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Connecting takes at most this long; a peer on loopback or behind a live SSH session answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of any transport.
pub type BoxIo = Box<dyn Io>;

/// A connection that is being made.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<BoxIo>> + Send>>;

/// A way to reach peers.
pub trait Transport: Send + Sync + 'static {
    /// Connects to a host and port as the far end of the transport sees them.
    fn connect(&self, host: &str, port: u16) -> Connecting;
}

/// Plain TCP from this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Transport for Tcp {
    fn connect(&self, host: &str, port: u16) -> Connecting {
        let address = (host.trim_matches(['[', ']']).to_owned(), port);
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxIo)
        })
    }
}

/// Lets hyper's client connect through a transport.
#[derive(Clone)]
pub(crate) struct Connector(pub(crate) Arc<dyn Transport>);

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.connect(uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
        Box::pin(async move {
            let io = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection within 5 s"))??;
            Ok(Stream(TokioIo::new(io)))
        })
    }
}

/// A connection as hyper's client wants to see it.
pub(crate) struct Stream(TokioIo<BoxIo>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
