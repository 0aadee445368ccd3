//! Jobs: accepted for good, held by one, ended once.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;

use gateway::store::{
    Bounds, Enqueued, GroupCounts, Idempotency, Job, JobKind, JobState, NewJob, Order, Outcome, Page,
};

use crate::{CENTURY, Database, PLENTY, Rig, eventually, on_each_database, page};

pub fn new_job(id: &str) -> NewJob {
    NewJob {
        id: id.to_owned(),
        kind: JobKind::Task,
        owner: "me".to_owned(),
        model: "m".to_owned(),
        band: 1,
        created_at_ms: 1000,
        deadline_at_ms: Some(2000),
        request: r#"{"prompt":"?"}"#.to_owned(),
        idempotency: None,
        group: None,
        is_claimed: false,
    }
}

pub fn claimed(id: &str) -> NewJob {
    NewJob { is_claimed: true, ..new_job(id) }
}

fn keyed(id: &str, key: &str, digest: &str) -> NewJob {
    let idempotency = Some(Idempotency { key: key.to_owned(), digest: digest.to_owned() });
    NewJob { idempotency, ..new_job(id) }
}

pub fn line(group: &str, line: u32) -> NewJob {
    let id = format!("{group} {line}");
    NewJob { kind: JobKind::BatchLine, group: Some((group.to_owned(), line)), ..new_job(&id) }
}

pub fn outcome(state: JobState) -> Outcome {
    Outcome {
        state,
        result: r#"{"output":"!"}"#.to_owned(),
        decision: Some("{}".to_owned()),
        events: "{}\n{}\n".to_owned(),
        finished_at_ms: i64::MAX / 4,
    }
}

/// A job that so many queens died over is given up.
const QUEENS_MAX: u32 = 5;

fn ids(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().map(|job| job.id.as_str()).collect()
}

on_each_database! {
    a_job_is_kept_as_it_was_given_and_only_its_owner_sees_it
    the_best_band_is_claimed_first_and_then_the_oldest
    a_claimed_job_is_nobody_elses_and_its_outcome_is_applied_once
    of_two_outcomes_at_once_one_is_applied
    a_released_job_is_claimed_again_as_the_next_attempt
    a_repeated_key_leads_to_the_same_job_and_another_body_under_it_is_refused
    the_same_job_is_not_kept_twice_and_another_one_of_its_id_is_refused
    a_line_of_a_group_is_one_job_and_groups_are_read_by_line
    a_queued_job_is_cancelled_at_once_and_a_running_one_by_its_holder
    a_job_stays_to_be_cancelled_when_its_queen_dies
    an_ended_job_is_forgotten_by_its_owner_and_an_unfinished_one_is_not
    a_group_is_cancelled_whole
    what_a_killed_queen_held_is_done_again_and_her_outcome_is_fenced
    a_job_that_kills_its_queens_is_given_up
    a_queen_that_ends_in_order_gives_back_what_she_holds
    an_owners_jobs_come_in_pages_without_their_texts
    who_waits_for_work_is_woken
    ended_jobs_go_when_they_are_too_many_and_unfinished_ones_never
    the_lines_of_a_group_go_when_all_have_ended
    many_callers_at_once_lose_nothing_and_do_nothing_twice
}

impl Rig {
    async fn enqueue(&self, job: NewJob) {
        assert_eq!(self.store.enqueue(job).await.unwrap(), Enqueued::New);
    }

    async fn complete(&self, id: &str, attempt: u32) -> bool {
        self.store.complete(id, attempt, outcome(JobState::Completed)).await.unwrap()
    }

    async fn job(&self, id: &str) -> Job {
        self.store.job("me", id).await.unwrap().unwrap()
    }

    async fn cancel(&self, id: &str) -> Option<Job> {
        self.store.cancel("me", id, 7000, outcome(JobState::Cancelled)).await.unwrap()
    }

    async fn unfinished(&self) -> u64 {
        self.store.unfinished().await.unwrap()
    }

    /// Nobody waits for that, so it is looked for.
    async fn begin(&self, id: &str, attempt: u32) {
        self.store.begun(id, attempt);
        while self.job(id).await.started_at_ms.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn a_job_is_kept_as_it_was_given_and_only_its_owner_sees_it(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.enqueue(new_job("a")).await;
    let rig = rig.crash().await;
    let job = rig.job("a").await;
    assert_eq!((job.state, job.attempt, job.started_at_ms), (JobState::Queued, 0, None));
    assert_eq!((job.kind, job.owner.as_str(), job.model.as_str(), job.band), (JobKind::Task, "me", "m", 1));
    assert_eq!((job.created_at_ms, job.deadline_at_ms), (1000, Some(2000)));
    assert_eq!(job.request, new_job("a").request);
    assert_eq!(rig.store.job("you", "a").await.unwrap(), None);
    assert_eq!(rig.store.cancel("you", "a", 0, outcome(JobState::Cancelled)).await.unwrap(), None);
    assert_eq!(rig.unfinished().await, 1);
}

async fn the_best_band_is_claimed_first_and_then_the_oldest(database: Database) {
    let rig = database.open(PLENTY).await;
    for (id, band) in [("low", 3), ("first", 1), ("second", 1), ("high", 0)] {
        rig.enqueue(NewJob { band, ..new_job(id) }).await;
    }
    let jobs = rig.store.claim(3).await.unwrap();
    assert_eq!(ids(&jobs), ["high", "first", "second"]);
    assert!(jobs.iter().all(|job| (job.state, job.attempt) == (JobState::Running, 1)));
    rig.store.begun("first", 2);
    rig.begin("high", 1).await;
    assert_eq!(ids(&rig.store.claim(3).await.unwrap()), ["low"]);
    assert!(rig.store.claim(3).await.unwrap().is_empty());
    assert_eq!(rig.unfinished().await, 4);
    assert_eq!(rig.job("first").await.started_at_ms, None, "that attempt is nobody's");
}

async fn a_claimed_job_is_nobody_elses_and_its_outcome_is_applied_once(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.enqueue(claimed("a")).await;
    assert!(rig.store.claim(1).await.unwrap().is_empty());
    assert_eq!(rig.store.job_events("me", "a").await.unwrap(), None);
    assert!(!rig.complete("a", 2).await);
    assert!(!rig.complete("nowhere", 1).await);
    assert!(rig.complete("a", 1).await);
    // Who did not hear it may say it again; who says something else comes too late.
    assert!(rig.complete("a", 1).await);
    assert!(!rig.store.complete("a", 1, outcome(JobState::Failed)).await.unwrap());
    assert_eq!(rig.store.fenced(), 3);
    let job = rig.job("a").await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    assert_eq!((job.result.as_deref(), job.decision.as_deref()), (Some(r#"{"output":"!"}"#), Some("{}")));
    assert_eq!(rig.store.job_events("me", "a").await.unwrap().as_deref(), Some("{}\n{}\n"));
    assert_eq!(rig.store.job_events("you", "a").await.unwrap(), None);
    assert_eq!(rig.unfinished().await, 0);
}

async fn of_two_outcomes_at_once_one_is_applied(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.enqueue(claimed("a")).await;
    let ends = [JobState::Completed, JobState::Failed, JobState::Cancelled]
        .map(|state| rig.store.complete("a", 1, outcome(state)));
    let applied = join_all(ends).await.into_iter().filter(|applied| *applied.as_ref().unwrap()).count();
    assert_eq!(applied, 1);
    assert_eq!(rig.unfinished().await, 0);
}

async fn a_released_job_is_claimed_again_as_the_next_attempt(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.enqueue(claimed("a")).await;
    rig.enqueue(new_job("b")).await;
    assert!(!rig.store.release("a", 2).await.unwrap());
    assert!(rig.store.release("a", 1).await.unwrap());
    assert!(!rig.store.release("a", 1).await.unwrap());
    assert!(!rig.complete("a", 1).await);
    let jobs = rig.store.claim(1).await.unwrap();
    assert_eq!((ids(&jobs), jobs[0].attempt), (vec!["a"], 2));
    assert!(!rig.complete("a", 1).await);
    assert!(rig.complete("a", 2).await);
}

async fn a_repeated_key_leads_to_the_same_job_and_another_body_under_it_is_refused(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.enqueue(keyed("a", "k", "1")).await;
    let Enqueued::Existing(job) = rig.store.enqueue(keyed("b", "k", "1")).await.unwrap() else {
        panic!("the same")
    };
    assert_eq!(job.id, "a");
    assert_eq!(rig.store.enqueue(keyed("c", "k", "2")).await.unwrap(), Enqueued::Conflict);
    rig.enqueue(NewJob { owner: "you".to_owned(), ..keyed("d", "k", "2") }).await;
    assert_eq!(rig.unfinished().await, 2);
}

async fn the_same_job_is_not_kept_twice_and_another_one_of_its_id_is_refused(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.enqueue(claimed("a")).await;
    let again = rig.store.enqueue(claimed("a")).await.unwrap();
    assert_eq!(again, Enqueued::Existing(Box::new(rig.job("a").await)));
    let other = NewJob { request: "{}".to_owned(), ..claimed("a") };
    assert_eq!(rig.store.enqueue(other).await.unwrap(), Enqueued::Conflict);
    let others = NewJob { owner: "you".to_owned(), ..claimed("a") };
    assert_eq!(rig.store.enqueue(others).await.unwrap(), Enqueued::Conflict);
    let twice = rig.store.enqueue_all(vec![new_job("b"), new_job("b"), new_job("c")]).await.unwrap();
    assert!(matches!(twice[..], [Enqueued::New, Enqueued::Existing(_), Enqueued::New]));
    assert_eq!(rig.unfinished().await, 3);
}

async fn a_line_of_a_group_is_one_job_and_groups_are_read_by_line(database: Database) {
    let rig = database.open(PLENTY).await;
    let lines = (0..300).rev().map(|number| line("g", number)).collect::<Vec<_>>();
    let enqueued = rig.store.enqueue_all(lines.clone()).await.unwrap();
    assert!(enqueued.iter().all(|enqueued| *enqueued == Enqueued::New));
    let renamed = NewJob { id: "other".to_owned(), ..line("g", 5) };
    assert!(
        matches!(rig.store.enqueue(renamed).await.unwrap(), Enqueued::Existing(job) if job.id == line("g", 5).id)
    );
    rig.enqueue(line("h", 5)).await;
    let read = rig.store.group("g", None, 2).await.unwrap();
    assert_eq!(read.iter().filter_map(|job| Some(job.group.as_ref()?.1)).collect::<Vec<_>>(), [0, 1]);
    let read = rig.store.group("g", Some(298), 10).await.unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].request, new_job("").request);
    rig.store.claim(1).await.unwrap();
    let counts = rig.store.group_counts("g").await.unwrap();
    assert_eq!(counts, GroupCounts { total: 300, queued: 299, running: 1, ..GroupCounts::default() });
    assert_eq!(rig.store.group_counts("nothing").await.unwrap(), GroupCounts::default());
}

async fn a_queued_job_is_cancelled_at_once_and_a_running_one_by_its_holder(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.enqueue(new_job("queued")).await;
    rig.enqueue(claimed("running")).await;
    let job = rig.cancel("queued").await.unwrap();
    assert_eq!((job.state, job.finished_at_ms), (JobState::Cancelled, Some(7000)));
    assert_eq!(rig.cancel("queued").await.unwrap(), job);
    assert!(rig.store.cancelling().await.unwrap().is_empty());
    let job = rig.cancel("running").await.unwrap();
    assert_eq!((job.state, job.is_cancelling), (JobState::Running, true));
    assert_eq!(rig.store.cancelling().await.unwrap(), ["running"]);
    assert!(rig.store.complete("running", 1, outcome(JobState::Cancelled)).await.unwrap());
    assert!(rig.store.cancelling().await.unwrap().is_empty());
    assert_eq!(rig.cancel("nowhere").await, None);
    assert_eq!(rig.unfinished().await, 0);
}

async fn a_job_stays_to_be_cancelled_when_its_queen_dies(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.enqueue(claimed("a")).await;
    rig.cancel("a").await;
    let rig = rig.crash().await;
    let jobs = rig.store.claim(1).await.unwrap();
    assert_eq!((jobs[0].attempt, jobs[0].is_cancelling), (2, true));
    assert_eq!(rig.store.cancelling().await.unwrap(), ["a"]);
}

async fn an_ended_job_is_forgotten_by_its_owner_and_an_unfinished_one_is_not(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.enqueue(claimed("a")).await;
    assert!(!rig.store.forget("me", "a").await.unwrap());
    assert_eq!(rig.store.held().await.unwrap(), [("a".to_owned(), 1)]);
    assert!(rig.complete("a", 1).await);
    assert!(rig.store.held().await.unwrap().is_empty());
    assert!(!rig.store.forget("another", "a").await.unwrap());
    assert!(rig.store.forget("me", "a").await.unwrap());
    assert!(rig.store.job("me", "a").await.unwrap().is_none());
    assert!(!rig.store.forget("me", "a").await.unwrap());
    // What is kept is counted still.
    rig.enqueue(claimed("b")).await;
    assert!(rig.complete("b", 1).await);
    assert_eq!(rig.job("b").await.state, JobState::Completed);
}

async fn a_group_is_cancelled_whole(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.store.enqueue_all((0..4).map(|number| line("g", number)).collect()).await.unwrap();
    rig.enqueue(line("h", 0)).await;
    let running = rig.store.claim(2).await.unwrap();
    assert!(rig.complete(&running[0].id, 1).await);
    assert_eq!(rig.store.cancel_group("g", 7000, outcome(JobState::Cancelled)).await.unwrap(), 3);
    assert_eq!(rig.store.cancel_group("g", 7000, outcome(JobState::Cancelled)).await.unwrap(), 0);
    let counts = rig.store.group_counts("g").await.unwrap();
    assert_eq!((counts.completed, counts.running, counts.cancelled), (1, 1, 2));
    assert_eq!(rig.store.cancelling().await.unwrap(), [running[1].id.clone()]);
    assert_eq!(rig.unfinished().await, 2);
}

async fn what_a_killed_queen_held_is_done_again_and_her_outcome_is_fenced(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.enqueue(claimed("a")).await;
    rig.enqueue(claimed("done")).await;
    assert!(rig.complete("done", 1).await);
    let rig = rig.crash().await;
    assert_eq!(rig.unfinished().await, 1);
    assert_eq!((rig.job("a").await.state, rig.job("a").await.attempt), (JobState::Queued, 1));
    assert!(!rig.complete("a", 1).await, "nobody holds it");
    assert!(!rig.complete("done", 1).await, "another queen did it");
    let jobs = rig.store.claim(5).await.unwrap();
    assert_eq!((ids(&jobs), jobs[0].attempt), (vec!["a"], 2));
    assert!(rig.complete("a", 2).await);
}

async fn a_job_that_kills_its_queens_is_given_up(database: Database) {
    let mut rig = database.open(PLENTY).await;
    rig.enqueue(new_job("a")).await;
    // Those who died before a worker had it do not count.
    for attempt in 1..=2 * QUEENS_MAX {
        assert_eq!(rig.store.claim(1).await.unwrap()[0].attempt, attempt);
        if attempt > QUEENS_MAX {
            rig.begin("a", attempt).await;
        }
        rig = rig.crash().await;
    }
    let job = rig.job("a").await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 2 * QUEENS_MAX));
    assert!(job.result.unwrap().contains("given up"));
    assert!(rig.store.job_events("me", "a").await.unwrap().unwrap().contains("error"));
    assert_eq!(rig.unfinished().await, 0);
}

async fn a_queen_that_ends_in_order_gives_back_what_she_holds(database: Database) {
    let mut rig = database.open(PLENTY).await;
    rig.enqueue(new_job("a")).await;
    for attempt in 1..=2 * QUEENS_MAX {
        assert_eq!(rig.store.claim(1).await.unwrap()[0].attempt, attempt);
        rig = rig.reopen(PLENTY).await;
    }
    assert_eq!(rig.job("a").await.state, JobState::Queued);
}

async fn an_owners_jobs_come_in_pages_without_their_texts(database: Database) {
    let rig = database.open(PLENTY).await;
    for id in ["a", "b", "c"] {
        rig.enqueue(claimed(id)).await;
    }
    rig.enqueue(NewJob { owner: "you".to_owned(), ..new_job("d") }).await;
    rig.enqueue(NewJob { kind: JobKind::Response, ..new_job("e") }).await;
    rig.enqueue(NewJob { model: "other".to_owned(), ..new_job("f") }).await;
    rig.complete("b", 1).await;
    let list = async |state, model, page: Page| {
        let listed = rig.store.jobs("me", JobKind::Task, state, model, &page).await.unwrap()?;
        Some((listed.entries.into_iter().map(|job| job.id).collect::<Vec<_>>().join(" "), listed.has_more))
    };
    let newest = |limit, after| page(limit, Order::NewestFirst, after);
    assert_eq!(list(None, None, newest(10, None)).await, Some(("f c b a".to_owned(), false)));
    assert_eq!(list(None, None, newest(2, Some("f"))).await, Some(("c b".to_owned(), true)));
    assert_eq!(list(None, None, newest(2, Some("nowhere"))).await, None);
    assert_eq!(list(None, Some("other"), newest(2, None)).await, Some(("f".to_owned(), false)));
    let completed = Some(JobState::Completed);
    assert_eq!(list(completed, None, newest(2, None)).await, Some(("b".to_owned(), false)));
    let oldest = page(2, Order::OldestFirst, Some("a"));
    assert_eq!(list(None, None, oldest).await, Some(("b c".to_owned(), true)));
    let listed = rig.store.jobs("me", JobKind::Task, completed, None, &newest(1, None)).await.unwrap();
    let job = &listed.unwrap().entries[0];
    assert_eq!((job.request.as_str(), job.result.as_deref()), ("", None));
}

async fn who_waits_for_work_is_woken(database: Database) {
    let rig = database.open(PLENTY).await;
    let work = rig.store.work();
    rig.enqueue(claimed("a")).await;
    rig.enqueue(new_job("b")).await;
    work.notified().await;
    rig.store.release("a", 1).await.unwrap();
    work.notified().await;
    let rig = rig.crash().await;
    rig.store.work().notified().await;
}

async fn ended_jobs_go_when_they_are_too_many_and_unfinished_ones_never(database: Database) {
    let rig = database.open(Bounds { objects: 2, age: CENTURY, ..PLENTY }).await;
    for number in 0..5 {
        let id = format!("ended {number}");
        rig.enqueue(claimed(&id)).await;
        rig.enqueue(new_job(&format!("queued {number}"))).await;
        let outcome = Outcome { finished_at_ms: 1000 + number, ..outcome(JobState::Completed) };
        assert!(rig.store.complete(&id, 1, outcome).await.unwrap());
    }
    let all = page(100, Order::OldestFirst, None);
    let list = async || rig.store.jobs("me", JobKind::Task, None, None, &all).await.unwrap().unwrap().entries;
    eventually(async || list().await.len() <= 7).await;
    let listed = list().await;
    let left: HashSet<&str> = ids(&listed).into_iter().filter(|id| id.starts_with("ended")).collect();
    assert_eq!(left, HashSet::from(["ended 3", "ended 4"]));
    assert_eq!((listed.len(), rig.unfinished().await), (7, 5));
}

async fn the_lines_of_a_group_go_when_all_have_ended(database: Database) {
    let rig = database.open(Bounds { objects: 0, ..PLENTY }).await;
    rig.store.enqueue_all((0..3).map(|number| line("g", number)).collect()).await.unwrap();
    rig.store.claim(3).await.unwrap();
    for number in 0..2 {
        assert!(rig.complete(&line("g", number).id, 1).await);
    }
    let rig = rig.reopen(Bounds { objects: 0, age: CENTURY, ..PLENTY }).await;
    assert_eq!(rig.store.group_counts("g").await.unwrap().completed, 2);
    rig.store.claim(1).await.unwrap();
    assert!(rig.complete(&line("g", 2).id, 2).await);
    let rig = rig.reopen(Bounds { objects: 0, age: CENTURY, ..PLENTY }).await;
    eventually(async || rig.store.group_counts("g").await.unwrap().total == 0).await;
}

async fn many_callers_at_once_lose_nothing_and_do_nothing_twice(database: Database) {
    let rig = database.open(PLENTY).await;
    let enqueues = (0..1000).map(|number| {
        let job = if number % 2 == 0 { claimed(&number.to_string()) } else { new_job(&number.to_string()) };
        rig.store.enqueue(job)
    });
    join_all(enqueues).await.into_iter().for_each(|enqueued| assert_eq!(enqueued.unwrap(), Enqueued::New));
    let claims = join_all((0..60).map(|_| rig.store.claim(10))).await;
    let taken: Vec<String> = claims.into_iter().flat_map(|jobs| jobs.unwrap()).map(|job| job.id).collect();
    assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 500);
    assert_eq!(taken.len(), 500);
    let ids: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    let ends = ids.iter().flat_map(|id| [rig.complete(id, 1), rig.complete(id, 1)]);
    assert!(join_all(ends).await.into_iter().all(|applied| applied));
    assert_eq!((rig.unfinished().await, rig.store.fenced()), (0, 0));
}
