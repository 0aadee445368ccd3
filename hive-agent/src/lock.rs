//! One hive for one data directory. The lock file also tells where the daemon that holds it listens.

use std::fs::{File, TryLockError};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Held for as long as this process works on the data directory; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub(crate) struct DataLock {
    file: File,
}

/// What an attempt to take the lock found.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The data directory is ours.
    Taken(DataLock),
    /// Another process works on it; a daemon's base URL, if it is one that listens already.
    Held {
        /// Where the holder listens.
        url: Option<String>,
    },
}

impl DataLock {
    /// Tries to take the lock, creating the data directory if there is none.
    pub(crate) fn attempt(data_dir: &Path) -> anyhow::Result<Attempt> {
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("cannot create the data directory {}", data_dir.display()))?;
        let path = lock_path(data_dir);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                write_url(&mut file, "").with_context(|| format!("cannot write {}", path.display()))?;
                Ok(Attempt::Taken(Self { file }))
            }
            Err(TryLockError::WouldBlock) => {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let url = Some(text.trim().to_owned()).filter(|url| !url.is_empty());
                Ok(Attempt::Held { url })
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Takes the lock or says who has it.
    pub(crate) fn take(data_dir: &Path) -> anyhow::Result<Self> {
        match Self::attempt(data_dir)? {
            Attempt::Taken(lock) => Ok(lock),
            Attempt::Held { url } => {
                let holder = url.map_or_else(
                    || "another rbee-hive".to_owned(),
                    |url| format!("another rbee-hive, listening on {url},"),
                );
                anyhow::bail!(
                    "{holder} already works on the data directory {}; stop it first, or choose another with --data-dir",
                    data_dir.display()
                )
            }
        }
    }

    /// Leaves word where this process listens.
    pub(crate) fn announce(&mut self, url: &str) -> std::io::Result<()> {
        write_url(&mut self.file, url)
    }
}

fn lock_path(data_dir: &Path) -> PathBuf {
    data_dir.join("hive.lock")
}

fn write_url(file: &mut File, url: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(url.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_where_the_first_listens() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = DataLock::take(dir.path()).unwrap();
        first.announce("http://127.0.0.1:9200").unwrap();
        let refusal = DataLock::take(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains("http://127.0.0.1:9200"), "{refusal}");
        drop(first);
        assert!(DataLock::take(dir.path()).is_ok());
    }
}
