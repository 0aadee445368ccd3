//! A hive and its one worker, which has as many slots as anyone may want and answers at once. It speaks a worker's
//! protocol to the queen and OpenAI's to whom it serves without her: the same answer in either case.

mod voice;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use clap::Args as ClapArgs;
use protocol::hive::{HiveEvent, HiveSnapshot, ModelEntry, ModelKind, Provider, WorkerInfo};
use protocol::worker::{Backend, LoadProgress, LoadStage, WorkerState};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::clock::now_us;
use crate::order::{MODEL, Order};
use crate::wire::{Connection, Head, LAST_CHUNK, push_chunk};
use voice::Voice;

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Requests that it takes at the same time
    #[arg(long, default_value_t = 100_000)]
    slots: u32,
}

/// Below the runtime's tick there is nothing to sleep for.
const TICK_US: u64 = 1000;
/// A hive's events are silent for at most this long.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted, as thousands of streams may open at once.
const BACKLOG: u32 = 4096;

const EVENTS_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

#[expect(clippy::print_stdout, reason = "whoever started it reads the address from its standard output")]
pub async fn serve(args: &Args) -> anyhow::Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, args.port).into())?;
    let listener: TcpListener = socket.listen(BACKLOG)?;
    let (port, slots) = (listener.local_addr()?.port(), args.slots);
    println!("listening on http://127.0.0.1:{port}");
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        tokio::spawn(async move {
            // A peer that closes in the middle is a client that had enough.
            let _ = converse(Connection::new(stream)?, port, slots).await;
            anyhow::Ok(())
        });
    }
}

async fn converse(mut connection: Connection, port: u16, slots: u32) -> anyhow::Result<()> {
    while let Some(head) = connection.head().await? {
        let body = connection.body(&head).await?;
        match voice_of(&head) {
            Some(voice) => {
                let order = Order::parse(&body).context("the request has no order")?;
                answer(&mut connection, voice, order).await?;
            }
            None if head.subject == "/v1/events" => report(&mut connection, port, slots).await?,
            None => connection.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await?,
        }
    }
    Ok(())
}

fn voice_of(head: &Head) -> Option<Voice> {
    match head.subject.as_str() {
        "/v1/execute" => Some(Voice::Worker),
        "/v1/chat/completions" => Some(Voice::OpenAi),
        _ => None,
    }
}

async fn answer(connection: &mut Connection, voice: Voice, order: Order) -> anyhow::Result<()> {
    if !order.stream {
        let body = voice.whole(order)?;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
        return Ok(connection.write(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await?);
    }
    let mut bytes = EVENTS_HEAD.as_bytes().to_vec();
    push_chunk(&mut bytes, &voice.begin()?);
    let (started, started_us) = (Instant::now(), now_us());
    for index in 0..order.tokens {
        let since_start_us = order.pace_us * u64::from(index);
        if order.pace_us >= TICK_US {
            tokio::time::sleep_until(started + Duration::from_micros(since_start_us)).await;
        }
        push_chunk(&mut bytes, &voice.token(index, started_us + since_start_us)?);
        if order.pace_us > 0 {
            connection.write(&bytes).await?;
            bytes.clear();
        }
    }
    push_chunk(&mut bytes, &voice.end(order.tokens)?);
    bytes.extend_from_slice(LAST_CHUNK);
    Ok(connection.write(&bytes).await?)
}

/// A hive's events: everything at once, and then signs of life.
async fn report(connection: &mut Connection, port: u16, slots: u32) -> anyhow::Result<()> {
    let snapshot = HiveEvent::Snapshot(HiveSnapshot {
        boot_id: MODEL.into(),
        workers: vec![worker(port, slots)],
        models: vec![model()],
        backends: vec![Backend::Cpu],
    });
    let mut bytes = EVENTS_HEAD.as_bytes().to_vec();
    push_chunk(&mut bytes, &format!("event: {}\ndata: {}\n\n", snapshot.name(), snapshot.data()?));
    loop {
        connection.write(&bytes).await?;
        tokio::time::sleep(KEEP_ALIVE).await;
        bytes.clear();
        push_chunk(&mut bytes, ": keep-alive\n\n");
    }
}

fn worker(port: u16, slots: u32) -> WorkerInfo {
    WorkerInfo {
        id: MODEL.into(),
        boot_id: MODEL.into(),
        url: format!("http://127.0.0.1:{port}"),
        pid: None,
        model_ref: MODEL.into(),
        backend: Backend::Cpu,
        device: None,
        state: WorkerState::Idle,
        slots_total: slots,
        slots_available: slots,
        context_length: 2048,
        loading: LoadProgress { stage: LoadStage::Ready, progress: 1.0, bytes_loaded: 1, bytes_total: 1 },
        restarts: 0,
        error: None,
    }
}

fn model() -> ModelEntry {
    ModelEntry {
        reference: MODEL.into(),
        sha256: None,
        provider: Provider::File,
        kind: ModelKind::TextGen,
        size_bytes: 1,
        downloaded: true,
        downloaded_at: Some(1),
        last_used_at: None,
    }
}
