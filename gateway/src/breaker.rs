//! A circuit breaker: what has failed several times in a row is left alone for a while, then tried once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BreakerPolicy {
    /// Failures in a row after which it opens.
    pub failures: u32,
    /// How long it stays open the first time; twice as long with each probe that fails.
    pub first_pause: Duration,
    /// How long at most.
    pub longest_pause: Duration,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration },
    Probing { pause: Duration },
}

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: Mutex<State>,
}

/// Leave to try once. Without a report of what came of it, it was no try.
#[derive(Debug)]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
}

impl Breaker {
    /// A closed one.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to try, if there is; once the pause is over, for one alone.
    pub fn permit(&self, now: Instant) -> Option<Permit<'_>> {
        let mut state = self.lock();
        match *state {
            State::Closed { .. } => Some(Permit { breaker: self, is_probe: false }),
            State::Open { until, pause } if now >= until => {
                *state = State::Probing { pause };
                Some(Permit { breaker: self, is_probe: true })
            }
            State::Open { .. } | State::Probing { .. } => None,
        }
    }

    /// How long it stays open yet.
    pub fn open_for(&self, now: Instant) -> Option<Duration> {
        match *self.lock() {
            State::Open { until, .. } => Some(until.saturating_duration_since(now)),
            State::Closed { .. } | State::Probing { .. } => None,
        }
    }

    /// Closes it, since what was tried is another thing now.
    pub fn reset(&self) {
        *self.lock() = State::Closed { failures: 0 };
    }
}

impl Permit<'_> {
    /// It went well.
    pub fn succeeded(self) {
        let mut state = self.breaker.lock();
        // What was begun before it opened says nothing of how it is now.
        if let (State::Closed { .. }, false) | (State::Probing { .. }, true) = (&*state, self.is_probe) {
            *state = State::Closed { failures: 0 };
        }
    }

    /// It failed.
    pub fn failed(self, now: Instant) {
        let BreakerPolicy { failures: most, first_pause, longest_pause } = self.breaker.policy;
        let mut state = self.breaker.lock();
        match *state {
            State::Closed { failures } if failures + 1 < most => {
                *state = State::Closed { failures: failures + 1 };
            }
            State::Closed { .. } => *state = State::Open { until: now + first_pause, pause: first_pause },
            State::Probing { pause } if self.is_probe => {
                let pause = (pause * 2).min(longest_pause);
                *state = State::Open { until: now + pause, pause };
            }
            State::Probing { .. } | State::Open { .. } => {}
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.breaker.lock();
        if let State::Probing { pause } = *state
            && self.is_probe
        {
            *state = State::Open { until: Instant::now(), pause };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> Breaker {
        Breaker::new(BreakerPolicy { failures: 3, first_pause: SECOND, longest_pause: 3 * SECOND })
    }

    fn fail(breaker: &Breaker, now: Instant) {
        breaker.permit(now).unwrap().failed(now);
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let (breaker, now) = (breaker(), Instant::now());
        fail(&breaker, now);
        fail(&breaker, now);
        breaker.permit(now).unwrap().succeeded();
        fail(&breaker, now);
        fail(&breaker, now);
        assert!(breaker.open_for(now).is_none());
        fail(&breaker, now);
        assert_eq!(breaker.open_for(now), Some(SECOND));
        assert!(breaker.permit(now + SECOND / 2).is_none());
    }

    #[test]
    fn one_alone_probes_and_each_failure_doubles_the_pause() {
        let (breaker, mut now) = (breaker(), Instant::now());
        for _ in 0..3 {
            fail(&breaker, now);
        }
        for pause in [1, 2, 3, 3] {
            now += pause * SECOND;
            let probe = breaker.permit(now).unwrap();
            assert!(breaker.permit(now).is_none(), "a second probe");
            probe.failed(now);
        }
        now += 3 * SECOND;
        breaker.permit(now).unwrap().succeeded();
        assert!(breaker.permit(now).is_some());
        fail(&breaker, now);
        assert!(breaker.open_for(now).is_none(), "it counts from nothing again");
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_room_for_another() {
        let (breaker, now) = (breaker(), Instant::now());
        for _ in 0..3 {
            fail(&breaker, now);
        }
        drop(breaker.permit(now + SECOND).unwrap());
        assert!(breaker.permit(now + SECOND).is_some());
    }

    #[test]
    fn what_was_begun_before_it_opened_changes_nothing() {
        let (breaker, now) = (breaker(), Instant::now());
        let (late, later) = (breaker.permit(now).unwrap(), breaker.permit(now).unwrap());
        for _ in 0..3 {
            fail(&breaker, now);
        }
        late.succeeded();
        assert!(breaker.permit(now).is_none());
        let probe = breaker.permit(now + SECOND).unwrap();
        later.succeeded();
        assert!(breaker.permit(now + SECOND).is_none(), "the probe is still under way");
        probe.succeeded();
        assert!(breaker.permit(now + SECOND).is_some());
    }
}
