//! Settings in layers: a flag wins over an environment variable, that over the settings file, that over the default.
//!
//! What concerns the queen alone (port, bind address, log level) is only passed on to her where it was given here;
//! otherwise she finds it in her own section of the same file.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use daemon::auth::Token;
use daemon::config::CommonArgs;
use protocol::config::QUEEN_PORT;
use protocol::worker::Backend;
use serde::Deserialize;

use crate::failure::Failure;

/// Flags and environment variables that every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingsArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Answer in JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The queen to talk to [default: the one that runs on the data directory]
    #[arg(long, env = "RBEE_QUEEN_URL", value_name = "URL", global = true)]
    queen_url: Option<String>,
    /// The queen's token; env:NAME and file:PATH are understood
    #[arg(long, env = "RBEE_TOKEN", value_name = "TOKEN", global = true, hide_env_values = true)]
    token: Option<String>,
    /// Port for a queen that is started; 0 takes a free one [default: 8080]
    #[arg(long, env = "RBEE_QUEEN_PORT", value_name = "PORT", global = true)]
    port: Option<u16>,
    /// Address for a queen that is started [default: 127.0.0.1]
    #[arg(long, env = "RBEE_QUEEN_BIND", value_name = "IP", global = true)]
    bind: Option<IpAddr>,
    /// Backend of the workers of a queen that is started: cpu, cuda or metal [default: cpu]
    #[arg(long, env = "RBEE_BACKEND", global = true)]
    backend: Option<Backend>,
    /// Device number of those workers on cuda or metal [default: 0]
    #[arg(long, env = "RBEE_GPU", value_name = "N", global = true)]
    gpu: Option<u32>,
}

/// The [keeper] section of the settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KeeperSection {
    queen_url: Option<String>,
    token: Option<String>,
    port: Option<u16>,
    bind: Option<IpAddr>,
    backend: Option<Backend>,
    gpu: Option<u32>,
    log_level: Option<String>,
}

/// What the keeper must know of the [queen] section to reach her; the section's other fields are hers to check.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct QueenSection {
    token: Option<String>,
    port: Option<u16>,
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
    /// The workers' backend to hand on, if one was given.
    pub(crate) backend: Option<Backend>,
    /// The workers' device to hand on, if one was given.
    pub(crate) gpu: Option<u32>,
    /// The log level to hand on, if one was given.
    pub(crate) log_level: Option<String>,
    /// The folder of the keeper's own program, where the others stand beside it.
    pub(crate) programs: PathBuf,
}

impl Settings {
    /// Reads the settings file and lays flags and variables over it.
    pub(crate) fn load(arguments: &SettingsArgs) -> Result<Self, Failure> {
        let common = &arguments.common;
        let data_dir = common.data_dir()?;
        let keeper: KeeperSection = common.section("keeper")?;
        let queen: QueenSection = common.section("queen")?;
        let arguments = arguments.clone();
        let token = arguments.token.or(keeper.token).or(queen.token);
        let token = token.as_deref().map(Token::from_setting).transpose().map_err(Failure::usage)?;
        let port = arguments.port.or(keeper.port);
        let fallback_port = port.or(queen.port).unwrap_or(QUEEN_PORT);
        let program = std::env::current_exe()
            .map_err(|error| Failure::internal(format!("cannot tell where this program stands: {error}")))?;
        Ok(Self {
            queen_url: arguments.queen_url.or(keeper.queen_url),
            fallback_url: format!("http://127.0.0.1:{fallback_port}"),
            token,
            config: arguments.common.config.as_deref().map(absolute).transpose()?,
            port,
            bind: arguments.bind.or(keeper.bind),
            backend: arguments.backend.or(keeper.backend),
            gpu: arguments.gpu.or(keeper.gpu),
            log_level: arguments.common.log_level.or(keeper.log_level),
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

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{} is not a usable path: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, arguments: SettingsArgs) -> Result<Settings, Failure> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), file).unwrap();
        let common = CommonArgs { data_dir: Some(dir.path().to_owned()), ..arguments.common.clone() };
        Settings::load(&SettingsArgs { common, ..arguments })
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
    }
}
