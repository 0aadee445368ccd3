//! DATA_DIR/queen.json tells where the running queen is; a lock beside it keeps a second one out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use protocol::queen::QueenFile;

/// Held for as long as the queen runs; the file goes when it is dropped.
pub struct RuntimeFile {
    path: PathBuf,
    _lock: File,
}

/// Whoever looks whether a queen runs holds the lock for a moment too.
const ATTEMPTS: u32 = 4;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);

/// Claims the data directory for this process.
pub fn lock(data_dir: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(data_dir)
        .with_context(|| format!("cannot create the data directory {}", data_dir.display()))?;
    let path = data_dir.join("queen.lock");
    let lock = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut attempt = lock.try_lock();
    for _ in 0..ATTEMPTS {
        if !matches!(attempt, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(BETWEEN_ATTEMPTS);
        attempt = lock.try_lock();
    }
    match attempt {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "a queen already runs on the data directory {}; stop it with `rbee-keeper down`, or choose another with --data-dir",
            data_dir.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

impl RuntimeFile {
    /// Writes the file, whole or not at all.
    pub fn write(lock: File, data_dir: &Path, url: &str) -> anyhow::Result<Self> {
        let path = data_dir.join("queen.json");
        let started_at_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let content = QueenFile { pid: std::process::id(), url: url.to_owned(), started_at_ms };
        let part = path.with_extension("json.part");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        writeln!(file, "{}", serde_json::to_string(&content)?)?;
        fs::rename(&part, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for RuntimeFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
