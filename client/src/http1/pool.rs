//! Connections that are kept for the next request to the same peer.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::StatusCode;
use tokio::time::Instant;

use super::{Body, Connection};
use crate::transport::Transport;

/// Connecting takes at most this long; a peer on loopback or behind a live SSH session answers at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A connection that nobody has used for this long is closed.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// Whom a connection leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection could be made.
    Unreachable(io::Error),
    /// The connection broke, or what came over it makes no sense.
    Broken(io::Error),
}

/// All connections over one transport that no request uses now.
pub(crate) struct Pool {
    transport: Arc<dyn Transport>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Of each peer, the one that was used last comes last.
    connections: HashMap<Arc<Peer>, Vec<(Instant, Connection)>>,
    /// Whether a task is there that closes what has been idle for too long.
    is_watched: bool,
}

impl Pool {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, idle: Mutex::default() }
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        head: Bytes,
        body: Bytes,
    ) -> Result<(StatusCode, Body), Failure> {
        let mut connection = match self.kept(peer) {
            Some(connection) => connection,
            None => self.connect(peer).await.map_err(Failure::Unreachable)?,
        };
        let head = connection.ask(head.chain(body)).await.map_err(Failure::Broken)?;
        let home = (self.clone(), peer.clone());
        Ok((head.status, Body::new(connection, head.framing, head.keeps_open, home)))
    }

    async fn connect(&self, peer: &Peer) -> io::Result<Connection> {
        let connecting = self.transport.connect(&peer.host, peer.port);
        let io = tokio::time::timeout(CONNECT_WITHIN, connecting)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection within 5 s"))??;
        Ok(Connection::new(io))
    }

    /// A connection that was used lately, and that the peer has not closed since.
    fn kept(&self, peer: &Peer) -> Option<Connection> {
        let mut idle = self.idle();
        let connections = idle.connections.get_mut(peer)?;
        while let Some((since, mut connection)) = connections.pop() {
            if since.elapsed() < IDLE_MAX && connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Takes a connection whose last answer has come to its end.
    pub(super) fn keep(self: &Arc<Self>, peer: &Arc<Peer>, connection: Connection) {
        let mut idle = self.idle();
        idle.connections.entry(peer.clone()).or_default().push((Instant::now(), connection));
        if !std::mem::replace(&mut idle.is_watched, true) {
            tokio::spawn(close_idle(Arc::downgrade(self)));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what nobody uses, until there is nothing left to watch.
async fn close_idle(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_MAX / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle();
        idle.connections.retain(|_, connections| {
            connections.retain(|(since, _)| since.elapsed() < IDLE_MAX);
            !connections.is_empty()
        });
        if idle.connections.is_empty() {
            idle.is_watched = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc;

    use super::*;
    use crate::transport::{BoxIo, Connecting};

    /// Hands the far end of each connection to the test.
    struct Wires(mpsc::UnboundedSender<DuplexStream>);

    impl Transport for Wires {
        fn connect(&self, _: &str, _: u16) -> Connecting {
            let (near, far) = duplex(1024);
            self.0.send(far).unwrap();
            Box::pin(async { Ok(Box::new(near) as BoxIo) })
        }
    }

    fn pool() -> (Arc<Pool>, Arc<Peer>, mpsc::UnboundedReceiver<DuplexStream>) {
        let (sender, wires) = mpsc::unbounded_channel();
        let peer = Peer { host: "peer".into(), port: 1 };
        (Arc::new(Pool::new(Arc::new(Wires(sender)))), Arc::new(peer), wires)
    }

    async fn ask(pool: &Arc<Pool>, peer: &Arc<Peer>) -> Body {
        pool.ask(peer, Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n"), Bytes::new()).await.unwrap().1
    }

    async fn answer(far: &mut DuplexStream) {
        let mut request = [0; 18];
        far.read_exact(&mut request).await.unwrap();
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_serves_again_once_its_answer_was_read() {
        let (pool, peer, mut wires) = pool();
        let mut first = None;
        for _ in 0..3 {
            let answering = async {
                if let Ok(far) = wires.try_recv() {
                    assert!(first.replace(far).is_none(), "one connection is enough");
                }
                answer(first.as_mut().unwrap()).await;
            };
            let (mut body, ()) = tokio::join!(ask(&pool, &peer), answering);
            assert_eq!(body.part().await.unwrap().unwrap(), "ok");
            assert_eq!(body.part().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_closes_its_connection() {
        let (pool, peer, mut wires) = pool();
        let answering = async {
            let mut far = wires.recv().await.unwrap();
            answer(&mut far).await;
            far
        };
        let (body, mut far) = tokio::join!(ask(&pool, &peer), answering);
        drop(body);
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_idle_or_closed_is_not_used() {
        let (pool, peer, mut wires) = pool();
        let near = || Connection::new(Box::new(duplex(1).0));
        // The far end is gone already.
        pool.keep(&peer, near());
        assert!(pool.kept(&peer).is_none());
        let (open, mut far) = duplex(1);
        pool.keep(&peer, Connection::new(Box::new(open)));
        tokio::time::sleep(IDLE_MAX * 2).await;
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "it was closed");
        assert!(pool.kept(&peer).is_none());
        assert!(!pool.idle().is_watched);
        assert!(wires.try_recv().is_err());
    }
}
