//! `queen-rbee db`: what is done to the database by hand.

use std::fs::File;

use daemon::config::CommonArgs;

use crate::config::DbCommand;
use crate::runtime_file;
use crate::store::{self, Location};

/// Does what was asked, and tells of it.
#[expect(clippy::print_stdout, reason = "the outcome is what the user asked for")]
pub fn run(command: DbCommand, common: &CommonArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        DbCommand::Migrate { from, to } => {
            runtime.block_on(migrate(&Location::parse(&from)?, &Location::parse(&to)?))
        }
        DbCommand::Check(database) => {
            let location = database.location(common)?;
            let wrong = runtime.block_on(store::check(&location))?;
            for fault in &wrong {
                println!("{fault}");
            }
            anyhow::ensure!(wrong.is_empty(), "the database {location} is not sound: {} faults", wrong.len());
            println!("the database {location} is sound");
            Ok(())
        }
        DbCommand::Backup { to, database } => {
            let location = database.location(common)?;
            runtime.block_on(store::backup(&location, &to))?;
            println!("{location} is saved in {}", to.display());
            Ok(())
        }
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "whoever waits sees how far it is")]
async fn migrate(from: &Location, to: &Location) -> anyhow::Result<()> {
    let _locks = (lock(from)?, lock(to)?);
    let mut told = 0;
    let counts = store::migrate(from, to, |table, rows| {
        // A line for each table, and for each 100,000 rows of a long one.
        if rows == 0 || rows / 100_000 > told / 100_000 {
            eprintln!("{table}: {rows} rows");
        }
        told = rows;
    })
    .await?;
    for (table, rows) in &counts {
        println!("{table}: {rows} rows");
    }
    println!(
        "all of {from} is in {to}; point the queen to it with --database-url, or with --data-dir for a file"
    );
    Ok(())
}

/// No queen may run on a file that is read or written whole.
fn lock(location: &Location) -> anyhow::Result<Option<File>> {
    match location {
        Location::Sqlite(path) if path.file_name().is_some_and(|name| name == "queen.db") => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            Ok(Some(runtime_file::lock(folder.unwrap_or_else(|| ".".as_ref()))?))
        }
        Location::Sqlite(_) | Location::Postgres(_) => Ok(None),
    }
}
