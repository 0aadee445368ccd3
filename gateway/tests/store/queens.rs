//! Several queens on one database.

use std::collections::HashSet;

use gateway::store::{Enqueued, Idempotency, Job, JobState, NewJob};

use crate::jobs::{claimed, new_job, outcome};
use crate::{Database, LONG, PLENTY, Queen, eventually};

async fn two() -> Option<(Queen, Queen, Database)> {
    let database = Database::postgres().await?;
    let first = Queen::open(&database.location(), PLENTY).await;
    let second = Queen::open(&database.location(), PLENTY).await;
    Some((first, second, database))
}

async fn complete(queen: &Queen, job: &Job) -> bool {
    queen.store.complete(&job.id, job.attempt, outcome(JobState::Completed)).await.unwrap()
}

#[tokio::test]
async fn each_job_is_claimed_by_one_queen() {
    let Some((first, second, _database)) = two().await else { return };
    let jobs = (0..200).map(|number| new_job(&number.to_string())).collect();
    first.store.enqueue_all(jobs).await.unwrap();
    let claims = (0..20).flat_map(|_| [first.store.claim(7), second.store.claim(7)]);
    let claimed: Vec<String> = futures::future::join_all(claims)
        .await
        .into_iter()
        .flat_map(|jobs| jobs.unwrap())
        .map(|job| job.id)
        .collect();
    assert_eq!((claimed.len(), claimed.iter().collect::<HashSet<_>>().len()), (200, 200));
    assert_eq!(second.store.unfinished().await.unwrap(), 200);
}

#[tokio::test]
async fn a_queen_that_starts_takes_nothing_from_one_that_lives() {
    let Some((first, second, _database)) = two().await else { return };
    first.store.enqueue(claimed("a")).await.unwrap();
    assert_eq!(second.store.reclaim().await.unwrap(), 0);
    assert!(second.store.claim(1).await.unwrap().is_empty());
    assert!(!second.store.complete("a", 1, outcome(JobState::Completed)).await.unwrap());
    assert!(first.store.complete("a", 1, outcome(JobState::Completed)).await.unwrap());
}

#[tokio::test]
async fn what_a_dead_queen_held_goes_to_another_one() {
    let Some((first, second, database)) = two().await else { return };
    first.store.enqueue_all(vec![claimed("a"), claimed("b")]).await.unwrap();
    first.kill().await;
    assert!(second.store.claim(2).await.unwrap().is_empty(), "her lease lasts");
    // The second one's own lease is over as well, but nobody took it from her: it is renewed.
    database.expire_leases().await;
    second.store.reclaim().await.unwrap();
    let mut jobs = Vec::new();
    while jobs.len() < 2 {
        jobs.extend(second.store.claim(2).await.unwrap());
    }
    assert!(jobs.iter().all(|job| job.attempt == 2));
    for job in &jobs {
        assert!(complete(&second, job).await);
    }
    assert_eq!(second.store.unfinished().await.unwrap(), 0);
}

#[tokio::test]
async fn a_queen_that_was_thought_dead_is_fenced_and_goes_on_under_a_new_name() {
    let Some((first, second, database)) = two().await else { return };
    first.store.enqueue(claimed("a")).await.unwrap();
    database.expire_leases().await;
    // Whichever queen looks first takes the other for dead.
    while second.store.job("me", "a").await.unwrap().unwrap().state == JobState::Running {
        second.store.reclaim().await.unwrap();
        database.expire_leases().await;
    }
    assert!(!first.store.complete("a", 1, outcome(JobState::Completed)).await.unwrap());
    assert_eq!(first.store.fenced(), 1);
    // What was lost can be claimed by her as well, as soon as she has a lease again.
    eventually(async || {
        let jobs = first.store.claim(1).await.unwrap();
        match jobs.first() {
            Some(job) => complete(&first, job).await,
            None => false,
        }
    })
    .await;
    let job = second.store.job("me", "a").await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Completed);
    assert!(job.attempt >= 2);
}

#[tokio::test]
async fn a_queen_hears_of_work_that_came_to_another_one() {
    let Some((first, second, _database)) = two().await else { return };
    // She looks at her start.
    second.store.work().notified().await;
    first.store.enqueue(new_job("a")).await.unwrap();
    tokio::time::timeout(LONG, second.store.work().notified()).await.unwrap();
    assert_eq!(second.store.claim(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_cancelled_job_of_another_queen_is_marked_for_her() {
    let Some((first, second, _database)) = two().await else { return };
    first.store.enqueue(claimed("a")).await.unwrap();
    let job = second.store.cancel("me", "a", 7000, outcome(JobState::Cancelled)).await.unwrap().unwrap();
    assert!(job.is_cancelling);
    assert_eq!(first.store.cancelling().await.unwrap(), ["a"]);
    assert!(second.store.cancelling().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_same_key_at_two_queens_at_once_is_one_job() {
    let Some((first, second, _database)) = two().await else { return };
    for round in 0..20 {
        let job = |id: &str| NewJob {
            idempotency: Some(Idempotency { key: format!("k{round}"), digest: "d".to_owned() }),
            ..new_job(&format!("{id}{round}"))
        };
        let (one, other) = tokio::join!(first.store.enqueue(job("a")), second.store.enqueue(job("b")));
        match (one.unwrap(), other.unwrap()) {
            (Enqueued::New, Enqueued::Existing(job)) => assert_eq!(job.id, format!("a{round}")),
            (Enqueued::Existing(job), Enqueued::New) => assert_eq!(job.id, format!("b{round}")),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn counts_stay_right_when_queens_come_and_go() {
    let Some((first, second, database)) = two().await else { return };
    first.store.enqueue_all(vec![new_job("a"), claimed("b")]).await.unwrap();
    second.store.enqueue_all(vec![new_job("c"), claimed("d")]).await.unwrap();
    first.close().await;
    second.kill().await;
    let third = Queen::open(&database.location(), PLENTY).await;
    database.expire_leases().await;
    third.store.reclaim().await.unwrap();
    assert_eq!(third.store.unfinished().await.unwrap(), 4);
    let mut taken = HashSet::new();
    while taken.len() < 4 {
        for job in third.store.claim(4).await.unwrap() {
            assert!(complete(&third, &job).await);
            taken.insert(job.id);
        }
        third.store.reclaim().await.unwrap();
    }
    assert_eq!(third.store.unfinished().await.unwrap(), 0);
}
