//! A worker's output: all of it to a file of bounded size, the end of it kept at hand for errors.

use std::collections::VecDeque;
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use protocol::WorkerId;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

/// A log file is set aside when it has this size; one older part is kept.
const MAX_LOG_BYTES: u64 = 4 << 20;
/// What is kept at hand.
const TAIL_BYTES: usize = 16 << 10;
/// Logs of workers past that are kept; the oldest go first.
const KEPT_LOGS: usize = 40;

/// Where a worker's log is.
pub(super) fn path(log_dir: &Path, worker_id: &WorkerId) -> PathBuf {
    log_dir.join(format!("worker-{worker_id}.log"))
}

/// Copies the output to the file until its end; gives the last of it.
pub(super) fn follow(output: PipeReader, path: PathBuf) -> std::io::Result<JoinHandle<String>> {
    let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
    Ok(tokio::spawn(copy(output, path)))
}

async fn copy(mut output: pipe::Receiver, path: PathBuf) -> String {
    let mut tail = VecDeque::with_capacity(TAIL_BYTES);
    let mut file = LogFile::open(path).await;
    let mut buffer = vec![0; 8 << 10];
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        tail.extend(&buffer[..read]);
        tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
        file.write(&buffer[..read]).await;
    }
    String::from_utf8_lossy(tail.make_contiguous()).into_owned()
}

/// A file that is set aside when it is full. A disk that does not take it costs the log, not the worker.
struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size_bytes: u64,
}

impl LogFile {
    async fn open(path: PathBuf) -> Self {
        let mut log = Self { path, file: None, size_bytes: 0 };
        log.turn_over().await;
        log
    }

    async fn write(&mut self, bytes: &[u8]) {
        if self.size_bytes + bytes.len() as u64 > MAX_LOG_BYTES {
            self.turn_over().await;
        }
        let Some(file) = &mut self.file else { return };
        let written = async {
            file.write_all(bytes).await?;
            file.flush().await
        };
        if let Err(error) = written.await {
            tracing::warn!(log = %self.path.display(), %error, "a worker's log cannot be written any more");
            self.file = None;
        }
        self.size_bytes += bytes.len() as u64;
    }

    async fn turn_over(&mut self) {
        if self.path.exists() {
            let _ = tokio::fs::rename(&self.path, self.path.with_extension("log.1")).await;
        }
        self.size_bytes = 0;
        self.file = File::create(&self.path)
            .await
            .inspect_err(
                |error| tracing::warn!(log = %self.path.display(), %error, "a worker's log cannot be made"),
            )
            .ok();
    }
}

/// Deletes the oldest logs of workers that are gone.
pub(super) fn prune(log_dir: &Path, is_alive: impl Fn(&str) -> bool) {
    let modified = |entry: &std::fs::DirEntry| {
        entry.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let is_past = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix("worker-")?.split_once(".log"));
        id.is_some_and(|(id, _)| !is_alive(id))
    };
    let mut past: Vec<_> =
        std::fs::read_dir(log_dir).into_iter().flatten().flatten().filter(is_past).collect();
    past.sort_by_key(|entry| std::cmp::Reverse(modified(entry)));
    for entry in past.iter().skip(KEPT_LOGS) {
        let _ = std::fs::remove_file(entry.path());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn the_file_is_bounded_and_the_tail_is_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), &"w".into());
        let (reader, mut writer) = std::io::pipe().unwrap();
        let follow = follow(reader, path.clone()).unwrap();
        let line = format!("{}\n", "x".repeat(1023));
        let writing = std::thread::spawn(move || {
            for _ in 0..(9 << 10) {
                writer.write_all(line.as_bytes()).unwrap();
            }
            writer.write_all(b"the end\n").unwrap();
        });
        let tail = follow.await.unwrap();
        writing.join().unwrap();
        assert!(tail.ends_with("the end\n") && tail.len() <= TAIL_BYTES);
        assert!(std::fs::metadata(&path).unwrap().len() <= MAX_LOG_BYTES);
        assert!(std::fs::metadata(path.with_extension("log.1")).unwrap().len() <= MAX_LOG_BYTES);
    }

    #[test]
    fn logs_of_the_living_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..KEPT_LOGS + 5 {
            std::fs::write(path(dir.path(), &format!("{number}").as_str().into()), "").unwrap();
        }
        prune(dir.path(), |id| id == "0");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), KEPT_LOGS + 1);
        assert!(path(dir.path(), &"0".into()).exists());
    }
}
