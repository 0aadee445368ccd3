//! The server goes away and comes back, or is lost in the middle of a commit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway::store::{Enqueued, JobState, Kind, Location, StoreError};
use protocol::{ApiError, ErrorCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::jobs::{claimed, outcome};
use crate::{Database, PLENTY, Queen, eventually};

/// Stands between a queen and the server.
struct Wire {
    address: SocketAddr,
    /// Nothing goes through, and what did is cut.
    is_cut: watch::Sender<bool>,
    /// The next commit reaches the server, and its answer is lost.
    loses_commit: Arc<AtomicBool>,
}

impl Wire {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_cut = watch::Sender::new(false);
        let loses_commit = Arc::new(AtomicBool::new(false));
        let (cut, loses) = (is_cut.subscribe(), loses_commit.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut cut, server, loses) = (cut.clone(), server.clone(), loses.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = cut.wait_for(|is_cut| *is_cut) => {}
                        _ = carry(client, &server, &loses) => {}
                    }
                });
            }
        });
        Self { address, is_cut, loses_commit }
    }
}

/// Ends when either side does, or after a commit that is to be lost.
async fn carry(client: TcpStream, server: &str, loses_commit: &AtomicBool) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let up = async {
        let mut bytes = vec![0; 1 << 16];
        let mut is_lane = false;
        loop {
            let count = from_client.read(&mut bytes).await?;
            if count == 0 {
                return Ok(false);
            }
            to_server.write_all(&bytes[..count]).await?;
            let says = |word: &str| bytes[..count].windows(word.len()).any(|part| part == word.as_bytes());
            // Lanes begin so; the queen's own upkeep commits too.
            is_lane |= says("SET enable_seqscan");
            if is_lane && says("COMMIT") && loses_commit.swap(false, Ordering::SeqCst) {
                return Ok::<_, std::io::Error>(true);
            }
        }
    };
    let down = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::select! {
        is_lost = up => {
            if is_lost? {
                // The server answers when it is done, and nobody hears it.
                let mut answer = [0; 1];
                from_server.read_exact(&mut answer).await?;
            }
            Ok(())
        }
        copied = down => copied.map(drop),
    }
}

async fn wired() -> Option<(Wire, Queen)> {
    let database = Database::postgres().await?;
    let Location::Postgres(options) = database.location() else { panic!("a server") };
    let wire = Wire::to(format!("{}:{}", options.get_host(), options.get_port())).await;
    let options = options.host("127.0.0.1").port(wire.address.port());
    let queen = Queen::open(&Location::Postgres(Box::new(options)), PLENTY).await;
    Some((wire, queen))
}

#[tokio::test]
async fn while_the_server_is_away_callers_are_told_so_and_when_it_is_back_all_goes_on() {
    let Some((wire, queen)) = wired().await else { return };
    let store = &queen.store;
    assert_eq!(store.enqueue(claimed("a")).await.unwrap(), Enqueued::New);
    wire.is_cut.send_replace(true);
    let error = store.enqueue(claimed("b")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let error = ApiError::from(error);
    assert_eq!(
        (error.code, error.code.status(), error.retriable),
        (ErrorCode::DatabaseUnavailable, 503, true)
    );
    assert!(matches!(store.get("me", Kind::Response, "r").await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.job("me", "a").await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.unfinished().await, Err(StoreError::Unavailable(_))));
    wire.is_cut.send_replace(false);
    eventually(async || store.enqueue(claimed("b")).await.is_ok()).await;
    assert!(store.complete("a", 1, outcome(JobState::Completed)).await.unwrap());
    eventually(async || store.unfinished().await.is_ok_and(|unfinished| unfinished == 1)).await;
    queen.close().await;
}

#[tokio::test]
async fn a_write_that_is_lost_in_its_commit_is_told_as_unknown_and_may_be_repeated() {
    let Some((wire, queen)) = wired().await else { return };
    let store = &queen.store;
    wire.loses_commit.store(true, Ordering::SeqCst);
    let error = store.enqueue(claimed("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error:?}");
    assert_eq!(ApiError::from(error).code, ErrorCode::DatabaseUnavailable);
    let again = store.enqueue(claimed("a")).await.unwrap();
    assert!(matches!(again, Enqueued::Existing(job) if job.id == "a" && job.state == JobState::Running));
    // Who asks what she holds finds what she was not told of.
    assert_eq!(store.held().await.unwrap(), [("a".to_owned(), 1)]);
    wire.loses_commit.store(true, Ordering::SeqCst);
    let error = store.complete("a", 1, outcome(JobState::Completed)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error:?}");
    assert!(store.complete("a", 1, outcome(JobState::Completed)).await.unwrap());
    assert_eq!(store.unfinished().await.unwrap(), 0);
}
