//! Request bodies: read whole, within limits of size and time, and unpacked where they are packed.

use std::io::Read;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use daemon::http::Failure;
use futures::StreamExt;
use protocol::{ApiError, ErrorCode};
use tokio::time::{Instant, timeout, timeout_at};

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    /// Bytes, before and after unpacking.
    pub(super) bytes: usize,
    /// Time from the request's head to the body's end.
    pub(super) within: Duration,
}

/// What nobody wants is read and thrown away for this long: who is cut off while writing never reads the answer.
const DISCARD_WITHIN: Duration = Duration::from_secs(5);

/// Hands on a request whose body is there.
pub(super) async fn read(
    limits: BodyLimits,
    request: Request,
    inside: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    if request.body().is_end_stream() {
        return inside(request).await;
    }
    let (mut parts, body) = request.into_parts();
    match unpacked(&mut parts.headers, body, limits).await {
        Ok(bytes) => inside(Request::from_parts(parts, Body::from(bytes))).await,
        Err(error) => Failure(error).into_response(),
    }
}

/// Refuses a request whose body is of no use. It is thrown away first: on a connection that is left with a part of it, the
/// refusal may be lost, and so may the next request.
pub(super) async fn refuse(request: Request, error: ApiError) -> Response {
    discard(request.into_body().into_data_stream()).await;
    Failure(error).into_response()
}

async fn unpacked(headers: &mut HeaderMap, body: Body, limits: BodyLimits) -> Result<Bytes, ApiError> {
    let encoding = headers.remove(header::CONTENT_ENCODING);
    let packing = Packing::of(encoding.as_ref())?;
    let bytes = whole(body, limits).await?;
    let Some(packing) = packing else { return Ok(bytes) };
    headers.remove(header::CONTENT_LENGTH);
    let unpacking = tokio::task::spawn_blocking(move || packing.unpack(&bytes, limits.bytes));
    unpacking
        .await
        .unwrap_or_else(|_| Err(ApiError::new(ErrorCode::Internal, "The body's unpacking broke off.")))
}

async fn whole(body: Body, limits: BodyLimits) -> Result<Bytes, ApiError> {
    let deadline = Instant::now() + limits.within;
    let announced = body.size_hint().lower();
    let mut chunks = body.into_data_stream();
    if announced > limits.bytes as u64 {
        discard(chunks).await;
        return Err(too_large(limits.bytes));
    }
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    loop {
        let chunk = timeout_at(deadline, chunks.next()).await.map_err(|_| too_slow(limits))?;
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(|_| {
            ApiError::new(ErrorCode::InvalidRequest, "The request body could not be read to its end.")
        })?;
        // A body that comes in one piece, as most do, is not copied.
        match first.take() {
            None if joined.is_empty() => first = Some(chunk),
            None => joined.extend_from_slice(&chunk),
            Some(head) => {
                joined.reserve(announced as usize);
                joined.extend_from_slice(&head);
                joined.extend_from_slice(&chunk);
            }
        }
        if first.as_ref().map_or(joined.len(), Bytes::len) > limits.bytes {
            discard(chunks).await;
            return Err(too_large(limits.bytes));
        }
    }
    Ok(first.unwrap_or_else(|| joined.freeze()))
}

async fn discard(mut chunks: axum::body::BodyDataStream) {
    let discarding = async { while let Some(Ok(_)) = chunks.next().await {} };
    let _ = timeout(DISCARD_WITHIN, discarding).await;
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("The request body is larger than {} MiB, this server's limit.", limit >> 20);
    ApiError::new(ErrorCode::PayloadTooLarge, message)
}

fn too_slow(limits: BodyLimits) -> ApiError {
    let message = format!("The request body did not come to its end within {} s.", limits.within.as_secs());
    ApiError::new(ErrorCode::RequestTimeout, message)
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    fn of(encoding: Option<&HeaderValue>) -> Result<Option<Self>, ApiError> {
        let Some(encoding) = encoding else { return Ok(None) };
        match encoding.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "zstd" => Ok(Some(Self::Zstd)),
            _ => {
                let message = "The body's encoding is not supported; gzip and zstd are.";
                Err(ApiError::new(ErrorCode::UnsupportedMediaType, message)
                    .with_action("Send the body as it is."))
            }
        }
    }

    /// No more is unpacked than the limit and a byte, whatever the body claims to hold.
    fn unpack(self, packed: &[u8], limit: usize) -> Result<Bytes, ApiError> {
        let mut unpacked = Vec::new();
        let read = match self {
            Self::Gzip => {
                flate2::read::MultiGzDecoder::new(packed).take(limit as u64 + 1).read_to_end(&mut unpacked)
            }
            Self::Zstd => unpack_frames(packed, limit, &mut unpacked),
        };
        match read {
            Err(_) => Err(ApiError::new(
                ErrorCode::InvalidRequest,
                "The request body cannot be unpacked by the encoding that its header names.",
            )),
            Ok(_) if unpacked.len() > limit => Err(too_large(limit)),
            Ok(_) => Ok(unpacked.into()),
        }
    }
}

/// A body may be several frames, one after the other, as parallel encoders write them.
fn unpack_frames(mut packed: &[u8], limit: usize, unpacked: &mut Vec<u8>) -> std::io::Result<usize> {
    while !packed.is_empty() && unpacked.len() <= limit {
        let left = (limit + 1 - unpacked.len()) as u64;
        let decoder = ruzstd::decoding::StreamingDecoder::new(&mut packed).map_err(std::io::Error::other)?;
        decoder.take(left).read_to_end(unpacked)?;
    }
    Ok(unpacked.len())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures::stream;

    use super::*;

    const LIMITS: BodyLimits = BodyLimits { bytes: 1 << 20, within: Duration::from_millis(50) };

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn packed_bodies_are_unpacked_up_to_the_limit() {
        for (packing, pack) in [(Packing::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (Packing::Zstd, zstd)] {
            assert_eq!(packing.unpack(&pack(b"{\"a\": 1}"), 100).unwrap(), "{\"a\": 1}");
            let parts = [pack(b"{\"a\":"), pack(b" 1}")].concat();
            assert_eq!(packing.unpack(&parts, 100).unwrap(), "{\"a\": 1}");
            let bomb = pack(&vec![b' '; 4 << 20]);
            assert!(bomb.len() < LIMITS.bytes / 8, "{packing:?}: {}", bomb.len());
            assert_eq!(packing.unpack(&bomb, LIMITS.bytes).unwrap_err().code, ErrorCode::PayloadTooLarge);
            for broken in [&b"not packed"[..], &pack(b"cut off in the middle")[..12]] {
                assert_eq!(packing.unpack(broken, 100).unwrap_err().code, ErrorCode::InvalidRequest);
            }
        }
    }

    #[tokio::test]
    async fn bodies_have_limits_of_size_and_time() {
        let pieces = |count: usize| {
            let piece = || Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 1 << 18]));
            Body::from_stream(stream::iter((0..count).map(move |_| piece())))
        };
        assert_eq!(whole(pieces(4), LIMITS).await.unwrap().len(), 1 << 20);
        assert_eq!(whole(pieces(5), LIMITS).await.unwrap_err().code, ErrorCode::PayloadTooLarge);
        let announced = Body::from(vec![b'x'; LIMITS.bytes + 1]);
        assert_eq!(whole(announced, LIMITS).await.unwrap_err().code, ErrorCode::PayloadTooLarge);
        let endless = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(whole(endless, LIMITS).await.unwrap_err().code, ErrorCode::RequestTimeout);
    }
}
