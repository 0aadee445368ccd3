//! The files that a batch leaves: one with the answers to requests that went well, one with the rest.

use uuid::Uuid;

use super::line;
use crate::clock::unix_seconds;
use crate::store::{Batch, File, FileStatus, JobState, Store, StoreError, Upload};

/// The purpose of what batches leave.
const PURPOSE: &str = "batch_output";
/// Jobs that are read at once.
const AT_ONCE: u32 = 200;

/// A file that is begun with its first line.
struct Output<'a> {
    store: &'a Store,
    batch: &'a Batch,
    what: &'static str,
    upload: Option<Upload>,
}

/// The batch with the files of what came of its jobs. What a queen who died had written goes after a while, as it was never
/// complete.
pub(super) async fn with_files(store: &Store, batch: &Batch) -> Result<Batch, StoreError> {
    let mut output = Output { store, batch, what: "output", upload: None };
    let mut errors = Output { store, batch, what: "error", upload: None };
    let mut after = None;
    loop {
        let jobs = store.group(&batch.id, after, AT_ONCE).await?;
        for job in &jobs {
            let (text, state) = line::told(job);
            let file = if state == JobState::Completed { &mut output } else { &mut errors };
            file.write(&text).await?;
        }
        match jobs.last().and_then(|job| job.group.as_ref()) {
            Some((_, line)) if jobs.len() == AT_ONCE as usize => after = Some(*line),
            _ => break,
        }
    }
    let output_file_id = output.finish().await?;
    Ok(Batch { output_file_id, error_file_id: errors.finish().await?, ..batch.clone() })
}

impl Output<'_> {
    async fn write(&mut self, line: &str) -> Result<(), StoreError> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => self.upload.insert(self.begin().await?),
        };
        upload.append(line.as_bytes()).await?;
        upload.append(b"\n").await
    }

    async fn begin(&self) -> Result<Upload, StoreError> {
        let created_at = unix_seconds();
        let file = File {
            id: format!("file-{}", Uuid::new_v4().simple()),
            owner: self.batch.owner.clone(),
            created_at,
            expires_at: self.batch.output_seconds.map(|seconds| created_at + seconds),
            filename: format!("{}_{}.jsonl", self.batch.id, self.what),
            purpose: PURPOSE.to_owned(),
            bytes: 0,
            status: FileStatus::Uploading,
        };
        self.store.begin_file(file).await
    }

    async fn finish(self) -> Result<Option<String>, StoreError> {
        match self.upload {
            Some(upload) => Ok(Some(upload.finish().await?.id)),
            None => Ok(None),
        }
    }
}
