//! What jobs do: how it is kept, and made a request again.

use protocol::task::TaskRequest;
use protocol::{ApiError, ErrorCode, TaskEvent};
use serde::de::DeserializeOwned;

use super::live::Live;
use super::{Jobs, record};
use crate::clock::unix_millis;
use crate::inference::InferenceRequest;
use crate::responses::{Background, Keep};
use crate::store::{Job, JobKind};

/// What a job does.
pub(super) enum Work {
    Task(Box<TaskRequest>),
    Response(Box<Background>),
    /// A request of a batch, which is answered in one piece.
    Line,
}

impl Work {
    /// Reads what a job does.
    pub(super) fn read(job: &Job) -> Result<Self, ApiError> {
        match job.kind {
            JobKind::Task => Ok(Self::Task(Box::new(read(job)?))),
            JobKind::Response => Ok(Self::Response(Box::new(read(job)?))),
            JobKind::BatchLine => Ok(Self::Line),
        }
    }
}

/// A record that cannot be read was written by a newer version, or is damaged.
fn read<T: DeserializeOwned>(job: &Job) -> Result<T, ApiError> {
    serde_json::from_str(&job.request).map_err(|error| record::broken(&job.id, &error))
}

impl Jobs {
    /// The request of a job, whose deadline is as far away as it is by now.
    pub(super) fn request_of(&self, job: &Job) -> Result<InferenceRequest, ApiError> {
        match Work::read(job)? {
            Work::Task(mut body) => {
                if let Some(at) = job.deadline_at_ms {
                    body.deadline_ms = Some((at - unix_millis()).max(0) as u64);
                }
                self.request(*body)
            }
            Work::Response(response) => Ok(response.request()),
            Work::Line => Err(ApiError::new(ErrorCode::Internal, "A line of a batch has no events.")),
        }
    }

    /// Puts away what a job has made for others to ask for, before its end is kept.
    pub(super) async fn put_away(&self, job: &Job, live: &Live, last: &TaskEvent) -> Result<(), ApiError> {
        let Ok(Work::Response(background)) = Work::read(job) else { return Ok(()) };
        let response = background.after(live.log().events.iter().chain(std::iter::once(last)));
        Keep::new(&self.shared.store, &job.owner, background.input).keep_anew(&response).await
    }
}
