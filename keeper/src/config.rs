//! Settings in layers: a flag wins over an environment variable, that over the settings file, that over the default.
//!
//! What concerns the queen alone (port, bind address, log level) is only passed on to her where it was given here;
//! otherwise she finds it in her own section of the same file.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use protocol::config::QUEEN_PORT;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::failure::Failure;

/// Flags and environment variables that every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingsArgs {
    /// Answer in JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The queen to talk to [default: the one that runs on the data directory]
    #[arg(long, env = "RBEE_QUEEN_URL", value_name = "URL", global = true)]
    queen_url: Option<String>,
    /// The queen's token; env:NAME and file:PATH are understood
    #[arg(long, env = "RBEE_TOKEN", value_name = "TOKEN", global = true, hide_env_values = true)]
    token: Option<String>,
    /// Where rbee keeps its models, databases and logs [default: ~/.rbee]
    #[arg(long, env = "RBEE_DATA_DIR", value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Settings file in TOML [default: DATA_DIR/config.toml]
    #[arg(long, env = "RBEE_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Port for a queen that is started; 0 takes a free one [default: 8080]
    #[arg(long, env = "RBEE_QUEEN_PORT", value_name = "PORT", global = true)]
    port: Option<u16>,
    /// Address for a queen that is started [default: 127.0.0.1]
    #[arg(long, env = "RBEE_QUEEN_BIND", value_name = "IP", global = true)]
    bind: Option<IpAddr>,
    /// error, warn, info, debug or trace, for a queen that is started [default: info]
    #[arg(long, env = "RUST_LOG", value_name = "LEVEL", global = true)]
    log_level: Option<String>,
}

/// The [keeper] section of the settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KeeperSection {
    queen_url: Option<String>,
    token: Option<String>,
    port: Option<u16>,
    bind: Option<IpAddr>,
    log_level: Option<String>,
}

/// What the keeper must know of the [queen] section to reach her; the section's other fields are hers to check.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct QueenSection {
    token: Option<String>,
    port: Option<u16>,
}

/// The whole file. An unknown section is a slip of the pen that would go unnoticed; known ones of others are theirs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SettingsFile {
    keeper: KeeperSection,
    queen: QueenSection,
    #[serde(rename = "hive")]
    _hive: IgnoredAny,
    #[serde(rename = "worker")]
    _worker: IgnoredAny,
}

/// The settings in force.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The queen to talk to, if one was named.
    pub(crate) queen_url: Option<String>,
    /// Where a queen is looked for if none was named and none runs on the data directory.
    pub(crate) fallback_url: String,
    /// The token to show.
    pub(crate) token: Option<Token>,
    /// Where everything is kept, absolute.
    pub(crate) data_dir: PathBuf,
    /// The settings file to hand on, if one was named.
    pub(crate) config: Option<PathBuf>,
    /// The port to hand on, if one was given.
    pub(crate) port: Option<u16>,
    /// The address to hand on, if one was given.
    pub(crate) bind: Option<IpAddr>,
    /// The log level to hand on, if one was given.
    pub(crate) log_level: Option<String>,
    /// The folder of the keeper's own program, where the others stand beside it.
    pub(crate) programs: PathBuf,
}

impl Settings {
    /// Reads the settings file and lays flags and variables over it.
    pub(crate) fn load(arguments: &SettingsArgs) -> Result<Self, Failure> {
        let data_dir = data_dir(arguments)?;
        let file = read_file(arguments.config.as_deref(), &data_dir)?;
        let arguments = arguments.clone();
        let keeper = file.keeper;
        let token = arguments.token.or(keeper.token).or(file.queen.token);
        let port = arguments.port.or(keeper.port);
        let fallback_port = port.or(file.queen.port).unwrap_or(QUEEN_PORT);
        let program = std::env::current_exe()
            .map_err(|error| Failure::internal(format!("cannot tell where this program stands: {error}")))?;
        Ok(Self {
            queen_url: arguments.queen_url.or(keeper.queen_url),
            fallback_url: format!("http://127.0.0.1:{fallback_port}"),
            token: token.as_deref().map(Token::from_setting).transpose()?,
            config: arguments.config.as_deref().map(absolute).transpose()?,
            port,
            bind: arguments.bind.or(keeper.bind),
            log_level: arguments.log_level.or(keeper.log_level),
            programs: program.parent().unwrap_or(Path::new("/")).to_owned(),
            data_dir,
        })
    }

    /// The file in which a running queen tells where she is.
    pub(crate) fn queen_file(&self) -> PathBuf {
        self.data_dir.join("queen.json")
    }

    /// Where a queen that is started here writes her log.
    pub(crate) fn queen_log(&self) -> PathBuf {
        self.data_dir.join("logs").join("queen.log")
    }
}

/// The queen's token. Never printed.
#[derive(Clone)]
pub(crate) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Takes a token as it was configured. `env:NAME` reads it from an environment variable, `file:PATH` from a file.
    fn from_setting(setting: &str) -> Result<Self, Failure> {
        let value = if let Some(name) = setting.strip_prefix("env:") {
            std::env::var(name)
                .map_err(|_| Failure::usage(format!("the token's environment variable {name} is not set")))?
        } else if let Some(path) = setting.strip_prefix("file:") {
            std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("cannot read the token file {path}: {error}")))?
        } else {
            setting.to_owned()
        };
        match value.trim() {
            "" => Err(Failure::usage("the token is empty; leave it out or give it a value")),
            value => Ok(Self(value.to_owned())),
        }
    }

    /// The token in clear, for showing it to the queen.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

fn data_dir(arguments: &SettingsArgs) -> Result<PathBuf, Failure> {
    let chosen = match &arguments.data_dir {
        Some(dir) => dir.clone(),
        None => std::env::home_dir()
            .filter(|home| !home.as_os_str().is_empty())
            .ok_or_else(|| {
                Failure::usage("cannot tell where the home folder is; set --data-dir or RBEE_DATA_DIR")
            })?
            .join(".rbee"),
    };
    absolute(&chosen)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{} is not a usable path: {error}", path.display())))
}

/// A file that was not asked for by name may be absent.
fn read_file(named: Option<&Path>, data_dir: &Path) -> Result<SettingsFile, Failure> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => data_dir.join("config.toml"),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(SettingsFile::default());
        }
        Err(error) => {
            return Err(Failure::usage(format!("cannot read the settings file {}: {error}", path.display())));
        }
    };
    toml::from_str(&text).map_err(|error| {
        Failure::usage(format!(
            "the settings file {} is not valid: {}",
            path.display(),
            error.to_string().trim_end()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, arguments: SettingsArgs) -> Result<Settings, Failure> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), file).unwrap();
        Settings::load(&SettingsArgs { data_dir: Some(dir.path().to_owned()), ..arguments })
    }

    #[test]
    fn what_was_given_wins_over_the_file_and_that_over_the_default() {
        let file = "[keeper]\nqueen_url = \"http://a:1\"\nport = 81";
        let settings = load(file, SettingsArgs::default()).unwrap();
        assert_eq!((settings.queen_url.as_deref(), settings.port), (Some("http://a:1"), Some(81)));
        assert_eq!(settings.fallback_url, "http://127.0.0.1:81");
        let given = SettingsArgs { port: Some(82), ..SettingsArgs::default() };
        assert_eq!(load(file, given).unwrap().port, Some(82));
        let settings = load("", SettingsArgs::default()).unwrap();
        assert_eq!((settings.port, settings.fallback_url.as_str()), (None, "http://127.0.0.1:8080"));
    }

    #[test]
    fn a_queen_is_found_by_her_own_section() {
        let settings = load("[queen]\nport = 83\ntoken = \"t\"\nother = 1", SettingsArgs::default()).unwrap();
        assert_eq!(settings.fallback_url, "http://127.0.0.1:83");
        assert_eq!(settings.token.unwrap().expose(), "t");
        assert_eq!(settings.port, None, "she reads it herself");
    }

    #[test]
    fn slips_of_the_pen_are_named() {
        let failure = load("[keeper]\nprt = 1", SettingsArgs::default()).unwrap_err();
        assert!(failure.to_string().contains("prt"), "{failure}");
        let failure = load("[keper]\nport = 1", SettingsArgs::default()).unwrap_err();
        assert!(failure.to_string().contains("keper"), "{failure}");
        assert!(load("[hive]\nport = 1\n[worker]\nslots = 1", SettingsArgs::default()).is_ok());
        let given = SettingsArgs { config: Some("/nowhere/config.toml".into()), ..SettingsArgs::default() };
        assert!(load("", given).unwrap_err().to_string().contains("/nowhere/config.toml"));
    }

    #[test]
    fn a_token_is_read_from_a_file_and_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret\n").unwrap();
        let token = Token::from_setting(&format!("file:{}", path.display())).unwrap();
        assert_eq!(token.expose(), "s3cret");
        assert!(!format!("{token:?}").contains("s3cret"));
        assert!(Token::from_setting(" ").is_err());
    }
}
