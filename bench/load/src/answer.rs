//! Reading answers, whole and streamed. A streamed one is whole when each of its tokens came, in order, and its end after them.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};

use crate::clock::now_us;
use crate::order::{Order, parse_token};
use crate::wire::{Connection, Head};

/// A client of one target on a connection that stays open.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    order: Order,
    request: String,
}

impl Client {
    /// Connects, to ask for this.
    pub async fn open(target: SocketAddr, order: Order) -> anyhow::Result<Self> {
        let connection = Connection::open(target).await.context("cannot connect")?;
        Ok(Self { connection, order, request: order.request() })
    }

    /// Asks for what may be refused; tells when the first token came.
    pub async fn offer(&mut self) -> anyhow::Result<Offered> {
        self.connection.write(self.request.as_bytes()).await.context("cannot send")?;
        let head = self.connection.head().await.context("no answer")?.context("closed without an answer")?;
        if head.subject != "200" {
            let body = self.connection.body(&head).await.context("the refusal broke")?;
            let status = head.subject.parse().context("a status is a number")?;
            ensure!(serde_json::from_slice::<serde_json::Value>(&body).is_ok(), "a refusal that is no JSON");
            return Ok(Offered::Refused { status, retry_after_s: head.retry_after_s });
        }
        let mut first_us = None;
        self.read_stream(|_| {
            first_us.get_or_insert_with(now_us);
        })
        .await?;
        first_us.map(|first_us| Offered::Answered { first_us }).context("an answer without a token")
    }

    /// Asks, and reads the answer to its end. Of each token of a stream it tells when it was due.
    pub async fn ask(&mut self, on_token: impl FnMut(u64)) -> anyhow::Result<()> {
        self.connection.write(self.request.as_bytes()).await.context("cannot send")?;
        let head = self.connection.head().await.context("no answer")?.context("closed without an answer")?;
        if head.subject != "200" || !self.order.stream {
            return self.whole(&head).await;
        }
        self.read_stream(on_token).await
    }

    async fn read_stream(&mut self, mut on_token: impl FnMut(u64)) -> anyhow::Result<()> {
        let mut stream = Stream::default();
        while let Some(part) = self.connection.part().await.context("the stream broke")? {
            stream.take(&part, &mut on_token)?;
        }
        ensure!(stream.is_done, "the stream ended without its last word");
        ensure!(stream.tokens == self.order.tokens, "{} of {} tokens came", stream.tokens, self.order.tokens);
        Ok(())
    }

    async fn whole(&mut self, head: &Head) -> anyhow::Result<()> {
        let body = self.connection.body(head).await.context("the answer broke")?;
        let text = String::from_utf8_lossy(&body);
        ensure!(head.subject == "200", "status {}: {text}", head.subject);
        ensure!(text.contains("\"finish_reason\""), "an answer without an end: {text}");
        Ok(())
    }
}

/// What came of a request that may be refused.
#[derive(Debug, Clone, Copy)]
pub enum Offered {
    /// It was answered; its first token came at this time.
    Answered { first_us: u64 },
    /// It was not.
    Refused { status: u16, retry_after_s: Option<u64> },
}

/// What has come of a stream.
#[derive(Debug, Default)]
struct Stream {
    buffer: BytesMut,
    tokens: u32,
    is_finished: bool,
    is_done: bool,
}

impl Stream {
    fn take(&mut self, part: &[u8], on_token: &mut impl FnMut(u64)) -> anyhow::Result<()> {
        self.buffer.extend_from_slice(part);
        while let Some(end) = self.buffer.windows(2).position(|window| window == b"\n\n") {
            let frame = self.buffer.split_to(end);
            self.buffer.advance(2);
            self.read(std::str::from_utf8(&frame)?, on_token)?;
        }
        Ok(())
    }

    fn read(&mut self, frame: &str, on_token: &mut impl FnMut(u64)) -> anyhow::Result<()> {
        ensure!(!self.is_done, "something came after the last word: {frame}");
        let Some(data) = frame.strip_prefix("data: ") else {
            ensure!(frame.starts_with(':'), "neither data nor a comment: {frame}");
            return Ok(());
        };
        if data == "[DONE]" {
            ensure!(self.is_finished, "the last word came before the end");
            self.is_done = true;
            return Ok(());
        }
        if let Some(text) = field(data, "\"content\":\"").filter(|text| !text.is_empty()) {
            let Some((index, due_us)) = parse_token(text) else { bail!("not a token: {frame}") };
            ensure!(index == self.tokens, "token {index} came where {} was due", self.tokens);
            self.tokens += 1;
            on_token(due_us);
        } else if data.contains("\"finish_reason\":\"length\"") {
            self.is_finished = true;
        } else {
            ensure!(data.contains("\"role\":\"assistant\""), "what is this? {frame}");
        }
        Ok(())
    }
}

/// The text after this key; the mock's tokens have no sign that JSON would escape.
fn field<'a>(data: &'a str, key: &str) -> Option<&'a str> {
    data.split_once(key)?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: [&str; 4] = [
        "data: {\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}\n\n: a comment\n\n",
        "data: {\"delta\":{\"content\":\"0 10\"}}\n\ndata: {\"delta\":{\"content\":\"1 20\"}}\n\n",
        "data: {\"delta\":{},\"finish_reason\":\"length\"}\n\n",
        "data: [DONE]\n\n",
    ];

    fn read(parts: &[&str]) -> anyhow::Result<(Vec<u64>, bool)> {
        let (mut stream, mut due) = (Stream::default(), Vec::new());
        for part in parts {
            stream.take(part.as_bytes(), &mut |due_us| due.push(due_us))?;
        }
        Ok((due, stream.is_done))
    }

    #[test]
    fn a_whole_stream_is_read_however_it_is_cut() {
        let whole = WHOLE.concat();
        for cut in 1..whole.len() {
            let (head, tail) = whole.split_at(cut);
            assert_eq!(read(&[head, tail]).unwrap(), (vec![10, 20], true));
        }
    }

    #[test]
    fn a_hole_and_an_early_end_are_seen() {
        assert!(read(&["data: {\"delta\":{\"content\":\"1 20\"}}\n\n"]).is_err());
        assert!(read(&[WHOLE[0], WHOLE[1], WHOLE[3]]).is_err());
        assert!(read(&["data: {\"error\":{\"message\":\"gone\"}}\n\n"]).is_err());
        assert!(!read(&WHOLE[..3]).unwrap().1);
    }
}
