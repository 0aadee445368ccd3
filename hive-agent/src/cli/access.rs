//! How a command reaches the hive: through the daemon that runs, or, for models, by doing the work itself.

use daemon::auth::Token;
use daemon::config::CommonArgs;
use protocol::config::HIVE_PORT;

use client::HttpClient;
use client::hive::HiveClient;

use crate::config::{Config, DaemonArgs, HiveArgs};
use crate::lock::{Attempt, DataLock};

/// Who does the work on the models of the data directory.
#[derive(Debug)]
pub(super) enum Models {
    /// The daemon that has the data directory, or the one that was named.
    Daemon(Box<HiveClient>),
    /// This process; the lock keeps a daemon from starting meanwhile.
    Here(Box<Config>, DataLock),
}

/// Finds out who does the work on the models.
pub(super) fn models(common: &CommonArgs, args: &HiveArgs) -> anyhow::Result<Models> {
    let config = config(common, args)?;
    if let Some(url) = &args.hive_url {
        return Ok(Models::Daemon(Box::new(client(url, config.token.as_ref()))));
    }
    match DataLock::attempt(&config.data_dir)? {
        Attempt::Taken(lock) => Ok(Models::Here(Box::new(config), lock)),
        Attempt::Held { url: Some(url) } => Ok(Models::Daemon(Box::new(client(&url, config.token.as_ref())))),
        Attempt::Held { url: None } => anyhow::bail!(
            "another rbee-hive command works on the data directory {} right now; try again when it has ended",
            config.data_dir.display()
        ),
    }
}

/// The running daemon: the one that was named, the one on the data directory, or the one on the usual port.
pub(super) fn daemon(common: &CommonArgs, args: &HiveArgs) -> anyhow::Result<HiveClient> {
    let config = config(common, args)?;
    let running = || match DataLock::attempt(&config.data_dir) {
        Ok(Attempt::Held { url }) => url,
        _ => None,
    };
    let usual = || format!("http://127.0.0.1:{HIVE_PORT}");
    let url = args.hive_url.clone().or_else(running).unwrap_or_else(usual);
    Ok(client(&url, config.token.as_ref()))
}

fn config(common: &CommonArgs, args: &HiveArgs) -> anyhow::Result<Config> {
    Config::resolve(common, &DaemonArgs { token: args.token.clone(), ..DaemonArgs::default() })
}

fn client(url: &str, token: Option<&Token>) -> HiveClient {
    let http = HttpClient::new(url);
    HiveClient::new(match token {
        Some(token) => http.with_token(token.expose()),
        None => http,
    })
}

/// A client's error as a command tells it.
pub(super) fn told(error: client::Error) -> anyhow::Error {
    match error {
        client::Error::Api(error) => error.into(),
        client::Error::Unreachable { url, .. } => {
            anyhow::anyhow!(
                "no hive answers at {url}; start one with `rbee-hive daemon`, or name it with --hive-url"
            )
        }
        error @ client::Error::Broken { .. } => error.into(),
    }
}
