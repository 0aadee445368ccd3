//! Files: seen when complete, by their owner alone, within what they may have.

use gateway::store::{Bounds, FILE_CHUNK, File, FileStatus, Order, Quota, StoreError};

use crate::{Database, PLENTY, Rig, eventually, on_each_database, page};

on_each_database! {
    a_file_is_seen_when_it_is_complete_and_by_its_owner_alone
    a_file_comes_back_as_it_was_in_pieces
    files_come_in_pages_by_purpose
    a_deleted_file_is_gone_and_its_room_is_free
    what_expires_is_not_seen_any_more
    nobody_has_more_than_the_quota
    an_id_is_used_once
}

pub fn file(id: &str) -> File {
    File {
        id: id.to_owned(),
        owner: "me".to_owned(),
        created_at: i64::MAX / 2,
        expires_at: None,
        filename: "requests.jsonl".to_owned(),
        purpose: "batch".to_owned(),
        bytes: 0,
        status: FileStatus::Uploading,
    }
}

impl Rig {
    async fn upload(&self, file: File, data: &[u8]) -> Result<File, StoreError> {
        let mut upload = self.store.begin_file(file).await?;
        upload.append(data).await?;
        upload.finish().await
    }
}

async fn a_file_is_seen_when_it_is_complete_and_by_its_owner_alone(database: Database) {
    let rig = database.open(PLENTY).await;
    let mut upload = rig.store.begin_file(file("a")).await.unwrap();
    upload.append(&vec![b'x'; FILE_CHUNK + 1]).await.unwrap();
    assert_eq!(rig.store.file("me", "a").await.unwrap(), None);
    assert_eq!(rig.store.file_chunk("me", "a", 0).await.unwrap(), None);
    let complete = upload.finish().await.unwrap();
    assert_eq!(complete, File { bytes: FILE_CHUNK as u64 + 1, status: FileStatus::Uploaded, ..file("a") });
    let rig = rig.crash().await;
    assert_eq!(rig.store.file("me", "a").await.unwrap(), Some(complete));
    assert_eq!(rig.store.file("you", "a").await.unwrap(), None);
    assert_eq!(rig.store.file_chunk("you", "a", 0).await.unwrap(), None);
    assert!(!rig.store.delete_file("you", "a").await.unwrap());
}

async fn a_file_comes_back_as_it_was_in_pieces(database: Database) {
    let rig = database.open(PLENTY).await;
    let data: Vec<u8> = (0..3 * FILE_CHUNK + 7).map(|place| (place * 31 % 251) as u8).collect();
    let mut upload = rig.store.begin_file(file("a")).await.unwrap();
    for part in data.chunks(100_003) {
        upload.append(part).await.unwrap();
    }
    assert_eq!(upload.finish().await.unwrap().bytes, data.len() as u64);
    let mut read = Vec::new();
    for number in 0.. {
        let Some(piece) = rig.store.file_chunk("me", "a", number).await.unwrap() else { break };
        assert!(piece.len() == FILE_CHUNK || number == 3);
        read.extend(piece);
    }
    assert!(read == data);
    assert_eq!(rig.upload(file("empty"), &[]).await.unwrap().bytes, 0);
    assert_eq!(rig.store.file_chunk("me", "empty", 0).await.unwrap(), None);
}

async fn files_come_in_pages_by_purpose(database: Database) {
    let rig = database.open(PLENTY).await;
    for (id, purpose) in [("a", "batch"), ("b", "batch"), ("c", "batch_output")] {
        rig.upload(File { purpose: purpose.to_owned(), ..file(id) }, b"x").await.unwrap();
    }
    rig.store.begin_file(file("d")).await.unwrap();
    let list = async |purpose, page| {
        let listed = rig.store.files("me", purpose, &page).await.unwrap()?;
        Some((listed.entries.into_iter().map(|file| file.id).collect::<Vec<_>>().join(" "), listed.has_more))
    };
    let newest = |after| page(2, Order::NewestFirst, after);
    assert_eq!(list(None, newest(None)).await, Some(("c b".to_owned(), true)));
    assert_eq!(list(None, newest(Some("b"))).await, Some(("a".to_owned(), false)));
    assert_eq!(list(Some("batch"), newest(None)).await, Some(("b a".to_owned(), false)));
    assert_eq!(list(None, page(2, Order::OldestFirst, None)).await, Some(("a b".to_owned(), true)));
    assert_eq!(list(None, newest(Some("nowhere"))).await, None);
}

async fn a_deleted_file_is_gone_and_its_room_is_free(database: Database) {
    let rig = database.open(Bounds { owner_file_bytes: 2 << 20, ..PLENTY }).await;
    let data = vec![0; 2 << 20];
    rig.upload(file("a"), &data).await.unwrap();
    assert!(rig.store.delete_file("me", "a").await.unwrap());
    assert!(!rig.store.delete_file("me", "a").await.unwrap());
    assert_eq!(rig.store.file("me", "a").await.unwrap(), None);
    assert_eq!(rig.store.file_chunk("me", "a", 0).await.unwrap(), None);
    // Its id can be used again when it is gone from the disk as well.
    eventually(async || rig.store.begin_file(file("a")).await.is_ok()).await;
    rig.upload(file("b"), &data).await.unwrap();
}

async fn what_expires_is_not_seen_any_more(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.upload(File { expires_at: Some(1), ..file("past") }, b"x").await.unwrap();
    rig.upload(File { expires_at: Some(i64::MAX / 2), ..file("later") }, b"x").await.unwrap();
    assert_eq!(rig.store.file("me", "past").await.unwrap(), None);
    assert_eq!(rig.store.file_chunk("me", "past", 0).await.unwrap(), None);
    assert!(!rig.store.delete_file("me", "past").await.unwrap());
    let listed = rig.store.files("me", None, &page(10, Order::OldestFirst, None)).await.unwrap().unwrap();
    assert_eq!(listed.entries.len(), 1);
    assert!(rig.store.file("me", "later").await.unwrap().is_some());
    let rig = rig.reopen(PLENTY).await;
    eventually(async || rig.store.begin_file(file("past")).await.is_ok()).await;
}

async fn nobody_has_more_than_the_quota(database: Database) {
    let rig = database.open(Bounds { owner_file_bytes: 3 << 20, file_bytes: 4 << 20, ..PLENTY }).await;
    rig.upload(file("a"), &vec![0; 2 << 20]).await.unwrap();
    let error = rig.upload(file("b"), &vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert!(matches!(error, StoreError::Quota(Quota::Owner(bytes)) if bytes == 3 << 20), "{error:?}");
    assert_eq!(rig.store.file("me", "b").await.unwrap(), None);
    let other = |id| File { owner: "you".to_owned(), ..file(id) };
    let error = rig.upload(other("c"), &vec![0; 2 << 20]).await.unwrap_err();
    assert!(matches!(error, StoreError::Quota(Quota::All(bytes)) if bytes == 4 << 20), "{error:?}");
}

async fn an_id_is_used_once(database: Database) {
    let rig = database.open(PLENTY).await;
    rig.upload(file("a"), b"x").await.unwrap();
    assert!(rig.store.begin_file(file("a")).await.is_err());
}
