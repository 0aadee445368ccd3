//! A queen is killed, at any moment, as by `kill -9`. What was acknowledged is there.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gateway::store::{Bounds, JobState, Location};

use crate::jobs::{claimed, outcome};
use crate::{Database, PLENTY, Queen, on_each_database};

on_each_database! {
    what_was_acknowledged_outlives_a_killed_queen
}

/// Nothing is thrown out meanwhile.
const ALL: Bounds = Bounds { objects: 1_000_000, bytes: 1 << 30, ..PLENTY };
/// Names the database to a child.
const CHILD: &str = "RBEE_TEST_CHILD";

async fn what_was_acknowledged_outlives_a_killed_queen(mut database: Database) {
    for words in [1, 40, 700] {
        let name = match &database {
            Database::Sqlite(folder) => folder.path().join("queen.db").display().to_string(),
            Database::Postgres(options) => {
                options.get_options().unwrap().rsplit_once('=').unwrap().1.to_owned()
            }
        };
        let (enqueued, completed) =
            tokio::task::spawn_blocking(move || kill_after(words, &name)).await.unwrap();
        assert!(enqueued.len() + completed.len() >= words);
        database.expire_leases().await;
        let rig = database.open(ALL).await;
        for id in &enqueued {
            let job = rig.store.job("me", id).await.unwrap().unwrap();
            // One whose end was not told has ended all the same, or is to be done again.
            let is_to_be_done = job.state == JobState::Queued && !completed.contains(id);
            assert!(job.state == JobState::Completed || is_to_be_done, "{job:?}");
        }
        while let [job] = &rig.store.claim(1).await.unwrap()[..] {
            assert_eq!(job.attempt, 2);
            assert!(rig.store.complete(&job.id, 2, outcome(JobState::Completed)).await.unwrap());
        }
        assert_eq!(rig.store.unfinished().await.unwrap(), 0);
        let wrong = gateway::store::check(&rig.database.location()).await.unwrap();
        assert_eq!(wrong, Vec::<String>::new());
        rig.queen.close().await;
        database = rig.database;
    }
}

/// Has a child work, kills it after so many words of it, and returns what it told.
fn kill_after(words: usize, database: &str) -> (HashSet<String>, HashSet<String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(CHILD, database)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut enqueued, mut completed) = (HashSet::new(), HashSet::new());
    let mut told = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        match line.unwrap().split_once(": ") {
            Some(("enqueued", id)) => told += usize::from(enqueued.insert(id.to_owned())),
            Some(("completed", id)) => told += usize::from(completed.insert(id.to_owned())),
            _ => {}
        }
        // What it told before it died is still in the pipe, and is read to its end.
        if told == words {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    (enqueued, completed)
}

/// The queen that is killed; a test that does nothing where it was not started for that.
#[tokio::test]
async fn child() {
    let Ok(name) = std::env::var(CHILD) else { return };
    let location = if name.starts_with('/') {
        Location::Sqlite(PathBuf::from(name))
    } else {
        let url = std::env::var("RBEE_TEST_POSTGRES").unwrap();
        let Location::Postgres(options) = Location::postgres(&url).unwrap() else { panic!("a server") };
        Location::Postgres(Box::new(options.options([("search_path", name)])))
    };
    let queen = Queen::open(&location, ALL).await;
    let tell = |word: &str, id: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{word}: {id}").unwrap();
        out.flush().unwrap();
    };
    println!();
    let work = async || {
        loop {
            let id = uuid::Uuid::new_v4().to_string();
            queen.store.enqueue(claimed(&id)).await.unwrap();
            tell("enqueued", &id);
            assert!(queen.store.complete(&id, 1, outcome(JobState::Completed)).await.unwrap());
            tell("completed", &id);
        }
    };
    futures::future::join_all((0..16).map(|_| work())).await;
}
