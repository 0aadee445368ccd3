//! Listening, and stopping to listen.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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

/// Serves until `stop` is cancelled, then lets running requests end for at most `grace`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    grace: Duration,
) -> io::Result<()> {
    // Without TCP_NODELAY a small server-sent event waits up to 40 ms for the reader's acknowledgement.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let server = axum::serve(listener, router.into_make_service())
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    let expired = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        result = server => result,
        () = expired => {
            tracing::warn!(grace_ms = grace.as_millis() as u64, "connections were still open at the end of the grace period");
            Ok(())
        }
    }
}
