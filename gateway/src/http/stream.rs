//! Answers of models as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use protocol::{ApiError, TaskEvent};
use tokio::time::{Instant, timeout, timeout_at};

use crate::inference::{FrameWriter, comment, waiting};

/// A stream's head waits this long for the worker, so that a refusal can still be an HTTP status.
const HEAD_WAITS: Duration = Duration::from_secs(2);
/// A silent stream shows this often that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Answers with all that a writer makes of the events of runs, each with its run's number.
pub(super) async fn streamed<S, W>(mut events: S, mut writer: W) -> Result<Response, ApiError>
where
    S: Stream<Item = (usize, TaskEvent)> + Send + Unpin + 'static,
    W: FrameWriter,
{
    let first = first_frames(&mut events, &mut writer).await?;
    let alive = writer.keep_alive();
    let rest = stream::unfold(Some((events, writer, alive)), async |state| {
        let (mut events, mut writer, mut silence) = state?;
        let event = match timeout(KEEP_ALIVE, events.next()).await {
            Ok(event) => settled(&mut writer, event?).await,
            Err(_) => return Some((silence.clone(), Some((events, writer, silence)))),
        };
        let frames = writer.write(event.0, &event.1);
        match event.1 {
            // An error that can no longer be a status is logged here; one that can is logged with the status.
            TaskEvent::Error(envelope) => {
                tracing::warn!(error = %envelope.error, "a stream ended with an error");
                return Some((frames, None));
            }
            // Who waits on is told the place again.
            TaskEvent::Queued(_) | TaskEvent::Narration(_) => silence = waiting(&event.1),
            TaskEvent::Started(_) => silence = writer.keep_alive(),
            _ => {}
        }
        Some((frames, Some((events, writer, silence))))
    });
    let frames = stream::iter([first]).chain(rest).map(Ok::<_, Infallible>);
    let head = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((head, Body::from_stream(frames)).into_response())
}

/// An event that is true: an end that cannot be made good is an error.
async fn settled<W: FrameWriter>(writer: &mut W, (run, event): (usize, TaskEvent)) -> (usize, TaskEvent) {
    let TaskEvent::End(end) = &event else { return (run, event) };
    match writer.before_end(end).await {
        Ok(()) => (run, event),
        Err(error) => (run, TaskEvent::Error(error.into())),
    }
}

/// What the stream begins with: all up to a worker's first word, or up to the time when the caller must hear something.
async fn first_frames<S, W>(events: &mut S, writer: &mut W) -> Result<Bytes, ApiError>
where
    S: Stream<Item = (usize, TaskEvent)> + Unpin,
    W: FrameWriter,
{
    let patience = Instant::now() + HEAD_WAITS;
    let mut frames = Vec::new();
    while let Ok(Some(event)) = timeout_at(patience, events.next()).await {
        let (run, event) = settled(writer, event).await;
        if let TaskEvent::Error(envelope) = event {
            return Err(envelope.error);
        }
        frames.extend_from_slice(&writer.write(run, &event));
        if !matches!(event, TaskEvent::Queued(_) | TaskEvent::Narration(_)) {
            return Ok(frames.into());
        }
    }
    frames.extend_from_slice(&comment("waiting for a worker"));
    Ok(frames.into())
}
