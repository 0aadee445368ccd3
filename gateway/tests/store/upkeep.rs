//! Databases are copied into each other, checked and saved.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use gateway::store::{
    Batch, BatchStatus, Enqueued, FILE_CHUNK, Idempotency, JobState, Kind, Location, NewJob, Order, Store,
    backup, check, migrate,
};
use protocol::openai::metadata::Metadata;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};

use crate::batches::batch;
use crate::files::file;
use crate::jobs::{claimed, line, new_job, outcome};
use crate::objects::{object, response};
use crate::{Database, PLENTY, Queen, Rig, on_each_database, page};

on_each_database! {
    what_a_queen_leaves_is_sound
    a_running_queens_database_is_saved_in_a_file
    a_database_that_is_not_empty_is_not_copied_into
}

/// Something of all that there is.
async fn fill(store: &Store) {
    let odd = Metadata::from_iter([("k\0".to_owned(), "v\0\"".to_owned())]);
    let with_pairs = gateway::store::Object { metadata: odd, ..object("chat") };
    store.put(with_pairs, Vec::new()).await.unwrap();
    store.put(object("gone"), Vec::new()).await.unwrap();
    store.put(response("first", None), vec!["item".to_owned()]).await.unwrap();
    store.put(response("second", Some("first")), Vec::new()).await.unwrap();
    store.delete("me", Kind::ChatCompletion, "gone").await.unwrap();
    let idempotency = Some(Idempotency { key: "k".to_owned(), digest: "d".to_owned() });
    store.enqueue_all(vec![claimed("done"), claimed("held"), line("g", 7)]).await.unwrap();
    store.enqueue(NewJob { idempotency, ..new_job("keyed") }).await.unwrap();
    assert!(store.complete("done", 1, outcome(JobState::Completed)).await.unwrap());
    let mut upload = store.begin_file(file("file")).await.unwrap();
    upload.append(&content()).await.unwrap();
    upload.finish().await.unwrap();
    store.put_batch(Batch { status: BatchStatus::InProgress, ..batch("g") }).await.unwrap();
}

fn content() -> Vec<u8> {
    (0..FILE_CHUNK + 1000).map(|place| (place % 251) as u8).collect()
}

/// It is all there, and goes on.
async fn check_filled(store: &Store) {
    let odd = Metadata::from_iter([("k\0".to_owned(), "v\0\"".to_owned())]);
    let all = page(10, Order::OldestFirst, None);
    let chats = store.list("me", Kind::ChatCompletion, &all, None, &odd).await.unwrap().unwrap();
    assert_eq!(chats.entries.len(), 1);
    assert_eq!(chats.entries[0].metadata, odd);
    assert_eq!(store.conversation("me", "second").await.unwrap().unwrap().len(), 2);
    assert_eq!(store.holder("me", "item").await.unwrap().unwrap().id, "first");
    let done = store.job("me", "done").await.unwrap().unwrap();
    assert_eq!((done.state, done.result), (JobState::Completed, Some(outcome(JobState::Completed).result)));
    assert_eq!(store.job_events("me", "done").await.unwrap(), Some(outcome(JobState::Completed).events));
    assert_eq!(store.unfinished().await.unwrap(), 3);
    let idempotency = Some(Idempotency { key: "k".to_owned(), digest: "d".to_owned() });
    let again = store.enqueue(NewJob { idempotency, ..new_job("again") }).await.unwrap();
    assert!(matches!(again, Enqueued::Existing(job) if job.id == "keyed"));
    let mut read = store.file_chunk("me", "file", 0).await.unwrap().unwrap();
    read.extend(store.file_chunk("me", "file", 1).await.unwrap().unwrap());
    assert!(read == content());
    assert_eq!(store.claim_batches().await.unwrap().len(), 1);
    let mut jobs = store.claim(10).await.unwrap();
    jobs.sort_by(|one, other| one.id.cmp(&other.id));
    let claimed: Vec<(&str, u32)> = jobs.iter().map(|job| (job.id.as_str(), job.attempt)).collect();
    assert_eq!(claimed, [("g 7", 1), ("held", 2), ("keyed", 1)]);
    store.put(object("new"), Vec::new()).await.unwrap();
    let chats = store.list("me", Kind::ChatCompletion, &all, None, &Metadata::new()).await.unwrap().unwrap();
    assert_eq!(chats.entries.iter().map(|object| object.id.as_str()).collect::<Vec<_>>(), ["chat", "new"]);
}

async fn assert_sound(location: &Location) {
    assert_eq!(check(location).await.unwrap(), Vec::<String>::new());
}

async fn what_a_queen_leaves_is_sound(database: Database) {
    let rig = database.open(PLENTY).await;
    fill(&rig.store).await;
    assert_sound(&rig.database.location()).await;
    rig.store.delete_file("me", "file").await.unwrap();
    rig.store.cancel("me", "keyed", 1, outcome(JobState::Cancelled)).await.unwrap();
    let rig = rig.crash().await;
    assert_sound(&rig.database.location()).await;
    let rig = rig.reopen(PLENTY).await;
    assert_sound(&rig.database.location()).await;
}

async fn a_running_queens_database_is_saved_in_a_file(database: Database) {
    let rig = database.open(PLENTY).await;
    fill(&rig.store).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved.db");
    backup(&rig.database.location(), &file).await.unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(backup(&rig.database.location(), &file).await.is_err());
    let saved = Location::Sqlite(file);
    assert_sound(&saved).await;
    let queen = Queen::open(&saved, PLENTY).await;
    check_filled(&queen.store).await;
    queen.close().await;
    assert_eq!(rig.store.job("me", "held").await.unwrap().unwrap().state, JobState::Running);
}

async fn a_database_that_is_not_empty_is_not_copied_into(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.store.put(object("there"), Vec::new()).await.unwrap();
    let Rig { queen, database, .. } = rig;
    queen.close().await;
    let other = Database::sqlite().open(PLENTY).await;
    other.store.put(object("a"), Vec::new()).await.unwrap();
    let Rig { queen, database: other, .. } = other;
    queen.close().await;
    let error = migrate(&other.location(), &database.location(), |_, _| {}).await.unwrap_err();
    assert!(format!("{error:#}").contains("is not empty"), "{error:#}");
    let rig = database.open(PLENTY).await;
    assert!(rig.store.get("me", Kind::ChatCompletion, "a").await.unwrap().is_none());
}

#[tokio::test]
async fn all_goes_to_the_other_kind_of_database_and_back() {
    let Some(server) = Database::postgres().await else { return };
    let rig = Database::sqlite().open(PLENTY).await;
    fill(&rig.store).await;
    let Rig { queen, database: file, .. } = rig;
    queen.kill().await;
    let mut progress = Vec::new();
    let (from, to) = (file.location(), server.location());
    let counts = migrate(&from, &to, |table, rows| progress.push((table, rows))).await.unwrap();
    assert_eq!((counts["objects"], counts["jobs"], counts["file_chunks"]), (3, 4, 2));
    assert!(progress.contains(&("jobs", 4)));
    assert_sound(&server.location()).await;
    let back = Database::sqlite();
    migrate(&server.location(), &back.location(), |_, _| {}).await.unwrap();
    assert_sound(&back.location()).await;
    for database in [server, back] {
        let rig = database.open(PLENTY).await;
        check_filled(&rig.store).await;
        assert_sound(&rig.database.location()).await;
        if let Database::Postgres(_) = &rig.database {
            let error = migrate(&rig.database.location(), &file.location(), |_, _| {}).await.unwrap_err();
            assert!(format!("{error:#}").contains("queens run on it"), "{error:#}");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_found() {
    let rig = Database::sqlite().open(PLENTY).await;
    fill(&rig.store).await;
    let Rig { queen, database, .. } = rig;
    queen.close().await;
    let Location::Sqlite(path) = database.location() else { panic!("a file") };
    harm(
        &path,
        "PRAGMA foreign_keys = OFF; UPDATE objects SET bytes = 5 WHERE id = 'chat'; \
         DELETE FROM file_chunks WHERE number = 0; UPDATE file_usage SET bytes = 1; \
         INSERT INTO items VALUES ('stray', 999)",
    )
    .await;
    let wrong = check(&database.location()).await.unwrap().join("\n");
    for word in
        ["1 objects whose size", "1 files that are not as long", "gaps", "counted wrongly", "refers to"]
    {
        assert!(wrong.contains(word), "{word} is not in\n{wrong}");
    }
    assert!(check(&Location::Sqlite(path.with_extension("none"))).await.is_err());
}

async fn harm(path: &Path, sql: &'static str) {
    let mut connection = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    connection.execute(sql).await.unwrap();
}

#[tokio::test]
async fn wrong_sums_of_a_server_are_found() {
    let Some(database) = Database::postgres().await else { return };
    let rig = database.open(PLENTY).await;
    fill(&rig.store).await;
    let Rig { queen, database, .. } = rig;
    queen.close().await;
    let Database::Postgres(options) = &database else { panic!("a server") };
    let mut connection = options.connect().await.unwrap();
    connection.execute("UPDATE tallies SET unfinished = unfinished + 1").await.unwrap();
    let wrong = check(&database.location()).await.unwrap();
    assert_eq!(wrong, ["1 sums of what is kept that are not what is there"]);
}
