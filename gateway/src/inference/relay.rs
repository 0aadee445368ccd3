//! Workers' events as answers in OpenAI's and Anthropic's shapes: whole, or as frames that are written as they come.

mod chat;
mod completion;
mod messages;
mod responses;
mod words;

use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use protocol::events::{End, Queued};
use protocol::{ApiError, ErrorEnvelope, TaskEvent};
use uuid::Uuid;

use crate::clock::unix_seconds;

pub use chat::{ChatWriter, chat_completion};
pub use completion::{CompletionWriter, best_choices, completion};
pub use messages::{MessageHead, MessageWriter, message};
pub use responses::{ResponseWriter, made_response, response};

/// What is the same in all chunks of a stream, and in an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// The answer's id.
    pub id: String,
    /// Seconds since 1970.
    pub created: i64,
    /// The model that answers.
    pub model: String,
    /// Which build answers.
    pub system_fingerprint: String,
}

impl Head {
    /// The head of a new answer whose id begins with `prefix`.
    pub fn new(prefix: &str, model: &str) -> Self {
        Self {
            id: format!("{prefix}-{}", Uuid::new_v4().simple()),
            created: unix_seconds(),
            model: model.to_owned(),
            system_fingerprint: format!("rbee-{}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// Writes the frames of one stream. What it tells of came from one run, or from several that are numbered from 0.
pub trait FrameWriter: Send + 'static {
    /// The bytes that an event of a run adds to the stream.
    fn write(&mut self, run: usize, event: &TaskEvent) -> Bytes;

    /// What a stream in which nothing happens shows of itself.
    fn keep_alive(&self) -> Bytes {
        comment("keep-alive")
    }

    /// Does what must be done before an end may be told, such as keeping the answer.
    fn before_end(&mut self, _end: &End) -> BoxFuture<'_, Result<(), ApiError>> {
        Box::pin(ready(Ok(())))
    }
}

/// A line that readers pass over and connections live by. A line break would end it and begin something else.
pub fn comment(text: &str) -> Bytes {
    format!(": {}\n\n", text.replace(['\r', '\n'], " ")).into()
}

/// The frame that ends a stream that went wrong; no [DONE] follows.
fn error_frame(error: &ApiError) -> Bytes {
    data(&ErrorEnvelope { error: error.clone() }).into()
}

/// What a waiting caller is told in comments.
pub fn waiting(event: &TaskEvent) -> Bytes {
    match event {
        TaskEvent::Queued(Queued { position, eta_ms: None }) => {
            comment(&format!("queue position={position}"))
        }
        TaskEvent::Queued(Queued { position, eta_ms: Some(eta_ms) }) => {
            comment(&format!("queue position={position} eta_ms={eta_ms}"))
        }
        TaskEvent::Narration(narration) => comment(&narration.message),
        _ => Bytes::new(),
    }
}

fn data(value: &impl serde::Serialize) -> String {
    format!("data: {}\n\n", serde_json::to_string(value).unwrap_or_default())
}

const DONE: &str = "data: [DONE]\n\n";

/// Where the text goes in a chunk that is written once and used for every token.
const SLOT: &str = "\u{0}";

/// A frame that is written once, to be filled with a text for every token.
#[derive(Debug)]
struct TokenFrame {
    before: String,
    after: String,
}

impl TokenFrame {
    /// Of a frame whose text is the slot.
    fn new(frame: &str) -> Self {
        let slot = serde_json::to_string(SLOT).unwrap_or_default();
        let (before, after) = frame.split_once(&slot).unwrap_or((frame, ""));
        Self { before: before.to_owned(), after: after.to_owned() }
    }

    /// The path of every token: one escape and one copy.
    fn with(&self, text: &str) -> Bytes {
        let mut frame = Vec::with_capacity(self.before.len() + text.len() + 8 + self.after.len());
        frame.extend_from_slice(self.before.as_bytes());
        if serde_json::to_writer(&mut frame, text).is_err() {
            return Bytes::new();
        }
        frame.extend_from_slice(self.after.as_bytes());
        frame.into()
    }
}

#[cfg(test)]
fn chunks(frames: &Bytes) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(frames).unwrap();
    let frames = text.split_terminator("\n\n").map(|frame| frame.strip_prefix("data: ").unwrap());
    frames.map(|frame| serde_json::from_str(frame).unwrap_or_else(|_| frame.into())).collect()
}
