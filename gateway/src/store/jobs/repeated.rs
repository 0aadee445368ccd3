//! A job comes again: whether it is the one that is there.

use crate::store::{Enqueued, Idempotency, Job, NewJob};

/// What a repeated job is to the one that is there.
pub(in crate::store) fn compare(new: &NewJob, found: &[Found]) -> Enqueued {
    let by_key = new.idempotency.as_ref().and_then(|idempotency| {
        let found = found.iter().find(|found| {
            found.job.owner == new.owner
                && found.idempotency.as_ref().is_some_and(|of| of.key == idempotency.key)
        })?;
        Some((found, found.idempotency.as_ref() == Some(idempotency)))
    });
    let by_line = || {
        let found = found.iter().find(|found| new.group.is_some() && found.job.group == new.group)?;
        Some((found, found.job.owner == new.owner))
    };
    let by_id = || {
        let found = found.iter().find(|found| found.job.id == new.id)?;
        let job = &found.job;
        let is_same = (job.kind, &job.owner, &job.request) == (new.kind, &new.owner, &new.request);
        Some((found, is_same && found.idempotency == new.idempotency))
    };
    match by_key.or_else(by_line).or_else(by_id) {
        Some((found, true)) => Enqueued::Existing(Box::new(found.job.clone())),
        _ => Enqueued::Conflict,
    }
}

/// A job that stands where another one was to be put.
pub(in crate::store) struct Found {
    pub job: Job,
    pub idempotency: Option<Idempotency>,
}
