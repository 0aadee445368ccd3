//! The hive's settings: what the command line, the environment and the settings file say, made into one value.
//! The environment is read here and nowhere else in this crate.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use daemon::auth::{self, Token};
use daemon::config::CommonArgs;
use daemon::shutdown::Parent;
use protocol::config::{FIRST_WORKER_PORT, HIVE_PORT};
use serde::Deserialize;

use crate::catalog::{self, KnownModel, ModelSection};

const IDLE_TIMEOUT_SECONDS: u64 = 300;
const SLOTS: u32 = 8;

/// What `rbee-hive daemon` takes from flags and environment.
#[derive(Debug, Clone, Default, Args)]
pub struct DaemonArgs {
    /// Port to listen on; 0 takes a free one [default: 9200]
    #[arg(long, env = "RBEE_HIVE_PORT")]
    pub port: Option<u16>,
    /// Address to listen on; any but a loopback address needs a token [default: 127.0.0.1]
    #[arg(long, env = "RBEE_HIVE_BIND", value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// Token that callers must show, or env:NAME, or file:PATH
    #[arg(long, env = "RBEE_HIVE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The worker program [default: worker-rbee beside this program]
    #[arg(long, env = "RBEE_HIVE_WORKER_BINARY", value_name = "FILE")]
    pub worker_binary: Option<PathBuf>,
    /// Computing threads of each worker [default: the worker decides]
    #[arg(long, env = "RBEE_HIVE_WORKER_THREADS", value_name = "N")]
    pub worker_threads: Option<u32>,
    /// Sequences that each worker runs at once, where a spawn does not say [default: 8]
    #[arg(long, env = "RBEE_HIVE_SLOTS", value_name = "N")]
    pub slots: Option<u32>,
    /// First port given to workers [default: 8001]
    #[arg(long, env = "RBEE_HIVE_FIRST_WORKER_PORT", value_name = "PORT")]
    pub first_worker_port: Option<u16>,
    /// A worker without work for this long is stopped; 0 means never [default: 300]
    #[arg(long, env = "RBEE_HIVE_IDLE_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub idle_timeout_seconds: Option<u64>,
    /// End when standard input does: the parent process holds its other end
    #[arg(long)]
    pub exit_with_parent: bool,
}

/// Which hive a command speaks to.
#[derive(Debug, Clone, Default, Args)]
pub struct HiveArgs {
    /// The hive's base URL [default: the one that runs on the data directory, else http://127.0.0.1:9200]
    #[arg(long, env = "RBEE_HIVE_URL", value_name = "URL", global = true)]
    pub hive_url: Option<String>,
    /// The hive's token, or env:NAME, or file:PATH
    #[arg(long, env = "RBEE_HIVE_TOKEN", hide_env_values = true, global = true)]
    pub token: Option<String>,
}

/// The `[hive]` section of the settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Section {
    port: Option<u16>,
    bind: Option<IpAddr>,
    token: Option<String>,
    worker_binary: Option<PathBuf>,
    worker_threads: Option<u32>,
    slots: Option<u32>,
    first_worker_port: Option<u16>,
    idle_timeout_seconds: Option<u64>,
    log_level: Option<String>,
    python: Option<PathBuf>,
    models: Vec<ModelSection>,
}

/// Everything the hive was told, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where models, database and logs are.
    pub data_dir: PathBuf,
    /// Address to listen on.
    pub bind: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// What callers must show.
    pub token: Option<Token>,
    /// Whether to end with the parent.
    pub parent: Parent,
    /// How workers are started and ended.
    pub workers: WorkerSettings,
    /// What can be fetched, and how.
    pub catalog: CatalogSettings,
}

/// How workers are started and ended.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The worker program.
    pub binary: PathBuf,
    /// Computing threads of each worker, if the worker is not to decide.
    pub threads: Option<u32>,
    /// Sequences that each worker runs at once, where a spawn does not say.
    pub slots: u32,
    /// Where the search for a free port begins.
    pub first_port: u16,
    /// A worker without work for this long is stopped.
    pub idle_timeout: Option<Duration>,
    /// Where the workers' logs go.
    pub log_dir: PathBuf,
    /// Flags that the hive was given and that its workers are to have too.
    pub shared_flags: Vec<OsString>,
}

/// What can be fetched, and how.
#[derive(Debug, Clone)]
pub struct CatalogSettings {
    /// The catalog's database.
    pub database: PathBuf,
    /// Where fetched models lie, one folder each.
    pub models_dir: PathBuf,
    /// The Python that has pip.
    pub python: PathBuf,
    /// The models that can be fetched by name.
    pub known: Vec<KnownModel>,
}

impl Config {
    /// Takes each setting from the first place that has it: flag or variable, settings file, default.
    pub fn resolve(common: &CommonArgs, args: &DaemonArgs) -> anyhow::Result<Self> {
        let section: Section = common.section("hive")?;
        let data_dir = common.data_dir()?;
        let bind = args.bind.or(section.bind).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let token = args.token.as_deref().or(section.token.as_deref());
        let token = token.map(Token::from_setting).transpose().map_err(anyhow::Error::msg)?;
        auth::check_bind(bind, token.as_ref()).map_err(anyhow::Error::msg)?;
        let binary = match args.worker_binary.clone().or(section.worker_binary) {
            Some(binary) => std::path::absolute(binary)?,
            None => binary_beside_this_one()?,
        };
        let idle_seconds =
            args.idle_timeout_seconds.or(section.idle_timeout_seconds).unwrap_or(IDLE_TIMEOUT_SECONDS);
        let workers = WorkerSettings {
            binary,
            threads: args.worker_threads.or(section.worker_threads),
            slots: args.slots.or(section.slots).unwrap_or(SLOTS).max(1),
            first_port: args.first_worker_port.or(section.first_worker_port).unwrap_or(FIRST_WORKER_PORT),
            idle_timeout: (idle_seconds > 0).then(|| Duration::from_secs(idle_seconds)),
            log_dir: data_dir.join("logs"),
            shared_flags: shared_flags(common, &data_dir),
        };
        let catalog = CatalogSettings {
            database: data_dir.join("models.db"),
            models_dir: data_dir.join("models"),
            python: section.python.unwrap_or_else(|| PathBuf::from("python3")),
            known: catalog::known_models(section.models)?,
        };
        Ok(Self {
            bind,
            port: args.port.or(section.port).unwrap_or(HIVE_PORT),
            token,
            parent: if args.exit_with_parent { Parent::HoldsStdin } else { Parent::None },
            workers,
            catalog,
            data_dir,
        })
    }

    /// Where a daemon with these settings is reached from this machine, if it is given a port.
    pub fn local_url(&self, port: u16) -> String {
        let ip = match self.bind {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        };
        format!("http://{}", std::net::SocketAddr::new(ip, port))
    }
}

/// The log filter in force; a daemon tells more than a command.
pub fn log_filter(common: &CommonArgs, default: &str) -> anyhow::Result<String> {
    let section: Section = common.section("hive")?;
    Ok(common.log_level.clone().or(section.log_level).unwrap_or_else(|| default.to_owned()))
}

fn shared_flags(common: &CommonArgs, data_dir: &Path) -> Vec<OsString> {
    let mut flags: Vec<OsString> = vec!["--data-dir".into(), data_dir.into()];
    if let Some(file) = &common.config {
        flags.extend(["--config".into(), file.into()]);
    }
    if let Some(level) = &common.log_level {
        flags.extend(["--log-level".into(), level.into()]);
    }
    flags
}

fn binary_beside_this_one() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    Ok(own.with_file_name("worker-rbee"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(toml: &str, args: &DaemonArgs) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), toml).unwrap();
        let common = CommonArgs { data_dir: Some(dir.path().to_owned()), ..CommonArgs::default() };
        Config::resolve(&common, args)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let args = DaemonArgs { port: Some(1), ..DaemonArgs::default() };
        let config = resolve("[hive]\nport = 2\nslots = 7\nidle_timeout_seconds = 0", &args).unwrap();
        assert_eq!((config.port, config.workers.slots, config.workers.idle_timeout), (1, 7, None));
        assert_eq!(config.workers.first_port, FIRST_WORKER_PORT);
    }

    #[test]
    fn an_open_door_without_a_token_is_refused() {
        let open = DaemonArgs { bind: Some("0.0.0.0".parse().unwrap()), ..DaemonArgs::default() };
        assert!(resolve("", &open).is_err());
        let guarded = DaemonArgs { token: Some("t".to_owned()), ..open };
        assert_eq!(resolve("", &guarded).unwrap().local_url(9), "http://127.0.0.1:9");
    }

    #[test]
    fn models_of_the_file_are_known_and_slips_are_named() {
        let known = resolve(
            "[[hive.models]]\nreference = \"mine\"\nkind = \"text-gen\"\nprovider = \"file\"\npath = \"/m/mine.gguf\"",
            &DaemonArgs::default(),
        );
        assert!(known.unwrap().catalog.known.iter().any(|model| model.reference.as_str() == "mine"));
        let slip =
            "[[hive.models]]\nreference = \"../x\"\nkind = \"text-gen\"\nprovider = \"file\"\npath = \"/m\"";
        assert!(format!("{:#}", resolve(slip, &DaemonArgs::default()).unwrap_err()).contains("../x"));
    }
}
