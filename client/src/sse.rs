//! Reading server-sent events out of chunks that break anywhere.

use bytes::{Buf, Bytes, BytesMut};

/// One event as it came over the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawEvent {
    /// The `event:` line; "message" where there was none.
    pub name: String,
    /// The `id:` line.
    pub id: Option<String>,
    /// The `data:` lines, joined by line breaks.
    pub data: String,
}

/// An event may be this large; a peer that sends more is broken.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// What is wrong with a stream of events.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SseError {
    /// More than [`MAX_EVENT_BYTES`] without an end.
    #[error("an event is larger than 16 MiB")]
    TooLarge,
    /// Server-sent events are UTF-8 by definition.
    #[error("an event is not valid UTF-8")]
    NotUtf8,
}

/// Collects chunks and gives out events.
#[derive(Debug, Default)]
pub struct SseDecoder {
    buffer: BytesMut,
    /// Bytes at the start of the buffer that are known to hold no line break.
    searched: usize,
    event: RawEvent,
    has_data: bool,
}

impl SseDecoder {
    /// Takes the next chunk of the body.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next complete event. Comments and events without data are passed over.
    pub fn next_event(&mut self) -> Result<Option<RawEvent>, SseError> {
        while let Some(line) = self.next_line()? {
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if std::mem::take(&mut self.has_data) {
                    return Ok(Some(named(event)));
                }
                continue;
            }
            let line = std::str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            self.take_field(field, value.strip_prefix(' ').unwrap_or(value))?;
        }
        Ok(None)
    }

    fn take_field(&mut self, field: &str, value: &str) -> Result<(), SseError> {
        match field {
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            "event" => value.clone_into(&mut self.event.name),
            "id" => self.event.id = Some(value.to_owned()),
            _ => {}
        }
        if self.event.data.len() > MAX_EVENT_BYTES { Err(SseError::TooLarge) } else { Ok(()) }
    }

    /// The next line without its end; lines end with \n or \r\n, as every server of ours and of others writes them.
    fn next_line(&mut self) -> Result<Option<Bytes>, SseError> {
        let Some(offset) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return if self.searched > MAX_EVENT_BYTES { Err(SseError::TooLarge) } else { Ok(None) };
        };
        let mut line = self.buffer.split_to(self.searched + offset).freeze();
        self.buffer.advance(1);
        self.searched = 0;
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        Ok(Some(line))
    }
}

fn named(mut event: RawEvent) -> RawEvent {
    if event.name.is_empty() {
        "message".clone_into(&mut event.name);
    }
    event
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = ": hello\n\nevent: token\nid: 3\ndata: {\"token\":\"é\"}\n\ndata: a\r\ndata: b\r\n\r\nevent: empty\n\ndata:[DONE]\n\n";

    fn decode(chunks: impl Iterator<Item = Vec<u8>>) -> Vec<RawEvent> {
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.push(&chunk);
            while let Some(event) = decoder.next_event().unwrap() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let events = decode(std::iter::once(STREAM.as_bytes().to_vec()));
        let seen: Vec<_> =
            events.iter().map(|e| (e.name.as_str(), e.id.as_deref(), e.data.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("token", Some("3"), "{\"token\":\"é\"}"),
                ("message", None, "a\nb"),
                ("message", None, "[DONE]")
            ]
        );
    }

    proptest! {
        #[test]
        fn chunks_may_break_anywhere(size in 1_usize..40) {
            let whole = decode(std::iter::once(STREAM.as_bytes().to_vec()));
            prop_assert_eq!(decode(STREAM.as_bytes().chunks(size).map(<[u8]>::to_vec)), whole);
        }
    }
}
