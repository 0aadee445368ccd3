//! A job that this queen holds: its events as they come, for as many readers as like to follow it.

use std::sync::Arc;

use futures::Stream;
use protocol::events::{End, FinishReason, Timings, TokenUsage};
use protocol::task::DecisionView;
use protocol::{JobId, TaskEvent};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// One attempt at a job.
pub struct Live {
    pub(super) id: JobId,
    pub(super) attempt: u32,
    pub(super) cancel: CancellationToken,
    log: watch::Sender<Log>,
}

/// What happened so far.
#[derive(Default)]
pub(super) struct Log {
    /// In order; an event's place is its number.
    pub(super) events: Vec<TaskEvent>,
    /// The latest of what is told but not kept, such as the place in the queue, and how many there were before.
    news: Option<TaskEvent>,
    news_count: u64,
    /// Why it went where it went.
    pub(super) decision: Option<DecisionView>,
    /// Nothing more comes: it is settled, or another attempt goes on with it.
    is_over: bool,
}

/// Where a reader is: the attempt, and the number of an event of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    pub attempt: u32,
    pub place: usize,
}

impl EventId {
    /// Reads what a reader saw last. The first attempt's events are known by their places alone.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('.') {
            Some((attempt, place)) => {
                Some(Self { attempt: attempt.parse().ok()?, place: place.parse().ok()? })
            }
            None => Some(Self { attempt: 1, place: text.parse().ok()? }),
        }
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.attempt {
            0 | 1 => write!(f, "{}", self.place),
            attempt => write!(f, "{attempt}.{}", self.place),
        }
    }
}

/// An event as a reader gets it. What is told but not kept has no id.
pub type Told = (Option<EventId>, TaskEvent);

impl Live {
    pub(super) fn new(id: JobId, attempt: u32) -> Self {
        let log = watch::Sender::new(Log::default());
        Self { id, attempt, cancel: CancellationToken::new(), log }
    }

    /// Adds an event. Of what is said of waiting, only the first is kept.
    pub(super) fn tell(&self, event: TaskEvent, decision: Option<&DecisionView>) {
        self.log.send_modify(|log| {
            if matches!(event, TaskEvent::Started(_)) {
                log.decision = decision.cloned();
            }
            let is_of_waiting = matches!(event, TaskEvent::Queued(_) | TaskEvent::Narration(_));
            if is_of_waiting && !log.events.is_empty() {
                log.news = Some(event);
                log.news_count += 1;
            } else {
                log.events.push(event);
                log.news = None;
            }
        });
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.log.send_modify(|log| log.is_over = true);
    }

    /// Returns when nothing more comes.
    pub(super) async fn over(&self) {
        // The sender lives as long as this does, so waiting cannot fail.
        let _ = self.log.subscribe().wait_for(|log| log.is_over).await;
    }

    pub(super) fn log(&self) -> watch::Ref<'_, Log> {
        self.log.borrow()
    }

    /// Its events from this place on: those that happened, then live until nothing more comes.
    pub(super) fn events(self: &Arc<Self>, from: usize) -> impl Stream<Item = Told> + Send + use<> {
        // Who comes in the middle is told how it stands.
        let state = (self.log.subscribe(), EventId { attempt: self.attempt, place: from }, 0);
        futures::stream::unfold(state, async |(mut log, next, seen)| {
            let (told, seen) = told(&mut log, next, seen).await?;
            let place = next.place + usize::from(told.0.is_some());
            Some((told, (log, EventId { place, ..next }, seen)))
        })
    }

    /// The last event of a job whose owner has ended it.
    pub(super) fn cancelled(&self) -> TaskEvent {
        let log = self.log.borrow();
        // What came before the latest start was given up.
        let begun = log.events.iter().rposition(|event| matches!(event, TaskEvent::Started(_))).unwrap_or(0);
        let tokens = log.events[begun..].iter().filter(|event| matches!(event, TaskEvent::Token(_))).count();
        let prompt_tokens = match log.events.get(begun) {
            Some(TaskEvent::Started(started)) => started.prompt_tokens,
            _ => 0,
        };
        ended_by_owner(prompt_tokens, tokens as u32)
    }
}

/// What a reader is told next, and how much of what is not kept was told with it.
async fn told(log: &mut watch::Receiver<Log>, next: EventId, seen: u64) -> Option<(Told, u64)> {
    let has_news = |log: &Log| log.news.is_some() && log.news_count > seen;
    let is_new = |log: &Log| log.events.len() > next.place || has_news(log) || log.is_over;
    let log = log.wait_for(is_new).await.ok()?;
    match log.events.get(next.place) {
        Some(event) => Some(((Some(next), event.clone()), seen)),
        None if has_news(&log) => Some(((None, log.news.clone()?), log.news_count)),
        None => None,
    }
}

/// The last event of a job that was cancelled after so many tokens.
pub(super) fn ended_by_owner(prompt_tokens: u32, completion_tokens: u32) -> TaskEvent {
    TaskEvent::End(End {
        done: true,
        total_tokens: completion_tokens,
        finish_reason: FinishReason::Cancelled,
        finish_reasons: Vec::new(),
        stop_sequences: Vec::new(),
        usage: TokenUsage { prompt_tokens, completion_tokens, ..TokenUsage::default() },
        timings: Timings::default(),
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use protocol::events::{Queued, Token};

    use super::*;

    #[test]
    fn an_events_id_is_read_as_it_is_written() {
        for (attempt, place, written) in [(1, 7, "7"), (3, 0, "3.0")] {
            let id = EventId { attempt, place };
            assert_eq!((id.to_string().as_str(), EventId::parse(written)), (written, Some(id)));
        }
        for text in ["", "x", "1.", ".1", "-1", "1.2.3"] {
            assert_eq!(EventId::parse(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn readers_see_each_kept_event_once_and_the_latest_of_the_rest() {
        let live = Arc::new(Live::new(JobId::from("j"), 1));
        let queued = |position| TaskEvent::Queued(Queued { position, eta_ms: None });
        let token = TaskEvent::Token(Token::default());
        for position in [3, 2, 1] {
            live.tell(queued(position), None);
        }
        let mut early = Box::pin(live.events(0));
        let place = |place| Some(EventId { attempt: 1, place });
        assert_eq!(early.next().await, Some((place(0), queued(3))));
        assert_eq!(early.next().await, Some((None, queued(1))));
        live.tell(token.clone(), None);
        live.close();
        assert_eq!(early.next().await, Some((place(1), token.clone())));
        assert_eq!(early.next().await, None);
        let late: Vec<_> = live.events(1).map(|(id, _)| id).collect().await;
        assert_eq!(late[0], place(1));
    }
}
