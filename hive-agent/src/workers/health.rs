//! Talking to a worker that runs: how its load goes, how it is, and when it has had nothing to do for too long.

use std::time::{Duration, Instant};

use client::worker::WorkerClient;
use protocol::worker::{Health, LoadProgress, LoadStage};

/// Health is asked for this often.
const POLL_EVERY: Duration = Duration::from_secs(30);
/// After an answer that did not come, it is asked for again this soon.
const RETRY_EVERY: Duration = Duration::from_secs(5);
/// An answer takes at most this long. The HTTP threads of a busy worker have little to do.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A worker that has not answered so many times is taken for hung.
const MISSES_ALLOWED: u32 = 3;
/// A load that makes no progress for this long is taken for hung.
const LOAD_STALL: Duration = Duration::from_mins(10);
/// Progress is passed on this often at most, unless the stage changes.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Why a worker should not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has had no work for the time that is allowed.
    Idle,
    /// It does not answer any more.
    Hung,
}

/// Follows the load to its end; false if it failed or made no progress for too long. The end of the process is seen elsewhere.
pub(super) async fn follow_load(client: &WorkerClient, mut tell: impl FnMut(LoadProgress)) -> bool {
    let mut throttle = Throttle::default();
    let (mut last, mut last_progress) = (None, Instant::now());
    loop {
        // Keep-alive comments are no progress, so both waits have an end of their own.
        let left = LOAD_STALL.saturating_sub(last_progress.elapsed());
        let Ok(connected) = tokio::time::timeout(left, client.loading_progress()).await else { return false };
        if let Ok(mut stages) = connected {
            loop {
                let left = LOAD_STALL.saturating_sub(last_progress.elapsed());
                let Ok(next) = tokio::time::timeout(left, stages.next()).await else { return false };
                let Ok(Some(progress)) = next else { break };
                if last.as_ref() != Some(&progress) {
                    (last, last_progress) = (Some(progress.clone()), Instant::now());
                }
                match progress.stage {
                    LoadStage::Ready => return true,
                    LoadStage::Failed => return false,
                    stage if throttle.lets_pass(stage) => tell(progress),
                    _ => {}
                }
            }
        }
        // The stream broke: the worker is dying, which its exit tells, or the connection was at fault.
        tokio::time::sleep(PROGRESS_EVERY).await;
    }
}

/// How the worker is, if it answers in time.
pub(super) async fn ask(client: &WorkerClient) -> Option<Health> {
    match tokio::time::timeout(ANSWER_TIMEOUT, client.health()).await {
        Ok(Ok(health)) => Some(health),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a worker did not answer");
            None
        }
        Err(_) => None,
    }
}

/// Watches a loaded worker until it should not go on. `tell` gets every answer.
pub(super) async fn watch(
    client: &WorkerClient,
    idle_timeout: Option<Duration>,
    mut tell: impl FnMut(&Health),
) -> Verdict {
    let mut misses = 0;
    loop {
        let pause = match ask(client).await {
            Some(health) => {
                misses = 0;
                tell(&health);
                match idle_timeout.map(|timeout| idle_left(&health, timeout)) {
                    // A request that came in the meantime keeps the worker; it is asked, since it alone knows.
                    Some(Duration::ZERO) if agrees_to_end(client).await => return Verdict::Idle,
                    Some(Duration::ZERO) => RETRY_EVERY,
                    Some(left) => left.min(POLL_EVERY),
                    None => POLL_EVERY,
                }
            }
            None if misses + 1 >= MISSES_ALLOWED => return Verdict::Hung,
            None => {
                misses += 1;
                RETRY_EVERY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn agrees_to_end(client: &WorkerClient) -> bool {
    matches!(tokio::time::timeout(ANSWER_TIMEOUT, client.shutdown_if_idle()).await, Ok(Ok(_)))
}

/// How long the worker may stay idle still.
fn idle_left(health: &Health, timeout: Duration) -> Duration {
    if health.slots_available < health.slots_total {
        return timeout;
    }
    timeout.saturating_sub(Duration::from_millis(health.idle_ms))
}

#[derive(Default)]
struct Throttle {
    last: Option<(LoadStage, Instant)>,
}

impl Throttle {
    fn lets_pass(&mut self, stage: LoadStage) -> bool {
        let passes = self.last.is_none_or(|(last, at)| last != stage || at.elapsed() >= PROGRESS_EVERY);
        if passes {
            self.last = Some((stage, Instant::now()));
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use protocol::worker::{Backend, WorkerState};

    use super::*;

    fn health(slots_available: u32, idle_ms: u64) -> Health {
        Health {
            status: "healthy".to_owned(),
            worker_id: "w".into(),
            boot_id: "b".into(),
            kind: None,
            model: "m".to_owned(),
            backend: Backend::Cpu,
            device: None,
            state: WorkerState::Idle,
            slots_total: 2,
            slots_available,
            context_length: 1,
            kv: None,
            idle_ms,
            uptime_seconds: 1,
        }
    }

    #[test]
    fn only_a_worker_with_all_slots_free_is_idle() {
        let timeout = Duration::from_mins(5);
        assert_eq!(idle_left(&health(2, 1_000), timeout), Duration::from_secs(299));
        assert_eq!(idle_left(&health(2, 300_000), timeout), Duration::ZERO);
        assert_eq!(idle_left(&health(1, 300_000), timeout), timeout);
    }

    #[test]
    fn a_new_stage_passes_at_once_and_the_same_does_not() {
        let mut throttle = Throttle::default();
        assert!(throttle.lets_pass(LoadStage::ReadingHeader));
        assert!(!throttle.lets_pass(LoadStage::ReadingHeader));
        assert!(throttle.lets_pass(LoadStage::LoadingWeights));
    }
}
