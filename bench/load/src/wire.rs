//! HTTP/1.1 as far as a gateway speaks it with its clients and workers: heads, bodies of a known length, chunks.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A head is smaller than this, and so is a chunk.
const MAX_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 4096;

/// A connection, and what came over it and was not used yet.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

/// What a message begins with.
#[derive(Debug, PartialEq)]
pub struct Head {
    /// The second word of the first line: a request's path, an answer's status.
    pub subject: String,
    /// When to come again, as a refusal says.
    pub retry_after_s: Option<u64>,
    framing: Framing,
}

/// How a body's end is known.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Framing {
    Length(usize),
    Chunked,
}

impl Connection {
    /// Dials.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(address).await?)
    }

    /// Of a socket that is connected.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next message's head; `None` where the peer has closed between two messages.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                return Head::parse(&head).map(Some).ok_or_else(|| broken("a head makes no sense"));
            }
            match self.fill().await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.buffer.is_empty() => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A whole body.
    pub async fn body(&mut self, head: &Head) -> io::Result<Bytes> {
        match head.framing {
            Framing::Length(length) => self.take(length).await,
            Framing::Chunked => {
                let mut body = BytesMut::new();
                while let Some(part) = self.part().await? {
                    body.extend_from_slice(&part);
                }
                Ok(body.freeze())
            }
        }
    }

    /// The next chunk of a body that comes in chunks; `None` after its proper end.
    pub async fn part(&mut self) -> io::Result<Option<Bytes>> {
        let line = loop {
            match find(&self.buffer, b"\r\n") {
                Some(end) => break self.buffer.split_to(end + 2),
                None => self.fill().await?,
            }
        };
        let length =
            std::str::from_utf8(&line).ok().and_then(|line| usize::from_str_radix(line.trim(), 16).ok());
        let length = length.ok_or_else(|| broken("a chunk has no length"))?;
        let mut chunk = self.take(length + 2).await?;
        chunk.truncate(length);
        Ok((length > 0).then_some(chunk))
    }

    async fn take(&mut self, length: usize) -> io::Result<Bytes> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.copy_to_bytes(length))
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.buffer.len() > MAX_BYTES {
            return Err(broken("a message is too large"));
        }
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Head {
    fn parse(head: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
        let subject = lines.next()?.split(' ').nth(1)?.to_owned();
        let (mut framing, mut retry_after_s) = (Framing::Length(0), None);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                framing = Framing::Length(value.trim().parse().ok()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Framing::Chunked;
            } else if name.eq_ignore_ascii_case("retry-after") {
                retry_after_s = value.trim().parse().ok();
            }
        }
        Some(Self { subject, retry_after_s, framing })
    }
}

/// Appends a chunk of a body that is sent in chunks.
pub fn push_chunk(bytes: &mut Vec<u8>, content: &str) {
    bytes.extend_from_slice(format!("{:x}\r\n{content}\r\n", content.len()).as_bytes());
}

/// What such a body ends with.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_head_tells_its_subject_and_how_its_body_ends() {
        let head = Head::parse(b"POST /v1/execute HTTP/1.1\r\nContent-Length: 7\r\n\r\n");
        assert_eq!(
            head,
            Some(Head { subject: "/v1/execute".into(), retry_after_s: None, framing: Framing::Length(7) })
        );
        let head = Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!(
            head,
            Some(Head { subject: "200".into(), retry_after_s: None, framing: Framing::Chunked })
        );
    }

    #[tokio::test]
    async fn chunks_come_as_they_were_sent_and_a_connection_serves_again() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut near = Connection::open(listener.local_addr().unwrap()).await.unwrap();
        let mut far = Connection::new(listener.accept().await.unwrap().0).unwrap();
        let mut sent = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        push_chunk(&mut sent, "a sentence that is longer than fifteen signs");
        push_chunk(&mut sent, "\r\n\r\n");
        sent.extend_from_slice(LAST_CHUNK);
        for byte in &sent {
            far.write(&[*byte]).await.unwrap();
        }
        assert_eq!(near.head().await.unwrap().unwrap().subject, "200");
        assert_eq!(near.part().await.unwrap().unwrap(), "a sentence that is longer than fifteen signs");
        assert_eq!(near.part().await.unwrap().unwrap(), "\r\n\r\n");
        assert_eq!(near.part().await.unwrap(), None);
        far.write(&sent).await.unwrap();
        drop(far);
        let head = near.head().await.unwrap().unwrap();
        assert_eq!(near.body(&head).await.unwrap().len(), 48);
        assert_eq!(near.head().await.unwrap(), None);
    }
}
