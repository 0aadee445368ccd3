//! One answer in two languages: a worker's events, and what the queen would make of them.

use anyhow::bail;
use protocol::TaskEvent;
use protocol::events::{End, FinishReason, Started, Timings, Token, TokenUsage};
use serde_json::json;

use crate::order::{MODEL, Order, token_text};

/// The language that the caller speaks.
#[derive(Debug, Clone, Copy)]
pub enum Voice {
    Worker,
    OpenAi,
}

impl Voice {
    /// The first frame of a stream.
    pub fn begin(self) -> serde_json::Result<String> {
        match self {
            Self::Worker => {
                event(&TaskEvent::Started(Started { worker_id: MODEL.into(), prompt_tokens: 1, seed: 1 }))
            }
            Self::OpenAi => Ok(chunk(r#"{"role":"assistant","content":""}"#, "null")),
        }
    }

    /// A token's frame.
    pub fn token(self, index: u32, due_us: u64) -> serde_json::Result<String> {
        let text = token_text(index, due_us);
        match self {
            Self::Worker => event(&TaskEvent::Token(Token { token: text, index, ..Token::default() })),
            Self::OpenAi => Ok(chunk(&format!(r#"{{"content":"{text}"}}"#), "null")),
        }
    }

    /// The last frames.
    pub fn end(self, tokens: u32) -> serde_json::Result<String> {
        match self {
            Self::Worker => event(&TaskEvent::End(End {
                done: true,
                total_tokens: tokens,
                finish_reason: FinishReason::Length,
                finish_reasons: Vec::new(),
                stop_sequences: Vec::new(),
                usage: TokenUsage { prompt_tokens: 1, completion_tokens: tokens, ..TokenUsage::default() },
                timings: Timings::default(),
            })),
            Self::OpenAi => Ok(chunk("{}", "\"length\"") + "data: [DONE]\n\n"),
        }
    }

    /// An answer that is not streamed, which the queen asks no worker for.
    pub fn whole(self, order: Order) -> anyhow::Result<String> {
        let Self::OpenAi = self else { bail!("the queen asks for streams only") };
        let text: String = (0..order.tokens).map(|index| token_text(index, 0)).collect();
        let answer = json!({
            "id": "chatcmpl-00000000000000000000000000000000", "object": "chat.completion", "created": 1, "model": MODEL,
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": text, "refusal": null}, "logprobs": null,
                "finish_reason": "length",
            }],
            "usage": {
                "prompt_tokens": 1, "completion_tokens": order.tokens, "total_tokens": order.tokens + 1,
                "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0},
            },
            "system_fingerprint": MODEL,
        });
        Ok(answer.to_string())
    }
}

fn event(event: &TaskEvent) -> serde_json::Result<String> {
    Ok(format!("event: {}\ndata: {}\n\n", event.name(), event.data()?))
}

fn chunk(delta: &str, finish_reason: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-00000000000000000000000000000000\",\"object\":\"chat.completion.chunk\",\"created\":1,\
         \"model\":\"{MODEL}\",\"system_fingerprint\":\"{MODEL}\",\"choices\":[{{\"index\":0,\"delta\":{delta},\
         \"logprobs\":null,\"finish_reason\":{finish_reason}}}]}}\n\n"
    )
}
