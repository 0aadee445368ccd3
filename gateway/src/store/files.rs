//! Files of callers. What is uploaded is written as it comes, and seen when it is complete.

use std::fmt;
use std::ops::RangeInclusive;

use super::write::{Reply, Write};
use super::{Page, Paged, Store, StoreError, ask, undecodable};
use crate::clock::unix_seconds;

/// Bytes of each piece of a file but the last one.
pub const FILE_CHUNK: usize = 1 << 20;
/// Seconds after which a file may go.
pub const FILE_SECONDS: RangeInclusive<i64> = 3600..=2_592_000;
/// An upload that is not complete after so long is given up, in seconds.
pub(super) const UPLOAD_SECONDS: i64 = 24 * 3600;

/// Whether a file can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileStatus {
    /// Not yet: nobody sees it.
    Uploading,
    /// It is complete.
    Uploaded,
}

impl FileStatus {
    pub(super) fn parse(name: &str) -> sqlx::Result<Self> {
        match name {
            "uploading" => Ok(Self::Uploading),
            "uploaded" => Ok(Self::Uploaded),
            other => Err(undecodable(format!("a file is in the unknown state '{other}'"))),
        }
    }
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its id.
    pub id: String,
    /// The caller who alone may see it.
    pub owner: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// When it goes, in seconds since 1970; kept until it is deleted if none.
    pub expires_at: Option<i64>,
    /// What the caller calls it.
    pub filename: String,
    /// What it is for.
    pub purpose: String,
    /// How long it is.
    pub bytes: u64,
    /// Whether it can be used.
    pub status: FileStatus,
}

/// Why a file is not longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// All of the owner's files together may have so many bytes.
    Owner(u64),
    /// All files together may have so many bytes.
    All(u64),
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(bytes) => write!(f, "the files of one caller may have {bytes} bytes together"),
            Self::All(bytes) => write!(f, "the files of all callers may have {bytes} bytes together"),
        }
    }
}

/// A file on its way. One that is dropped before it is complete goes after a while.
pub struct Upload {
    store: Store,
    owner: String,
    id: String,
    /// What does not fill a piece yet.
    rest: Vec<u8>,
    pieces: u32,
}

impl Upload {
    /// Adds to its end; what fills a piece is on disk when this returns.
    pub async fn append(&mut self, mut data: &[u8]) -> Result<(), StoreError> {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(FILE_CHUNK - self.rest.len()));
            self.rest.extend_from_slice(now);
            data = later;
            if self.rest.len() == FILE_CHUNK {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Makes it complete.
    pub async fn finish(mut self) -> Result<File, StoreError> {
        if !self.rest.is_empty() {
            self.flush().await?;
        }
        let (owner, id) = (self.owner, self.id);
        let finished = self.store.write(|reply| Write::FinishFile(FinishFile { owner, id, reply })).await?;
        finished.ok_or(StoreError::Gone)
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        // What waits to be written is in memory; an upload that is faster than the disk has to wait.
        let _place = self.store.pieces.acquire().await.map_err(|_| StoreError::Stopped)?;
        let data = std::mem::take(&mut self.rest);
        let (owner, id, number) = (self.owner.clone(), self.id.clone(), self.pieces);
        self.pieces += 1;
        let appended = self
            .store
            .write(|reply| Write::AppendFile(AppendFile { owner, id, number, data, reply }))
            .await?;
        match appended {
            Appended::Kept => Ok(()),
            Appended::Over(quota) => Err(StoreError::Quota(quota)),
            Appended::Gone => Err(StoreError::Gone),
        }
    }
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appended {
    Kept,
    Over(Quota),
    /// The file was given up meanwhile.
    Gone,
}

pub(super) struct BeginFile {
    pub file: File,
    pub reply: Reply<()>,
}

pub(super) struct AppendFile {
    pub owner: String,
    pub id: String,
    pub number: u32,
    pub data: Vec<u8>,
    pub reply: Reply<Appended>,
}

pub(super) struct FinishFile {
    pub owner: String,
    pub id: String,
    pub reply: Reply<Option<File>>,
}

pub(super) struct DeleteFile {
    pub owner: String,
    pub id: String,
    pub now: i64,
    pub reply: Reply<bool>,
}

impl Store {
    /// Begins a file; its length and status are the store's affair.
    pub async fn begin_file(&self, file: File) -> Result<Upload, StoreError> {
        let file = File { bytes: 0, status: FileStatus::Uploading, ..file };
        let (owner, id) = (file.owner.clone(), file.id.clone());
        self.write(|reply| Write::BeginFile(Box::new(BeginFile { file, reply }))).await?;
        Ok(Upload { store: self.clone(), owner, id, rest: Vec::new(), pieces: 0 })
    }

    /// Removes a file; false if there is none of this id. It is not seen any more at once; its pieces go one by one.
    pub async fn delete_file(&self, owner: &str, id: &str) -> Result<bool, StoreError> {
        let (owner, id, now) = (owner.to_owned(), id.to_owned(), unix_seconds());
        self.write(|reply| Write::DeleteFile(DeleteFile { owner, id, now, reply })).await
    }

    /// One complete file.
    pub async fn file(&self, owner: &str, id: &str) -> Result<Option<File>, StoreError> {
        ask!(self, files::file(owner, id, unix_seconds()))
    }

    /// A piece of a complete file, counted from 0: each but the last one has [`FILE_CHUNK`] bytes.
    pub async fn file_chunk(
        &self,
        owner: &str,
        id: &str,
        number: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        ask!(self, files::chunk(owner, id, number, unix_seconds()))
    }

    /// An owner's complete files. `None` if the page begins after a file that is not there.
    pub async fn files(
        &self,
        owner: &str,
        purpose: Option<&str>,
        page: &Page,
    ) -> Result<Option<Paged<File>>, StoreError> {
        ask!(self, files::files(owner, purpose, page, unix_seconds()))
    }
}
