//! A file on this machine. It is used where it lies: never copied, never deleted.

use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use protocol::hive::DownloadStage;
use protocol::{ApiError, ErrorCode};

use super::unpack::file_digest;
use super::{Fetch, Fetched, Source};
use crate::catalog::entry::Sha256Hex;

#[derive(Debug)]
pub(super) struct FileSource {
    path: PathBuf,
    sha256: Option<Sha256Hex>,
}

impl FileSource {
    pub(super) fn new(path: &Path, sha256: Option<&Sha256Hex>) -> Self {
        Self { path: path.to_owned(), sha256: sha256.cloned() }
    }

    async fn check(&self, fetch: Fetch<'_>) -> Result<Fetched, ApiError> {
        let not_found = |why: String| {
            ApiError::new(ErrorCode::ModelNotFound, format!("{} cannot be used: {why}.", self.path.display()))
                .with_action("Check the path and its permissions on the hive's machine.")
        };
        let metadata = tokio::fs::metadata(&self.path).await.map_err(|error| not_found(error.to_string()))?;
        if !metadata.is_file() {
            return Err(not_found("it is not a file".to_owned()));
        }
        // Opening tells of missing rights now instead of in the worker's log later.
        tokio::fs::File::open(&self.path).await.map_err(|error| not_found(error.to_string()))?;
        if let Some(expected) = &self.sha256 {
            fetch.progress.report(DownloadStage::Verifying, metadata.len());
            let actual = file_digest(&self.path, fetch.cancel).await?;
            if actual != *expected {
                return Err(ApiError::new(
                    ErrorCode::ModelCorrupted,
                    format!(
                        "{} has another SHA-256 than its catalog entry pins; it was left as it is.",
                        self.path.display()
                    ),
                )
                .with_detail("expected_sha256", expected.as_str())
                .with_detail("actual_sha256", actual.as_str())
                .with_action("Replace the file, or correct the digest in [[hive.models]]."));
            }
        }
        Ok(Fetched::InPlace(metadata.len()))
    }
}

impl Source for FileSource {
    fn total_bytes(&self) -> u64 {
        0
    }

    fn disk_bytes(&self, _staging: &Path) -> u64 {
        0
    }

    fn fetch<'a>(&'a self, fetch: Fetch<'a>) -> BoxFuture<'a, Result<Fetched, ApiError>> {
        Box::pin(self.check(fetch))
    }
}
