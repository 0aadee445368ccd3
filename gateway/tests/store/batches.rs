//! Batches: seen to by one queen, moved on from the state that she knows.

use gateway::store::{Batch, BatchStatus, Bounds, Order};
use protocol::openai::metadata::Metadata;

use crate::jobs::{line, outcome};
use crate::{CENTURY, Database, PLENTY, Queen, eventually, on_each_database, page};

on_each_database! {
    a_batch_is_kept_whole_and_only_its_owner_sees_it
    a_batch_moves_on_from_the_state_it_is_in
    a_batch_that_is_finalizing_is_not_cancelled
    the_batches_of_a_dead_queen_are_taken
    batches_come_in_pages
    the_lines_of_a_batch_stay_until_it_has_ended
}

pub fn batch(id: &str) -> Batch {
    Batch {
        id: id.to_owned(),
        owner: "me".to_owned(),
        created_at: i64::MAX / 2,
        endpoint: "/v1/chat/completions".to_owned(),
        model: None,
        input_file_id: "file-1".to_owned(),
        completion_window: "24h".to_owned(),
        output_seconds: Some(3600),
        status: BatchStatus::Validating,
        expires_at: Some(9),
        in_progress_at: None,
        finalizing_at: None,
        completed_at: None,
        failed_at: None,
        expired_at: None,
        cancelling_at: None,
        cancelled_at: None,
        output_file_id: None,
        error_file_id: None,
        errors: None,
        metadata: Metadata::from_iter([("key".to_owned(), "value".to_owned())]),
    }
}

async fn a_batch_is_kept_whole_and_only_its_owner_sees_it(database: Database) {
    let rig = database.open(PLENTY).await;
    let full = Batch {
        model: Some("m".to_owned()),
        in_progress_at: Some(1),
        finalizing_at: Some(2),
        completed_at: Some(3),
        failed_at: Some(4),
        expired_at: Some(5),
        cancelling_at: Some(6),
        cancelled_at: Some(7),
        output_file_id: Some("file-2".to_owned()),
        error_file_id: Some("file-3".to_owned()),
        errors: Some("{}".to_owned()),
        ..batch("a")
    };
    assert!(rig.store.put_batch(full.clone()).await.unwrap());
    assert!(!rig.store.put_batch(batch("a")).await.unwrap());
    let rig = rig.crash().await;
    assert_eq!(rig.store.batch("me", "a").await.unwrap(), Some(full));
    assert_eq!(rig.store.batch("you", "a").await.unwrap(), None);
    assert_eq!(rig.store.cancel_batch("you", "a", 1).await.unwrap(), None);
}

async fn a_batch_moves_on_from_the_state_it_is_in(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.store.put_batch(batch("a")).await.unwrap();
    let next = Batch { status: BatchStatus::InProgress, in_progress_at: Some(1), ..batch("a") };
    assert!(!rig.store.update_batch(next.clone(), BatchStatus::Finalizing).await.unwrap());
    assert!(rig.store.update_batch(next.clone(), BatchStatus::Validating).await.unwrap());
    assert_eq!(rig.store.batch("me", "a").await.unwrap(), Some(next.clone()));
    let cancelling = rig.store.cancel_batch("me", "a", 5).await.unwrap().unwrap();
    assert_eq!((cancelling.status, cancelling.cancelling_at), (BatchStatus::Cancelling, Some(5)));
    // Who does not know of it yet does not overwrite it.
    let finalizing = Batch { status: BatchStatus::Finalizing, ..next };
    assert!(!rig.store.update_batch(finalizing, BatchStatus::InProgress).await.unwrap());
    let cancelled = Batch { status: BatchStatus::Cancelled, cancelled_at: Some(6), ..cancelling };
    assert!(rig.store.update_batch(cancelled.clone(), BatchStatus::Cancelling).await.unwrap());
    assert_eq!(rig.store.batch("me", "a").await.unwrap(), Some(cancelled));
}

async fn a_batch_that_is_finalizing_is_not_cancelled(database: Database) {
    let rig = database.open(PLENTY).await;
    let finalizing = Batch { status: BatchStatus::Finalizing, ..batch("a") };
    rig.store.put_batch(finalizing.clone()).await.unwrap();
    assert_eq!(rig.store.cancel_batch("me", "a", 5).await.unwrap(), Some(finalizing));
}

async fn the_batches_of_a_dead_queen_are_taken(database: Database) {
    let rig = database.open(PLENTY).await;
    for id in ["a", "b", "c"] {
        rig.store.put_batch(batch(id)).await.unwrap();
    }
    let ended = Batch { status: BatchStatus::Failed, ..batch("b") };
    assert!(rig.store.update_batch(ended, BatchStatus::Validating).await.unwrap());
    assert!(rig.store.claim_batches().await.unwrap().is_empty());
    let rig = rig.crash().await;
    let next = Batch { status: BatchStatus::InProgress, ..batch("a") };
    assert!(!rig.store.update_batch(next.clone(), BatchStatus::Validating).await.unwrap());
    let taken = rig.store.claim_batches().await.unwrap();
    assert_eq!(taken, [batch("a"), batch("c")]);
    assert!(rig.store.claim_batches().await.unwrap().is_empty());
    assert!(rig.store.update_batch(next, BatchStatus::Validating).await.unwrap());
    let rig = rig.reopen(PLENTY).await;
    assert_eq!(rig.store.claim_batches().await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_batches_of_a_queen_that_lives_are_hers() {
    let Some(database) = Database::postgres().await else { return };
    let first = Queen::open(&database.location(), PLENTY).await;
    let second = Queen::open(&database.location(), PLENTY).await;
    first.store.put_batch(batch("a")).await.unwrap();
    assert!(second.store.claim_batches().await.unwrap().is_empty());
    let next = Batch { status: BatchStatus::InProgress, ..batch("a") };
    assert!(!second.store.update_batch(next, BatchStatus::Validating).await.unwrap());
    first.close().await;
    assert_eq!(second.store.claim_batches().await.unwrap().len(), 1);
}

async fn batches_come_in_pages(database: Database) {
    let rig = database.open(PLENTY).await;
    for id in ["a", "b", "c"] {
        rig.store.put_batch(batch(id)).await.unwrap();
    }
    let list = async |owner, after| {
        let listed = rig.store.batches(owner, &page(2, Order::NewestFirst, after)).await.unwrap()?;
        Some((
            listed.entries.into_iter().map(|batch| batch.id).collect::<Vec<_>>().join(" "),
            listed.has_more,
        ))
    };
    assert_eq!(list("me", None).await, Some(("c b".to_owned(), true)));
    assert_eq!(list("me", Some("b")).await, Some(("a".to_owned(), false)));
    assert_eq!(list("me", Some("nowhere")).await, None);
    assert_eq!(list("you", None).await, Some((String::new(), false)));
}

async fn the_lines_of_a_batch_stay_until_it_has_ended(database: Database) {
    let bounds = Bounds { objects: 0, age: CENTURY, ..PLENTY };
    let rig = database.open(bounds).await;
    rig.store.put_batch(batch("g")).await.unwrap();
    rig.store.enqueue_all((0..3).map(|number| line("g", number)).collect()).await.unwrap();
    for job in rig.store.claim(3).await.unwrap() {
        let outcome = outcome(gateway::store::JobState::Completed);
        assert!(rig.store.complete(&job.id, job.attempt, outcome).await.unwrap());
    }
    let rig = rig.reopen(bounds).await;
    assert_eq!(rig.store.claim_batches().await.unwrap().len(), 1);
    assert_eq!(rig.store.group_counts("g").await.unwrap().completed, 3);
    let ended = Batch { status: BatchStatus::Completed, ..batch("g") };
    assert!(rig.store.update_batch(ended, BatchStatus::Validating).await.unwrap());
    let rig = rig.reopen(bounds).await;
    eventually(async || rig.store.group_counts("g").await.unwrap().total == 0).await;
}
