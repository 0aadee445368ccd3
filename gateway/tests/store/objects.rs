//! Objects: kept for their owner, for a while.

use protocol::openai::metadata::Metadata;

use gateway::store::{Bounds, Kind, Object, Order, Page};

use crate::{CENTURY, Database, PLENTY, Rig, eventually, on_each_database, page};

on_each_database! {
    only_its_owner_sees_an_object_and_it_outlives_the_process
    lists_come_in_pages_both_ways
    lists_are_filtered_by_model_and_by_pairs_of_any_characters
    a_conversation_is_told_whole_or_not_at_all
    items_lead_to_what_holds_them
    what_is_too_old_goes_at_the_start_and_the_oldest_go_where_there_are_too_many
    too_many_bytes_cost_the_oldest_and_no_more_than_that
    many_writes_at_once_are_all_written_and_a_bad_one_is_told
}

impl Rig {
    async fn put(&self, object: Object) {
        self.store.put(object, Vec::new()).await.unwrap();
    }

    async fn ids(&self, page: &Page) -> Vec<String> {
        let listed = self.store.list("me", Kind::ChatCompletion, page, None, &Metadata::new()).await.unwrap();
        listed.unwrap().entries.into_iter().map(|object| object.id).collect()
    }
}

pub fn object(id: &str) -> Object {
    Object {
        kind: Kind::ChatCompletion,
        id: id.to_owned(),
        owner: "me".to_owned(),
        created_at: i64::MAX / 2,
        model: "m".to_owned(),
        metadata: Metadata::new(),
        previous: None,
        input: "[]".to_owned(),
        body: "{}".to_owned(),
    }
}

pub fn response(id: &str, previous: Option<&str>) -> Object {
    Object { kind: Kind::Response, previous: previous.map(str::to_owned), ..object(id) }
}

fn pairs(pairs: &[(&str, &str)]) -> Metadata {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn only_its_owner_sees_an_object_and_it_outlives_the_process(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.put(object("a")).await;
    let rig = rig.reopen(PLENTY).await;
    let get = async |owner, kind, id| rig.store.get(owner, kind, id).await.unwrap();
    assert_eq!(get("me", Kind::ChatCompletion, "a").await, Some(object("a")));
    assert_eq!(get("you", Kind::ChatCompletion, "a").await, None);
    assert_eq!(get("me", Kind::Response, "a").await, None);
    assert!(!rig.store.delete("you", Kind::ChatCompletion, "a").await.unwrap());
    assert!(!rig.store.set_metadata("you", Kind::ChatCompletion, "a", Metadata::new()).await.unwrap());
    assert!(rig.store.delete("me", Kind::ChatCompletion, "a").await.unwrap());
    assert_eq!(get("me", Kind::ChatCompletion, "a").await, None);
}

#[tokio::test]
async fn only_the_queens_user_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Database::sqlite().open(PLENTY).await;
    rig.put(object("a")).await;
    let Database::Sqlite(folder) = &rig.database else { panic!("a file") };
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
}

async fn lists_come_in_pages_both_ways(database: Database) {
    let rig = database.open(PLENTY).await;
    for id in ["a", "b", "c"] {
        rig.put(object(id)).await;
    }
    assert_eq!(rig.ids(&page(2, Order::OldestFirst, None)).await, ["a", "b"]);
    assert_eq!(rig.ids(&page(2, Order::OldestFirst, Some("b"))).await, ["c"]);
    assert_eq!(rig.ids(&page(2, Order::NewestFirst, None)).await, ["c", "b"]);
    assert_eq!(rig.ids(&page(2, Order::NewestFirst, Some("b"))).await, ["a"]);
    let list = async |page: Page| {
        rig.store.list("me", Kind::ChatCompletion, &page, None, &Metadata::new()).await.unwrap()
    };
    assert!(list(page(2, Order::OldestFirst, None)).await.unwrap().has_more);
    assert!(!list(page(3, Order::OldestFirst, None)).await.unwrap().has_more);
    assert!(list(page(2, Order::OldestFirst, Some("nowhere"))).await.is_none());
}

async fn lists_are_filtered_by_model_and_by_pairs_of_any_characters(database: Database) {
    let rig = database.open(PLENTY).await;
    let odd = pairs(&[("a.b", "1"), ("$\"'", "%_")]);
    rig.put(Object { metadata: odd.clone(), ..object("odd") }).await;
    rig.put(Object { model: "other".to_owned(), ..object("plain") }).await;
    let list = async |model: Option<&str>, metadata: Metadata| {
        let all = page(10, Order::OldestFirst, None);
        let listed = rig.store.list("me", Kind::ChatCompletion, &all, model, &metadata).await.unwrap();
        listed.unwrap().entries.into_iter().map(|object| object.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, odd).await, ["odd"]);
    assert_eq!(list(Some("other"), Metadata::new()).await, ["plain"]);
    assert!(list(None, pairs(&[("a.b", "2")])).await.is_empty());
    assert!(
        rig.store.set_metadata("me", Kind::ChatCompletion, "plain", pairs(&[("a.b", "2")])).await.unwrap()
    );
    assert_eq!(list(None, pairs(&[("a.b", "2")])).await, ["plain"]);
}

async fn a_conversation_is_told_whole_or_not_at_all(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.put(response("r1", None)).await;
    rig.put(response("r2", Some("r1"))).await;
    rig.put(response("r3", Some("r2"))).await;
    let turns = async |owner, id| {
        let turns = rig.store.conversation(owner, id).await.unwrap();
        turns.map(|turns| turns.into_iter().map(|turn| turn.id).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(turns("me", "r3").await.as_deref(), Some("r1 r2 r3"));
    assert_eq!(turns("you", "r3").await, None);
    assert_eq!(turns("me", "r4").await, None);
    rig.store.delete("me", Kind::Response, "r1").await.unwrap();
    assert_eq!(turns("me", "r3").await, None);
}

async fn items_lead_to_what_holds_them(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.store.put(response("r1", None), vec!["msg_1".to_owned(), "fc_1".to_owned()]).await.unwrap();
    let holder = async |owner, item| rig.store.holder(owner, item).await.unwrap().map(|object| object.id);
    assert_eq!(holder("me", "fc_1").await.as_deref(), Some("r1"));
    assert_eq!(holder("you", "fc_1").await, None);
    rig.store.delete("me", Kind::Response, "r1").await.unwrap();
    assert_eq!(holder("me", "fc_1").await, None);
}

async fn what_is_too_old_goes_at_the_start_and_the_oldest_go_where_there_are_too_many(database: Database) {
    let rig = database.open(Bounds { objects: 2, age: CENTURY, ..PLENTY }).await;
    let all = page(10, Order::OldestFirst, None);
    for id in ["a", "b", "c"] {
        rig.put(object(id)).await;
    }
    eventually(async || rig.ids(&all).await == ["b", "c"]).await;
    rig.put(Object { created_at: 0, ..object("d") }).await;
    eventually(async || rig.ids(&all).await == ["c", "d"]).await;
    let rig = rig.reopen(PLENTY).await;
    eventually(async || !rig.ids(&all).await.contains(&"d".to_owned())).await;
    assert_eq!(rig.ids(&all).await, ["c"]);
}

async fn too_many_bytes_cost_the_oldest_and_no_more_than_that(database: Database) {
    let rig = database.open(Bounds { bytes: 250, ..PLENTY }).await;
    for id in ["a", "b", "c"] {
        rig.put(Object { body: "x".repeat(100), ..object(id) }).await;
    }
    let all = page(10, Order::OldestFirst, None);
    eventually(async || rig.ids(&all).await == ["b", "c"]).await;
}

async fn many_writes_at_once_are_all_written_and_a_bad_one_is_told(database: Database) {
    let rig = database.open(PLENTY).await;
    let writes = (0..300).map(|number| rig.store.put(object(&number.to_string()), Vec::new()));
    for outcome in futures::future::join_all(writes).await {
        outcome.unwrap();
    }
    assert_eq!(rig.ids(&page(1000, Order::OldestFirst, None)).await.len(), 300);
    assert!(rig.store.put(object("0"), Vec::new()).await.is_err(), "an id is kept once");
    rig.put(object("301")).await;
}
