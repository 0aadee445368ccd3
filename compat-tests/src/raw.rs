//! HTTP requests over a connection of their own, for tests that cut it or look at when bytes come.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHUNK_BYTES: usize = 16 * 1024;

/// A connection with a request under way. Dropping it closes it.
#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// What has come, and when its last bytes did.
#[derive(Debug, Clone)]
pub struct Received {
    /// Everything since the last request.
    pub text: String,
    /// When the last of it came.
    pub at: Instant,
}

impl RawConnection {
    /// Connects and sends a POST.
    pub async fn post(url: &str, path: &str, body: &Value) -> Self {
        let address = url.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = Self { stream, received: Vec::new() };
        connection.post_again(path, body).await;
        connection
    }

    /// Sends another POST, once the answer to the last has come.
    pub async fn post_again(&mut self, path: &str, body: &Value) {
        let body = body.to_string();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: rbee\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.received.clear();
        self.stream.write_all(request.as_bytes()).await.unwrap();
    }

    /// Waits until what came satisfies `is_enough`.
    pub async fn read_until(&mut self, within: Duration, is_enough: impl Fn(&str) -> bool) -> Received {
        let deadline = Instant::now() + within;
        loop {
            let text = String::from_utf8_lossy(&self.received).into_owned();
            if is_enough(&text) {
                return Received { text, at: Instant::now() };
            }
            let mut chunk = vec![0; CHUNK_BYTES];
            let left = deadline.saturating_duration_since(Instant::now());
            let read = tokio::time::timeout(left, self.stream.read(&mut chunk)).await;
            let read = read.unwrap_or_else(|_| panic!("not within {within:?}; so far: {text}")).unwrap();
            assert_ne!(read, 0, "the connection was closed after: {text}");
            self.received.extend_from_slice(&chunk[..read]);
        }
    }

    /// What has come so far, without waiting.
    pub fn so_far(&mut self) -> String {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(read @ 1..) = self.stream.try_read(&mut chunk) {
            self.received.extend_from_slice(&chunk[..read]);
        }
        String::from_utf8_lossy(&self.received).into_owned()
    }
}
