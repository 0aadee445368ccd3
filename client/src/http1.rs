//! HTTP/1.1, driven by whoever waits for the answer: between a token on a socket and the stream that passes it on there is no
//! task of the connection's own, and no channel. What HTTP means to our clients is said in `http`.

mod body;
mod pool;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::transport::BoxIo;
use body::Framing;

pub(crate) use body::Body;
pub(crate) use pool::{Failure, Peer, Pool};

/// An answer's head may be this large.
const HEAD_MAX_BYTES: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;
/// What a read has room for: some events, since a stream keeps this for as long as it lives.
const READ_BYTES: usize = 4096;

/// A connection, and what came over it that nobody has taken yet.
pub(crate) struct Connection {
    io: BoxIo,
    buffer: BytesMut,
}

/// What an answer begins with.
#[derive(Debug, PartialEq)]
struct Head {
    status: StatusCode,
    framing: Framing,
    /// Whether the connection serves another request once the body has ended.
    keeps_open: bool,
}

impl Connection {
    pub(crate) fn new(io: BoxIo) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// Whether the peer has neither closed it nor said what nobody asked for.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let reading = Pin::new(&mut self.io).poll_read(&mut Context::from_waker(Waker::noop()), &mut byte);
        // A task that has done its share is told that nothing is there, whatever is.
        let is_told_the_truth = tokio::task::coop::has_budget_remaining();
        self.buffer.is_empty() && reading.is_pending() && is_told_the_truth
    }

    /// Sends a request and reads the head of its answer.
    async fn ask(&mut self, mut request: impl Buf) -> io::Result<Head> {
        loop {
            let written = poll_fn(|context| self.poll_write(context, &mut request)).await;
            // A peer that answers and closes before it has read all still deserves to be heard.
            let head = match (self.head().await, written) {
                (Err(_), Err(error)) => return Err(error),
                (head, _) => head?,
            };
            if !head.status.is_informational() {
                return Ok(Head { keeps_open: head.keeps_open && !request.has_remaining(), ..head });
            }
        }
    }

    /// Writes all, or until the peer answers: it then has no use for the rest.
    fn poll_write(&mut self, context: &mut Context<'_>, request: &mut impl Buf) -> Poll<io::Result<()>> {
        while request.has_remaining() && self.buffer.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            let count = request.chunks_vectored(&mut slices);
            match Pin::new(&mut self.io).poll_write_vectored(context, &slices[..count]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => request.advance(written?),
                Poll::Pending => return self.poll_fill(context).map_ok(|_| ()),
            }
        }
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Reads what there is; 0 bytes are the end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(READ_BYTES);
        pin!(self.io.read_buf(&mut self.buffer)).poll(context)
    }

    /// The next head, of a final answer or of one that comes before it.
    async fn head(&mut self) -> io::Result<Head> {
        poll_fn(|context| {
            loop {
                match Head::take(&mut self.buffer)? {
                    Some(head) => return Poll::Ready(Ok(head)),
                    None if self.buffer.len() > HEAD_MAX_BYTES => {
                        return Poll::Ready(Err(broken("the answer's head is too large")));
                    }
                    None => {
                        if ready!(self.poll_fill(context))? == 0 {
                            return Poll::Ready(Err(closed(
                                "the connection was closed before an answer came",
                            )));
                        }
                    }
                }
            }
        })
        .await
    }
}

impl Head {
    /// Takes a head from the front of a buffer, if it is there as a whole.
    fn take(buffer: &mut BytesMut) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        let parsed =
            answer.parse(buffer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or_else(|| broken("the answer has no valid status"))?;
        let values = |name: &'static str| {
            let named = answer.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
            named.map(|header| header.value.trim_ascii())
        };
        let has_no_body = status.is_informational() || [204, 304].contains(&status.as_u16());
        let framing = if has_no_body {
            Framing::Length(0)
        } else {
            Framing::of(values("transfer-encoding"), values("content-length"))?
        };
        let closes = values("connection").any(|value| value.eq_ignore_ascii_case(b"close"));
        let keeps_open = answer.version == Some(1) && !closes && framing != Framing::UntilClose;
        buffer.advance(length);
        Ok(Some(Self { status, framing, keeps_open }))
    }
}

fn broken(cause: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

fn closed(cause: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, cause)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn head(text: &str) -> io::Result<Option<Head>> {
        Head::take(&mut BytesMut::from(text))
    }

    #[test]
    fn a_head_tells_how_the_body_ends_and_whether_the_connection_stays() {
        let chunked = head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ncontent-length: 3\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!((chunked.framing, chunked.keeps_open), (Framing::chunked(), true));
        let closing =
            head("HTTP/1.1 503 No\r\ncontent-length: 3\r\nconnection: close\r\n\r\n").unwrap().unwrap();
        assert_eq!((closing.framing, closing.keeps_open), (Framing::Length(3), false));
        let endless = head("HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap();
        assert_eq!((endless.framing, endless.keeps_open), (Framing::UntilClose, false));
        let old = head("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n").unwrap().unwrap();
        assert!(!old.keeps_open);
        assert_eq!(head("HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        for nonsense in [
            "no http",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        ] {
            assert!(head(nonsense).is_err(), "{nonsense}");
        }
        assert!(head("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn a_peer_that_answers_before_it_has_read_all_is_heard() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut connection = Connection::new(Box::new(near));
        let answering = async {
            far.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Large\r\ncontent-length: 0\r\n\r\n")
                .await
        };
        let request = bytes::Bytes::from(vec![b'x'; 1 << 20]);
        let (head, written) = tokio::join!(connection.ask(request), answering);
        written.unwrap();
        let head = head.unwrap();
        assert_eq!((head.status, head.keeps_open), (StatusCode::PAYLOAD_TOO_LARGE, false));
    }

    #[tokio::test]
    async fn an_interim_answer_ends_nothing() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut connection = Connection::new(Box::new(near));
        let mut request = vec![0; 1 << 20];
        let answering = async {
            far.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await?;
            far.read_exact(&mut request).await?;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
        };
        let body = bytes::Bytes::from(vec![b'x'; 1 << 20]);
        let (head, answered) = tokio::join!(connection.ask(body), answering);
        answered.unwrap();
        let head = head.unwrap();
        assert_eq!((head.status, head.keeps_open), (StatusCode::OK, true));
    }

    #[tokio::test]
    async fn a_connection_that_the_peer_has_closed_is_not_quiet() {
        let (near, far) = tokio::io::duplex(1024);
        let mut connection = Connection::new(Box::new(near));
        assert!(connection.is_quiet());
        drop(far);
        assert!(!connection.is_quiet());
    }
}
