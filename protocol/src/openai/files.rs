//! Files that callers upload, and that batches leave.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileObject {
    /// Its id.
    pub id: String,
    /// Always "file".
    pub object: String,
    /// How long it is.
    pub bytes: u64,
    /// Seconds since 1970.
    pub created_at: i64,
    /// When it goes, in seconds since 1970; null if it stays until it is deleted.
    pub expires_at: Option<i64>,
    /// What the caller calls it.
    pub filename: String,
    /// What it is for: `batch`, `batch_output` or `user_data`.
    pub purpose: String,
    /// Always "processed": it can be used.
    pub status: String,
}

/// Answer of GET /v1/files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileList {
    /// Always "list".
    pub object: String,
    /// The files.
    pub data: Vec<FileObject>,
    /// The first one's id.
    pub first_id: Option<String>,
    /// The last one's id.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

/// Answer of DELETE /v1/files/{file_id}.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDeleted {
    /// Its id.
    pub id: String,
    /// Always "file".
    pub object: String,
    /// Always true.
    pub deleted: bool,
}

/// The form of POST /v1/files.
#[derive(Debug, ToSchema)]
pub struct FileForm {
    /// The file, with its name.
    #[schema(value_type = String, format = Binary)]
    pub file: Vec<u8>,
    /// What it is for: `batch` or `user_data`.
    pub purpose: String,
    /// Must be `created_at`, if the file is to go after a time.
    #[schema(rename = "expires_after[anchor]")]
    pub anchor: Option<String>,
    /// Seconds after which it goes, 3600 to 2592000.
    #[schema(rename = "expires_after[seconds]")]
    pub seconds: Option<u64>,
}
