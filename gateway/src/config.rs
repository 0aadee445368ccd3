//! The queen's settings: flags, environment, the `[queen]` section of the settings file, defaults, in this order.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use daemon::auth::Token;
use daemon::config::CommonArgs;
use daemon::shutdown::Parent;
use protocol::config::{HIVE_PORT, QUEEN_PORT};
use protocol::routing::{RoutingFailure, RoutingMode};
use protocol::worker::Backend;
use serde::Deserialize;

use crate::inference::ModelNames;
use crate::routing::RoutingSettings;
use crate::store::{Bounds, Location};

/// Objects that are kept for callers at most, and their bytes in all.
const KEPT_OBJECTS: u64 = 1_000_000;
const KEPT_BYTES: u64 = 4 << 30;
/// Bytes of files that callers have uploaded, and of what batches made of them.
const FILE_BYTES: u64 = 100 << 30;

/// One OpenAI-compatible server over all your machines.
#[derive(Debug, Parser)]
#[command(name = "queen-rbee", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Settings of every daemon.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What the queen can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until told to stop
    Daemon(Box<DaemonArgs>),
    /// Print the OpenAPI document
    Openapi,
    /// Move, check or save what the queen keeps
    #[command(subcommand)]
    Db(DbCommand),
}

/// What can be done to the queen's database.
#[derive(Debug, Subcommand)]
pub enum DbCommand {
    /// Copy all of a database into an empty one of either kind, while no queen runs
    Migrate {
        /// Where it is: postgres://USER@HOST:PORT/DATABASE or the path of an SQLite file
        #[arg(long, value_name = "URL")]
        from: String,
        /// Where it is to go, written the same way
        #[arg(long, value_name = "URL")]
        to: String,
    },
    /// Look whether a database is sound; exit code 1 if it is not
    Check(DbArgs),
    /// Write all of a database into a new SQLite file, while queens may run
    Backup {
        /// The new file
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        #[command(flatten)]
        #[expect(missing_docs, reason = "its own fields say it")]
        database: DbArgs,
    },
}

/// Which database is meant.
#[derive(Debug, Default, Args)]
pub struct DbArgs {
    /// PostgreSQL server, or the path of an SQLite file [default: the queen's own]
    #[arg(long, env = "RBEE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
}

impl DbArgs {
    /// The database that is meant: the one that a queen with the same flags would use, if none is named.
    pub fn location(self, common: &CommonArgs) -> anyhow::Result<Location> {
        if let Some(setting) = self.database_url {
            return Location::parse(&setting);
        }
        let section: Section = common.section("queen")?;
        database(None, section.database_url, &common.data_dir().context("no data directory")?)
    }
}

/// Flags of `queen-rbee daemon`.
#[derive(Debug, Default, Args)]
pub struct DaemonArgs {
    /// Port to listen on; 0 takes a free one and prints it [default: 8080]
    #[arg(long, env = "RBEE_QUEEN_PORT")]
    pub port: Option<u16>,
    /// Address to listen on; any other than loopback needs a token [default: 127.0.0.1]
    #[arg(long, env = "RBEE_QUEEN_BIND", value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// Token that callers must show: a value, env:NAME or file:PATH
    #[arg(long, env = "RBEE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Start a hive on this machine, use one that runs, or do without [default: attach]
    #[arg(long, env = "RBEE_LOCAL_HIVE", value_name = "MODE")]
    pub local_hive: Option<LocalHive>,
    /// Port of the hive on this machine; 0 takes a free one when the hive is started [default: 9200]
    #[arg(long, env = "RBEE_HIVE_PORT", value_name = "PORT")]
    pub hive_port: Option<u16>,
    /// Token that the hive wants: a value, env:NAME or file:PATH [default: the [hive] section's]
    #[arg(long, env = "RBEE_HIVE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub hive_token: Option<String>,
    /// Backend of workers that are started on demand: cpu, cuda or metal; never another one instead [default: cpu]
    #[arg(long, env = "RBEE_BACKEND")]
    pub backend: Option<Backend>,
    /// Device number of workers that are started on demand on cuda or metal [default: 0]
    #[arg(long, env = "RBEE_GPU")]
    pub gpu: Option<u32>,
    /// Model of requests that name none [default: none on /v1, smollm2-135m-instruct on /v2]
    #[arg(long, env = "RBEE_DEFAULT_MODEL", value_name = "MODEL")]
    pub default_model: Option<String>,
    /// Another name for a model, as in gpt-4o-mini=smollm2-135m-instruct or claude-*=MODEL; may be given several times
    #[arg(long = "alias", env = "RBEE_ALIASES", value_name = "NAME=MODEL", value_delimiter = ',', value_parser = alias)]
    pub aliases: Vec<(String, String)>,
    /// Requests that may wait for a slot before new ones are refused [default: 1024]
    #[arg(long, env = "RBEE_QUEUE_LIMIT", value_name = "N")]
    pub queue_limit: Option<usize>,
    /// MiB that the prompts of waiting requests may have together [default: 512]
    #[arg(long, env = "RBEE_QUEUE_MB", value_name = "MIB")]
    pub queue_mb: Option<usize>,
    /// A model whose workers are never ended to make room for another one's; may be given several times
    #[arg(long = "pin", env = "RBEE_PINNED_MODELS", value_name = "MODEL", value_delimiter = ',')]
    pub pinned_models: Vec<String>,
    /// Seconds that a call without streaming waits for a model to load [default: 60]
    #[arg(long, env = "RBEE_COLD_START_SECONDS", value_name = "SECONDS")]
    pub cold_start_seconds: Option<u64>,
    /// PostgreSQL server that several queens may share, as in postgres://USER@HOST:PORT/DATABASE; DATABASE_URL is heeded
    /// too [default: the file queen.db in the data directory]
    #[arg(long, env = "RBEE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// File of a script that decides which requests are let in and who serves them; changes of it are heeded at once
    #[arg(long, env = "RBEE_ROUTING_SCRIPT", value_name = "FILE")]
    pub routing_script: Option<PathBuf>,
    /// Whether the script decides (enforce), or is only asked and recorded (shadow) [default: enforce]
    #[arg(long, env = "RBEE_ROUTING_MODE", value_name = "MODE")]
    pub routing_mode: Option<RoutingMode>,
    /// What happens to a request when the script fails: the queue decides alone (built-in), or it is refused (refuse) [default: built-in]
    #[arg(long, env = "RBEE_ROUTING_FAILURE", value_name = "WHAT")]
    pub routing_failure: Option<RoutingFailure>,
    /// Where this machine is, as routing scripts see it, such as EU
    #[arg(long, env = "RBEE_REGION", value_name = "REGION")]
    pub region: Option<String>,
    /// Days for which stored responses and chat completions are kept [default: 30]
    #[arg(long, env = "RBEE_RETENTION_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub retention_days: Option<u32>,
    /// Seconds that running requests get to end after the queen is told to stop [default: 3]
    #[arg(long, env = "RBEE_DRAIN_SECONDS", value_name = "SECONDS")]
    pub drain_seconds: Option<u64>,
    /// Milliseconds without a word of an answer after which a second worker is asked too, if one has a slot to spare; for requests that
    /// somebody waits for [default: never]
    #[arg(long, env = "RBEE_HEDGE_AFTER_MS", value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub hedge_after_ms: Option<u64>,
    /// MiB of answers that are kept for requests which would be answered the same, and as much for embeddings; 0 for none
    /// [default: 64]
    #[arg(long, env = "RBEE_CACHE_MB", value_name = "MIB")]
    pub cache_mb: Option<u64>,
    /// Seconds from a request's head to its body's end [default: 60]
    #[arg(long, env = "RBEE_BODY_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub body_timeout_seconds: Option<u64>,
    /// Origin whose web pages may use this server, or * for all; may be given several times [default: none]
    #[arg(long = "cors-origin", env = "RBEE_CORS_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origins: Vec<String>,
    /// Stop when standard input closes, as it does when the parent process ends
    #[arg(long)]
    pub exit_with_parent: bool,
}

/// What the queen does about a hive on her own machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LocalHive {
    /// Start one, watch it, and stop it at the end.
    Spawn,
    /// Use the one that listens on the hive port, whenever it does.
    Attach,
    /// None.
    Off,
}

/// The `[queen]` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Section {
    port: Option<u16>,
    bind: Option<IpAddr>,
    token: Option<String>,
    local_hive: Option<LocalHive>,
    hive_port: Option<u16>,
    hive_token: Option<String>,
    backend: Option<Backend>,
    gpu: Option<u32>,
    default_model: Option<String>,
    aliases: BTreeMap<String, String>,
    queue_limit: Option<usize>,
    queue_mb: Option<usize>,
    pinned_models: Vec<String>,
    cold_start_seconds: Option<u64>,
    database_url: Option<String>,
    routing_script: Option<PathBuf>,
    routing_mode: Option<RoutingMode>,
    routing_failure: Option<RoutingFailure>,
    region: Option<String>,
    retention_days: Option<u32>,
    drain_seconds: Option<u64>,
    hedge_after_ms: Option<u64>,
    cache_mb: Option<u64>,
    body_timeout_seconds: Option<u64>,
    cors_origins: Vec<String>,
    log_level: Option<String>,
}

/// What the queen must know of the `[hive]` section: the rest of it is the hive's affair.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HiveSection {
    port: Option<u16>,
    token: Option<String>,
}

/// All that the queen was told, checked.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the flags' help texts say it")]
pub struct Settings {
    pub data_dir: PathBuf,
    pub config_file: Option<PathBuf>,
    pub log_level: String,
    /// The level as a flag or the environment gave it, for the processes that the queen starts.
    pub log_flag: Option<String>,
    pub bind: IpAddr,
    pub port: u16,
    pub token: Option<Token>,
    pub local_hive: LocalHive,
    pub hive_port: u16,
    pub hive_token: Option<Token>,
    pub backend: Backend,
    pub gpu: Option<u32>,
    pub models: ModelNames,
    pub queue_limit: usize,
    pub queue_bytes: usize,
    pub pinned_models: Vec<String>,
    pub cold_start_wait: Duration,
    /// Where it is kept what must outlast the queen.
    pub database: Location,
    /// The script that decides, if there is one.
    pub routing: RoutingSettings,
    pub region: Option<String>,
    /// How long and how much is kept for callers.
    pub kept: Bounds,
    pub drain_grace: Duration,
    pub hedge_after: Option<Duration>,
    pub cache_bytes: u64,
    pub body_within: Duration,
    pub cors_origins: Vec<String>,
    pub parent: Parent,
}

impl Settings {
    /// Puts the layers together.
    pub fn load(common: &CommonArgs, args: DaemonArgs) -> anyhow::Result<Self> {
        let section: Section = common.section("queen")?;
        let hive: HiveSection = common.section("hive")?;
        let token = token(args.token.or(section.token))?;
        let bind = args.bind.or(section.bind).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        daemon::auth::check_bind(bind, token.as_ref()).map_err(anyhow::Error::msg)?;
        let seconds = |flag: Option<u64>, file: Option<u64>, default| {
            // A year is as good as for ever, and can be reckoned with.
            Duration::from_secs(flag.or(file).unwrap_or(default).min(365 * 24 * 3600))
        };
        let data_dir = common.data_dir().context("no data directory")?;
        Ok(Self {
            database: database(args.database_url, section.database_url, &data_dir)?,
            data_dir,
            config_file: common.config.clone(),
            log_level: common.log_level.clone().or(section.log_level).unwrap_or_else(|| "info".to_owned()),
            log_flag: common.log_level.clone(),
            bind,
            port: args.port.or(section.port).unwrap_or(QUEEN_PORT),
            token,
            local_hive: args.local_hive.or(section.local_hive).unwrap_or(LocalHive::Attach),
            hive_port: args.hive_port.or(section.hive_port).or(hive.port).unwrap_or(HIVE_PORT),
            hive_token: self::token(args.hive_token.or(section.hive_token).or(hive.token))?,
            backend: args.backend.or(section.backend).unwrap_or(Backend::Cpu),
            gpu: args.gpu.or(section.gpu),
            models: ModelNames::new(
                args.default_model.or(section.default_model),
                // Those of the command line come first.
                args.aliases.into_iter().chain(section.aliases),
            ),
            queue_limit: args.queue_limit.or(section.queue_limit).unwrap_or(1024),
            queue_bytes: args.queue_mb.or(section.queue_mb).unwrap_or(512).saturating_mul(1 << 20),
            pinned_models: args.pinned_models.into_iter().chain(section.pinned_models).collect(),
            cold_start_wait: seconds(args.cold_start_seconds, section.cold_start_seconds, 60),
            routing: RoutingSettings {
                file: args.routing_script.or(section.routing_script),
                mode: args.routing_mode.or(section.routing_mode).unwrap_or_default(),
                on_failure: args.routing_failure.or(section.routing_failure).unwrap_or_default(),
            },
            region: args.region.or(section.region),
            kept: Bounds {
                age: Duration::from_hours(
                    24 * u64::from(args.retention_days.or(section.retention_days).unwrap_or(30)),
                ),
                objects: KEPT_OBJECTS,
                bytes: KEPT_BYTES,
                file_bytes: FILE_BYTES,
                owner_file_bytes: FILE_BYTES,
            },
            drain_grace: seconds(args.drain_seconds, section.drain_seconds, 3),
            hedge_after: args.hedge_after_ms.or(section.hedge_after_ms).map(Duration::from_millis),
            cache_bytes: args.cache_mb.or(section.cache_mb).unwrap_or(64) << 20,
            body_within: seconds(args.body_timeout_seconds, section.body_timeout_seconds, 60),
            cors_origins: if args.cors_origins.is_empty() { section.cors_origins } else { args.cors_origins }
                .iter()
                .map(|origin| self::origin(origin))
                .collect::<anyhow::Result<_>>()?,
            parent: if args.exit_with_parent { Parent::HoldsStdin } else { Parent::None },
        })
    }
}

/// The server that is named, or the queen's own file. DATABASE_URL is a name that many programs share: another database than
/// ours is not meant for us.
fn database(flag: Option<String>, file: Option<String>, data_dir: &Path) -> anyhow::Result<Location> {
    let shared = || std::env::var("DATABASE_URL").ok().filter(|url| Location::is_postgres(url));
    match flag.or_else(shared).or(file) {
        Some(url) => Location::postgres(&url),
        None => Ok(Location::Sqlite(data_dir.join("queen.db"))),
    }
}

fn alias(setting: &str) -> Result<(String, String), String> {
    match setting.split_once('=') {
        Some((name, model)) if !name.is_empty() && !model.is_empty() => {
            Ok((name.to_owned(), model.to_owned()))
        }
        _ => Err("an alias is NAME=MODEL, as in gpt-4o-mini=smollm2-135m-instruct".to_owned()),
    }
}

/// An origin as browsers write it, or `*`.
fn origin(setting: &str) -> anyhow::Result<String> {
    let origin = setting.trim().trim_end_matches('/');
    let is_sound = |host: &str| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
    let host = origin.split_once("://").map(|(_, host)| host);
    anyhow::ensure!(
        origin == "*" || origin == "null" || host.is_some_and(|host| is_sound(host) && !host.contains('/')),
        "'{setting}' is no origin; one is written as in https://app.example, or * for all"
    );
    Ok(origin.to_owned())
}

fn token(setting: Option<String>) -> anyhow::Result<Option<Token>> {
    setting.map(|setting| Token::from_setting(&setting)).transpose().map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), "[queen]\nport = 1\nqueue_limit = 2\n").unwrap();
        let common = CommonArgs { data_dir: Some(dir.path().to_owned()), ..CommonArgs::default() };
        let args = DaemonArgs { port: Some(9), ..DaemonArgs::default() };
        let settings = Settings::load(&common, args).unwrap();
        assert_eq!((settings.port, settings.queue_limit, settings.hive_port), (9, 2, HIVE_PORT));
    }

    #[test]
    fn aliases_stand_in_the_file_and_on_the_command_line_where_they_win() {
        let dir = tempfile::tempdir().unwrap();
        let file = "[queen]\ncors_origins = [\"https://a.example/\"]\n[queen.aliases]\n\"gpt-4o\" = \"a\"\n\"claude-*\" = \"b\"\n";
        std::fs::write(dir.path().join("config.toml"), file).unwrap();
        let common = CommonArgs { data_dir: Some(dir.path().to_owned()), ..CommonArgs::default() };
        let load = |flags: &[&str]| {
            let line = ["queen-rbee", "daemon"].iter().chain(flags);
            let Command::Daemon(args) = Cli::try_parse_from(line).unwrap().command else {
                panic!("a daemon")
            };
            Settings::load(&common, *args)
        };
        let settings = load(&["--alias", "gpt-4o=c", "--alias", "d=e"]).unwrap();
        for (asked, model) in [("gpt-4o", "c"), ("claude-x", "b"), ("d", "e"), ("f", "f")] {
            assert_eq!(settings.models.resolve(asked).unwrap(), model);
        }
        assert_eq!(settings.cors_origins, ["https://a.example"]);
        assert!(load(&["--cors-origin", "app.example"]).is_err());
        assert!(Cli::try_parse_from(["queen-rbee", "daemon", "--alias", "gpt-4o"]).is_err());
    }

    #[test]
    fn the_database_is_a_file_of_the_queens_own_or_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let common = CommonArgs { data_dir: Some(dir.path().to_owned()), ..CommonArgs::default() };
        let load = |url: Option<&str>| {
            let args = DaemonArgs { database_url: url.map(str::to_owned), ..DaemonArgs::default() };
            Settings::load(&common, args).map(|settings| settings.database.to_string())
        };
        let server = "postgres://me:secret@db.example/rbee";
        assert_eq!(load(Some(server)).unwrap(), "postgres://db.example:5432/rbee");
        assert!(load(Some("mysql://db.example/rbee")).is_err());
        let file = dir.path().join("queen.db").display().to_string();
        assert_eq!(DbArgs::default().location(&common).unwrap().to_string(), file);
        std::fs::write(dir.path().join("config.toml"), format!("[queen]\ndatabase_url = \"{server}\"\n"))
            .unwrap();
        assert_eq!(
            DbArgs::default().location(&common).unwrap().to_string(),
            "postgres://db.example:5432/rbee"
        );
        assert_eq!(
            DbArgs { database_url: Some("/a/b.db".to_owned()) }.location(&common).unwrap().to_string(),
            "/a/b.db"
        );
    }

    #[test]
    fn an_open_door_needs_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let common = CommonArgs { data_dir: Some(dir.path().to_owned()), ..CommonArgs::default() };
        let args = |token: Option<&str>| DaemonArgs {
            bind: Some("0.0.0.0".parse().unwrap()),
            token: token.map(str::to_owned),
            ..DaemonArgs::default()
        };
        assert!(Settings::load(&common, args(None)).is_err());
        assert!(Settings::load(&common, args(Some("t"))).is_ok());
    }
}
