//! What is done to a database from the command line.

use std::path::Path;

use anyhow::Context;

use super::copy::{Source, copy};
use super::{Location, postgres, sqlite};

/// All that is wrong with a database, in words; nothing if it is sound. A queen may run on it meanwhile.
pub async fn check(location: &Location) -> anyhow::Result<Vec<String>> {
    let wrong = match location {
        Location::Sqlite(path) => sqlite::check::check(path).await,
        Location::Postgres(options) => postgres::check::check(options).await,
    };
    wrong.with_context(|| format!("cannot check the database {location}"))
}

/// Writes all that a database holds into a new SQLite file, as of one moment, while queens may run on it.
pub async fn backup(location: &Location, to: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(!to.exists(), "{} exists; a backup does not overwrite anything", to.display());
    // What is there under its name is whole.
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let written = match location {
        Location::Sqlite(path) => sqlite::copy::vacuum_into(path, part).await,
        Location::Postgres(_) => {
            let target = Location::Sqlite(part.to_owned());
            copy(location, Source::InUse, &target, |_, _| {}).await.map(drop)
        }
    };
    let finished = written.and_then(|()| Ok(std::fs::rename(part, to)?));
    if finished.is_err() {
        let _ = std::fs::remove_file(part);
    }
    finished.with_context(|| format!("cannot write {location} to {}", to.display()))
}
