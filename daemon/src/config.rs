//! Settings in layers: a flag wins over an environment variable, that over the settings file, that over the default.
//!
//! Each daemon declares its flags and variables with clap, every one optional, and a section of the settings file with
//! serde; it then takes the first that is present. This module finds and reads the file.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::de::DeserializeOwned;

/// The settings that all daemons share.
#[derive(Debug, Clone, Default, Args)]
pub struct CommonArgs {
    /// Where rbee keeps its models, databases and logs [default: ~/.rbee]
    #[arg(long, env = "RBEE_DATA_DIR", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Settings file in TOML, one section for each daemon [default: DATA_DIR/config.toml]
    #[arg(long, env = "RBEE_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter such as gateway=debug,info [default: info]
    #[arg(long, env = "RUST_LOG", value_name = "LEVEL", global = true)]
    pub log_level: Option<String>,
}

/// Why the settings could not be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("cannot tell where the home folder is; set --data-dir or RBEE_DATA_DIR")]
    NoHome,
    #[error("cannot read the settings file {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the settings file {path} is not valid: {message}")]
    Parse { path: PathBuf, message: String },
}

impl CommonArgs {
    /// The data directory as an absolute path.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        let chosen = match &self.data_dir {
            Some(dir) => dir.clone(),
            None => std::env::home_dir()
                .filter(|home| !home.as_os_str().is_empty())
                .ok_or(ConfigError::NoHome)?
                .join(".rbee"),
        };
        std::path::absolute(&chosen).map_err(|source| ConfigError::Read { path: chosen, source })
    }

    /// One section of the settings file. A file that was not asked for by name may be absent.
    pub fn section<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, ConfigError> {
        let path = if let Some(path) = &self.config {
            path.clone()
        } else {
            let path = self.data_dir()?.join("config.toml");
            if !path.exists() {
                return Ok(T::default());
            }
            path
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        parse_section(&path, &text, name)
    }
}

/// The value behind a setting that may be kept elsewhere: `env:NAME`, `file:PATH`, or the value itself.
pub fn secret(setting: &str) -> Result<String, String> {
    if let Some(name) = setting.strip_prefix("env:") {
        std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))
    } else if let Some(path) = setting.strip_prefix("file:") {
        std::fs::read_to_string(path).map_err(|error| format!("the file {path}: {error}"))
    } else {
        Ok(setting.to_owned())
    }
}

/// Sections that a settings file may hold; any other is a slip of the pen that would go unnoticed.
const SECTIONS: [&str; 4] = ["queen", "hive", "worker", "keeper"];

fn parse_section<T: DeserializeOwned + Default>(
    path: &Path,
    text: &str,
    name: &str,
) -> Result<T, ConfigError> {
    let invalid = |message: String| ConfigError::Parse { path: path.to_owned(), message };
    let mut file: toml::Table = text.parse().map_err(|error: toml::de::Error| invalid(error.to_string()))?;
    if let Some(unknown) = file.keys().find(|key| !SECTIONS.contains(&key.as_str())) {
        return Err(invalid(format!("'{unknown}' is not a section; known are {}", SECTIONS.join(", "))));
    }
    match file.remove(name) {
        Some(section) => section.try_into().map_err(|error| invalid(format!("[{name}]: {error}"))),
        None => Ok(T::default()),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Section {
        port: Option<u16>,
    }

    fn parse(text: &str) -> Result<Section, ConfigError> {
        parse_section(Path::new("config.toml"), text, "queen")
    }

    #[test]
    fn a_section_is_read_and_an_absent_one_is_the_default() {
        assert_eq!(parse("[queen]\nport = 81").unwrap(), Section { port: Some(81) });
        assert_eq!(parse("[hive]\nport = 81").unwrap(), Section::default());
    }

    #[test]
    fn slips_of_the_pen_are_named() {
        assert!(parse("[quen]\nport = 81").unwrap_err().to_string().contains("'quen' is not a section"));
        assert!(parse("[queen]\nprt = 81").unwrap_err().to_string().contains("prt"));
    }

    #[test]
    fn a_file_asked_for_by_name_must_exist() {
        let args = CommonArgs { config: Some("/nowhere/config.toml".into()), ..CommonArgs::default() };
        assert!(args.section::<Section>("queen").is_err());
    }
}
