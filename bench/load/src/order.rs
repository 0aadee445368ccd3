//! What a client asks for. The mock worker takes count and pace of its tokens from the request, which reaches it through
//! any gateway: the count is `max_tokens`, the pace is what the user says.

use serde::{Deserialize, Serialize};

/// The model that the mock worker has.
pub const MODEL: &str = "mock";

/// How many tokens there are to be, and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Order {
    pub tokens: u32,
    /// From one token to the next, in microseconds. 0: all of them in one write. Less than a clock tick: one after the
    /// other, as fast as can be.
    pub pace_us: u64,
    pub stream: bool,
    /// Whether it is more urgent than others.
    pub is_urgent: bool,
}

/// The part of a request that the order is in: the same for OpenAI's clients and for the worker.
#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(default)]
    model: String,
    messages: Vec<Turn>,
    max_tokens: u32,
    #[serde(default)]
    stream: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_tier: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Turn {
    role: String,
    content: String,
}

impl Order {
    /// The whole request, as it goes over a connection that stays open.
    pub fn request(self) -> String {
        let turn = Turn { role: "user".to_owned(), content: self.pace_us.to_string() };
        let body = Body {
            model: MODEL.to_owned(),
            messages: vec![turn],
            max_tokens: self.tokens,
            stream: self.stream,
            service_tier: self.is_urgent.then(|| "priority".to_owned()),
        };
        let body = serde_json::to_string(&body).unwrap_or_default();
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// The order in a request's body.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let body: Body = serde_json::from_slice(body).ok()?;
        let pace_us = body.messages.first()?.content.parse().ok()?;
        Some(Self {
            tokens: body.max_tokens,
            pace_us,
            stream: body.stream,
            is_urgent: body.service_tier.is_some(),
        })
    }
}

/// A token's text: its number, and when it was due by [`crate::clock`].
pub fn token_text(index: u32, due_us: u64) -> String {
    format!("{index} {due_us}")
}

/// Number and due time in a token's text.
pub fn parse_token(text: &str) -> Option<(u32, u64)> {
    let (index, due_us) = text.split_once(' ')?;
    Some((index.parse().ok()?, due_us.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_reads_what_the_client_ordered() {
        let order = Order { tokens: 3, pace_us: 200_000, stream: true, is_urgent: true };
        let request = order.request();
        let (_, body) = request.split_once("\r\n\r\n").unwrap();
        assert_eq!(Order::parse(body.as_bytes()), Some(order));
        assert_eq!(parse_token(&token_text(7, 1_000_000)), Some((7, 1_000_000)));
    }
}
