//! How bytes reach a peer: TCP here, an SSH channel where a hive is remote. Nothing above knows which.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

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
