//! One reader of a job, who is told of it by whoever knows: this queen while she holds it, the record when it has ended.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use protocol::{ApiError, JobId, TaskEvent};

use super::live::{EventId, Told};
use super::{Jobs, record};

/// Whether a job that another queen holds, or none, has come further is looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(300);

pub(super) struct Reader {
    jobs: Jobs,
    owner: String,
    id: JobId,
    seen: Option<EventId>,
    /// What is read now.
    source: Option<Source>,
    /// The attempt whose events were read to where they broke off.
    given_up: Option<u32>,
    is_over: bool,
}

/// Where events come from.
enum Source {
    /// This queen, who may give the job up before its end.
    Live(BoxStream<'static, Told>),
    /// The record of a job that has ended.
    Record(BoxStream<'static, Told>),
}

impl Reader {
    pub(super) fn new(jobs: Jobs, owner: String, id: JobId, seen: Option<EventId>) -> Self {
        Self { jobs, owner, id, seen, source: None, given_up: None, is_over: false }
    }

    /// The next event; `None` after the last, or when this queen ends before it.
    pub(super) async fn next(&mut self) -> Option<Told> {
        while !self.is_over {
            let told = match &mut self.source {
                None => {
                    self.source = Some(self.open().await?);
                    continue;
                }
                Some(Source::Live(events) | Source::Record(events)) => events.next().await,
            };
            if let Some((id, event)) = told {
                self.seen = id.or(self.seen);
                self.is_over = event.is_last();
                return Some((id, event));
            }
            // Who has seen a record's last event already is told nothing more.
            self.is_over = matches!(self.source, Some(Source::Record(_)));
            self.source = None;
        }
        None
    }

    /// What comes after what was seen.
    async fn open(&mut self) -> Option<Source> {
        loop {
            if let Some(live) = self.jobs.held(&self.id)
                && self.given_up != Some(live.attempt)
            {
                self.given_up = Some(live.attempt);
                return Some(Source::Live(live.events(self.from(live.attempt)).boxed()));
            }
            match self.record().await {
                Ok(None) => {}
                Ok(Some(events)) => return Some(Source::Record(events)),
                Err(error) => {
                    let event = TaskEvent::Error(error.into());
                    return Some(Source::Record(futures::stream::iter([(None, event)]).boxed()));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.jobs.shared.stop.cancelled() => return None,
            }
        }
    }

    /// The events of the record, if the job has ended.
    async fn record(&mut self) -> Result<Option<BoxStream<'static, Told>>, ApiError> {
        let job = self.jobs.job(&self.owner, &self.id).await?;
        if !job.state.is_ended() {
            return Ok(None);
        }
        let lines =
            self.jobs.shared.store.job_events(&self.owner, self.id.as_str()).await?.unwrap_or_default();
        let events = record::replayed(&job, &lines, self.from(job.attempt));
        Ok(Some(futures::stream::iter(events).boxed()))
    }

    fn from(&self, attempt: u32) -> usize {
        match self.seen {
            Some(seen) if seen.attempt == attempt => seen.place.saturating_add(1),
            _ => 0,
        }
    }
}
