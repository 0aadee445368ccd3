//! Bodies: where they end, and what is done with the connection then.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::{Buf, BytesMut};
use httparse::{Status, parse_chunk_size};

use super::{Connection, Peer, Pool, broken, closed};

/// The line before a chunk, or one after the last, may be this long.
const LINE_MAX_BYTES: usize = 8 * 1024;

/// How the end of a body is known, and how far away it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// The end of the connection is its end.
    UntilClose,
    Chunked(Chunk),
}

/// What comes next of a body in chunks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Chunk {
    Size,
    /// So many bytes, and the line's end after them.
    Data(u64),
    /// Lines after the last chunk, up to an empty one.
    Trailer,
}

/// What a buffer holds of a body.
enum Step {
    Part(BytesMut),
    More,
    End,
}

impl Framing {
    #[cfg(test)]
    pub(super) const fn chunked() -> Self {
        Self::Chunked(Chunk::Size)
    }

    /// What a head's fields say. Chunks win over a length, as the standard wants it.
    pub(super) fn of<'a>(
        mut encodings: impl Iterator<Item = &'a [u8]>,
        mut lengths: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<Self> {
        if let Some(encoding) = encodings.next() {
            let is_chunked = encoding.eq_ignore_ascii_case(b"chunked") && encodings.next().is_none();
            let unknown = || broken("the answer has an encoding that we did not ask for");
            return is_chunked.then_some(Self::Chunked(Chunk::Size)).ok_or_else(unknown);
        }
        let Some(length) = lengths.next() else { return Ok(Self::UntilClose) };
        let number = str::from_utf8(length).ok().filter(|_| lengths.all(|other| other == length));
        let number = number.and_then(|number| number.parse().ok());
        number.map(Self::Length).ok_or_else(|| broken("the answer's length is not valid"))
    }

    /// Takes what comes next from the front of the buffer.
    fn step(&mut self, buffer: &mut BytesMut) -> io::Result<Step> {
        loop {
            match self {
                Self::Length(0) => return Ok(Step::End),
                Self::Length(left) | Self::Chunked(Chunk::Data(left @ 1..)) => {
                    let length = (buffer.len() as u64).min(*left);
                    *left -= length;
                    return Ok(part(buffer, length as usize));
                }
                Self::UntilClose => return Ok(part(buffer, buffer.len())),
                Self::Chunked(Chunk::Data(0)) => {
                    if buffer.len() < 2 {
                        return Ok(Step::More);
                    }
                    if !buffer.starts_with(b"\r\n") {
                        return Err(broken("a chunk does not end where it should"));
                    }
                    buffer.advance(2);
                    *self = Self::Chunked(Chunk::Size);
                }
                Self::Chunked(Chunk::Size) => match parse_chunk_size(buffer) {
                    Ok(Status::Complete((used, size))) => {
                        buffer.advance(used);
                        *self = Self::Chunked(if size == 0 { Chunk::Trailer } else { Chunk::Data(size) });
                    }
                    Ok(Status::Partial) if buffer.len() <= LINE_MAX_BYTES => return Ok(Step::More),
                    Ok(Status::Partial) | Err(_) => return Err(broken("a chunk has no valid size")),
                },
                Self::Chunked(Chunk::Trailer) => match buffer.iter().position(|byte| *byte == b'\n') {
                    Some(end) => {
                        let is_empty = matches!(&buffer[..end], b"" | b"\r");
                        buffer.advance(end + 1);
                        if is_empty {
                            *self = Self::Length(0);
                        }
                    }
                    None if buffer.len() <= LINE_MAX_BYTES => return Ok(Step::More),
                    None => return Err(broken("a trailer is too long")),
                },
            }
        }
    }
}

fn part(buffer: &mut BytesMut, length: usize) -> Step {
    if length == 0 { Step::More } else { Step::Part(buffer.split_to(length)) }
}

/// An answer's body as it comes. Dropping it before its end closes the connection; after its end, the connection serves the
/// next request.
pub(crate) struct Body {
    connection: Option<Connection>,
    framing: Framing,
    keeps_open: bool,
    home: (Arc<Pool>, Arc<Peer>),
}

impl Body {
    pub(super) const fn new(
        connection: Connection,
        framing: Framing,
        keeps_open: bool,
        home: (Arc<Pool>, Arc<Peer>),
    ) -> Self {
        Self { connection: Some(connection), framing, keeps_open, home }
    }

    /// The next bytes; `None` after the last. May be cancelled without losing any.
    pub(crate) async fn part(&mut self) -> io::Result<Option<BytesMut>> {
        poll_fn(|context| {
            let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
            loop {
                match self.framing.step(&mut connection.buffer)? {
                    Step::Part(part) => return Poll::Ready(Ok(Some(part))),
                    Step::End => break,
                    Step::More => match ready!(connection.poll_fill(context))? {
                        0 if self.framing == Framing::UntilClose => break,
                        0 => return Poll::Ready(Err(closed("the connection was closed in the middle"))),
                        _ => {}
                    },
                }
            }
            if let Some(connection) = self.connection.take().filter(|_| self.keeps_open) {
                self.home.0.keep(&self.home.1, connection);
            }
            Poll::Ready(Ok(None))
        })
        .await
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("framing", &self.framing).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNKS: &[u8] = b"5;note=1\r\nhello\r\nb\r\n, you there\r\n0\r\nx-sum: 1\r\n\r\nHTTP/1.1";

    /// The body that comes of these reads, and what is left behind it.
    fn read(mut framing: Framing, reads: &[&[u8]]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut buffer, mut body, mut reads) = (BytesMut::new(), Vec::new(), reads.iter());
        loop {
            match framing.step(&mut buffer)? {
                Step::Part(part) => body.extend_from_slice(&part),
                Step::End => {
                    buffer.extend(reads.copied().flatten());
                    return Ok((body, buffer.to_vec()));
                }
                Step::More => match reads.next() {
                    Some(bytes) => buffer.extend_from_slice(bytes),
                    None => return Err(closed("the reads are over")),
                },
            }
        }
    }

    proptest! {
        #[test]
        fn chunks_may_be_read_in_any_pieces(size in 1_usize..60) {
            let reads: Vec<&[u8]> = CHUNKS.chunks(size).collect();
            let (body, rest) = read(Framing::chunked(), &reads).unwrap();
            prop_assert_eq!((body.as_slice(), rest.as_slice()), (&b"hello, you there"[..], &b"HTTP/1.1"[..]));
        }

        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(Framing::chunked(), &[&bytes]);
        }
    }

    #[test]
    fn a_length_is_kept_and_a_broken_chunk_is_refused() {
        assert_eq!(read(Framing::Length(3), &[b"ab", b"cd"]).unwrap(), (b"abc".to_vec(), b"d".to_vec()));
        for nonsense in [&b"x\r\n"[..], b"1\r\nabc", b"fffffffffffffffff\r\n", &[b'1'; LINE_MAX_BYTES + 1]] {
            let error = read(Framing::chunked(), &[nonsense]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{}", nonsense.escape_ascii());
        }
    }
}
