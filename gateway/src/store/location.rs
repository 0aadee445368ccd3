//! Where the database is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use sqlx::postgres::PgConnectOptions;

/// Where the database is. It never shows a password.
#[derive(Clone)]
pub enum Location {
    /// A file that one queen has for herself.
    Sqlite(PathBuf),
    /// A server that several queens may share.
    Postgres(Box<PgConnectOptions>),
}

impl Location {
    /// Whether a setting names a PostgreSQL server.
    pub fn is_postgres(setting: &str) -> bool {
        setting.starts_with("postgres://") || setting.starts_with("postgresql://")
    }

    /// The URL of a PostgreSQL server.
    pub fn postgres(url: &str) -> anyhow::Result<Self> {
        anyhow::ensure!(
            Self::is_postgres(url),
            "a database URL is postgres://USER@HOST:PORT/DATABASE; without one the queen has a file of her own"
        );
        // What is wrong with it may be told; what it says may hold a password.
        let options = PgConnectOptions::from_str(url).context("the database URL cannot be read")?;
        Ok(Self::Postgres(Box::new(options)))
    }

    /// The URL of a PostgreSQL server, or a file as a path or with `sqlite:` before it.
    pub fn parse(setting: &str) -> anyhow::Result<Self> {
        if Self::is_postgres(setting) {
            return Self::postgres(setting);
        }
        let path = setting.strip_prefix("sqlite:").unwrap_or(setting);
        let path = path.strip_prefix("//").unwrap_or(path);
        anyhow::ensure!(
            !path.is_empty() && !path.contains("://"),
            "a database is postgres://USER@HOST:PORT/DATABASE or the path of an SQLite file"
        );
        Ok(Self::Sqlite(path.into()))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(options) => {
                let database = options.get_database().unwrap_or_else(|| options.get_username());
                match options.get_socket() {
                    Some(socket) => write!(f, "postgres://{}/{database}", socket.display()),
                    None => write!(f, "postgres://{}:{}/{database}", options.get_host(), options.get_port()),
                }
            }
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let location = Location::parse("postgres://me:secret@db.example:5433/rbee").unwrap();
        assert_eq!(
            format!("{location} {location:?}"),
            "postgres://db.example:5433/rbee postgres://db.example:5433/rbee"
        );
        let error = Location::parse("postgres://me:secret@db.example:port/rbee").unwrap_err();
        assert!(!format!("{error:#} {error:?}").contains("secret"));
        let error = Location::postgres("mysql://me:secret@db.example/rbee").unwrap_err();
        assert!(!format!("{error:#}").contains("secret"));
    }

    #[test]
    fn files_are_paths_with_or_without_a_scheme() {
        for setting in ["/tmp/queen.db", "sqlite:/tmp/queen.db", "sqlite:///tmp/queen.db"] {
            assert_eq!(Location::parse(setting).unwrap().to_string(), "/tmp/queen.db");
        }
        assert!(Location::parse("mysql://db.example/rbee").is_err());
        assert!(Location::parse("").is_err());
    }
}
