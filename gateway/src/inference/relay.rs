//! A worker's events as chunks of an OpenAI stream, written as they come.

use bytes::Bytes;
use protocol::events::{FinishReason, TokenUsage};
use protocol::openai::chat::{ChatCompletionChunk, ChatFinishReason, ChunkChoice, Delta, Role, Usage};
use protocol::{ApiError, ErrorEnvelope, TaskEvent};

/// Where the text goes in a chunk that is written once and used for every token.
const SLOT: &str = "\u{0}";

/// Writes the frames of one stream.
pub struct ChunkWriter {
    frame: ChatCompletionChunk,
    /// The bytes of a token's frame before and after its text.
    token_frame: (String, String),
    include_usage: bool,
}

impl ChunkWriter {
    /// A writer for one answer.
    pub fn new(
        id: String,
        created: i64,
        model: String,
        system_fingerprint: String,
        include_usage: bool,
    ) -> Self {
        let frame = ChatCompletionChunk {
            id,
            object: "chat.completion.chunk".to_owned(),
            created,
            model,
            system_fingerprint,
            choices: Vec::new(),
            usage: include_usage.then_some(None),
        };
        let mut writer = Self { frame, token_frame: Default::default(), include_usage };
        let template = writer.choice(Delta { role: None, content: Some(SLOT.to_owned()) }, None);
        let slot = serde_json::to_string(SLOT).unwrap_or_default();
        if let Some((before, after)) = template.split_once(&slot) {
            writer.token_frame = (before.to_owned(), after.to_owned());
        }
        writer
    }

    /// The bytes that this event adds to the stream.
    pub fn write(&self, event: &TaskEvent) -> Bytes {
        match event {
            TaskEvent::Queued(queued) => comment(&format!("queue position={}", queued.position)),
            TaskEvent::Narration(narration) => comment(&narration.message),
            TaskEvent::Started(_) => {
                self.choice(Delta { role: Some(Role::Assistant), content: Some(String::new()) }, None).into()
            }
            TaskEvent::Token(token) => self.token(&token.token),
            TaskEvent::Prompt(_) | TaskEvent::Reasoning(_) | TaskEvent::ToolCall(_) => Bytes::new(),
            TaskEvent::End(end) => self.end(end.finish_reason, end.usage),
            TaskEvent::Error(envelope) => error_frame(&envelope.error),
        }
    }

    /// The path of every token: one escape and one copy.
    fn token(&self, text: &str) -> Bytes {
        let (before, after) = &self.token_frame;
        let mut frame = Vec::with_capacity(before.len() + text.len() + 8 + after.len());
        frame.extend_from_slice(before.as_bytes());
        if serde_json::to_writer(&mut frame, text).is_err() {
            return Bytes::new();
        }
        frame.extend_from_slice(after.as_bytes());
        frame.into()
    }

    fn choice(&self, delta: Delta, finish_reason: Option<ChatFinishReason>) -> String {
        let choices = vec![ChunkChoice { index: 0, delta, logprobs: None, finish_reason }];
        data(&ChatCompletionChunk { choices, ..self.frame.clone() })
    }

    fn end(&self, finish_reason: FinishReason, usage: TokenUsage) -> Bytes {
        let mut frames = self.choice(Delta::default(), Some(chat_finish_reason(finish_reason)));
        if self.include_usage {
            frames +=
                &data(&ChatCompletionChunk { usage: Some(Some(chat_usage(usage))), ..self.frame.clone() });
        }
        frames += "data: [DONE]\n\n";
        frames.into()
    }
}

/// A worker's reason in OpenAI's words; who cancels does not read on.
pub fn chat_finish_reason(reason: FinishReason) -> ChatFinishReason {
    match reason {
        FinishReason::Stop | FinishReason::Cancelled => ChatFinishReason::Stop,
        FinishReason::Length => ChatFinishReason::Length,
        FinishReason::ToolCalls => ChatFinishReason::ToolCalls,
    }
}

/// A worker's count in OpenAI's words.
pub fn chat_usage(usage: TokenUsage) -> Usage {
    Usage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        total_tokens: usage.prompt_tokens + usage.completion_tokens,
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

fn data(value: &impl serde::Serialize) -> String {
    format!("data: {}\n\n", serde_json::to_string(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use protocol::events::{End, Started, Timings, Token};

    use super::*;

    fn writer(include_usage: bool) -> ChunkWriter {
        ChunkWriter::new("chatcmpl-1".into(), 7, "m".into(), "rbee".into(), include_usage)
    }

    fn chunks(frames: &Bytes) -> Vec<String> {
        let text = std::str::from_utf8(frames).unwrap();
        text.split_terminator("\n\n").map(|frame| frame.strip_prefix("data: ").unwrap().to_owned()).collect()
    }

    #[test]
    fn a_tokens_frame_is_the_chunk_it_stands_for() {
        for text in ["hi", "\"quoted\"\n", "é😀", "\u{0}", ""] {
            let frame =
                writer(true).write(&TaskEvent::Token(Token { token: text.into(), ..Token::default() }));
            let chunk: ChatCompletionChunk = serde_json::from_str(&chunks(&frame)[0]).unwrap();
            assert_eq!(chunk.choices[0].delta.content.as_deref(), Some(text));
            assert_eq!((chunk.id.as_str(), chunk.usage), ("chatcmpl-1", Some(None)));
        }
    }

    #[test]
    fn a_stream_ends_with_finish_usage_and_done() {
        let end = TaskEvent::End(End {
            done: true,
            total_tokens: 2,
            finish_reason: FinishReason::Length,
            finish_reasons: Vec::new(),
            usage: TokenUsage { prompt_tokens: 3, completion_tokens: 2, ..TokenUsage::default() },
            timings: Timings::default(),
        });
        let frames = chunks(&writer(true).write(&end));
        assert_eq!(frames.len(), 3);
        assert!(
            frames[0].contains(r#""delta":{},"logprobs":null,"finish_reason":"length""#),
            "{}",
            frames[0]
        );
        assert!(
            frames[1].contains(
                r#""choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}"#
            ),
            "{}",
            frames[1]
        );
        assert_eq!(frames[2], "[DONE]");
        assert_eq!(chunks(&writer(false).write(&end)).len(), 2);
    }

    #[test]
    fn the_first_chunk_has_the_role_and_an_error_no_done() {
        let started = TaskEvent::Started(Started { worker_id: "w".into(), prompt_tokens: 3, seed: 1 });
        assert!(
            chunks(&writer(false).write(&started))[0]
                .contains(r#""delta":{"role":"assistant","content":""}"#)
        );
        let error = TaskEvent::Error(ApiError::new(protocol::ErrorCode::WorkerLost, "gone").into());
        let frames = chunks(&writer(false).write(&error));
        assert_eq!(frames.len(), 1);
        assert!(frames[0].starts_with(r#"{"error":{"message":"gone""#));
    }
}
