//! Chat completions as a test sends and reads them.

use client::{Error, Events};
use serde_json::{Value, json};

use crate::MODEL;

/// How an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampled {
    /// In one piece.
    Whole,
    /// As a stream.
    Streamed,
}

/// A request's body.
pub fn chat_body(prompt: &str, max_tokens: u32, sampled: Sampled) -> Value {
    json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": sampled == Sampled::Streamed,
    })
}

/// A stream of chunks.
#[derive(Debug)]
pub struct ChatStream(Events);

impl ChatStream {
    pub(crate) fn new(events: Events) -> Self {
        Self(events)
    }

    /// The next frame's data: a chunk, an error, or `[DONE]` as a string.
    pub async fn next(&mut self) -> Result<Option<Value>, Error> {
        let Some(event) = self.0.next().await? else { return Ok(None) };
        Ok(Some(serde_json::from_str(&event.data).unwrap_or(Value::String(event.data))))
    }

    /// The text of the next frame that has some.
    pub async fn next_text(&mut self) -> String {
        loop {
            let frame = self.next().await.unwrap().expect("the stream ended without text");
            assert!(frame.get("error").is_none(), "{frame}");
            if let Some(text) = frame["choices"][0]["delta"]["content"].as_str()
                && !text.is_empty()
            {
                return text.to_owned();
            }
        }
    }

    /// All frames to the end. A connection that breaks ends them too.
    pub async fn rest(mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}
