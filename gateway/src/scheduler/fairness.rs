//! Who has had how much: a slot goes to the key that has had the least of late.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// What a key has had counts half after this time.
const HALF_LIFE: Duration = Duration::from_mins(1);
/// After so many half-lives the sums are brought down, before they could grow out of bounds.
const HALF_LIVES_MAX: f64 = 64.0;
/// Less than this is as good as nothing.
const FORGOTTEN_TOKENS: f64 = 1.0;

/// Tokens that keys have had, those long ago for less.
///
/// What is added now is made larger instead of making all sums smaller as time goes by: so the order of two keys changes only
/// when one of them gets something.
pub(super) struct Service {
    since: Instant,
    had: HashMap<Arc<str>, f64>,
}

impl Service {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, had: HashMap::new() }
    }

    /// Adds what a key gets, or takes back what it did not get after all.
    pub(super) fn charge(&mut self, key: &Arc<str>, tokens: f64, now: Instant) {
        if self.half_lives(now) > HALF_LIVES_MAX {
            self.bring_down(now);
        }
        let weighed = tokens * self.weight(now);
        match self.had.get_mut(key) {
            Some(had) => *had = (*had + weighed).max(0.0),
            None => drop(self.had.insert(key.clone(), weighed.max(0.0))),
        }
    }

    /// What a key has had, for comparing it with others.
    pub(super) fn weighed(&self, key: &str) -> f64 {
        self.had.get(key).copied().unwrap_or(0.0)
    }

    /// How much a token of now weighs.
    pub(super) fn weight(&self, now: Instant) -> f64 {
        self.half_lives(now).exp2()
    }

    /// Forgets keys that have had next to nothing of late.
    pub(super) fn forget(&mut self, now: Instant) {
        let least = FORGOTTEN_TOKENS * self.weight(now);
        self.had.retain(|_, had| *had >= least);
    }

    fn half_lives(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.since).as_secs_f64() / HALF_LIFE.as_secs_f64()
    }

    fn bring_down(&mut self, now: Instant) {
        let weight = self.weight(now);
        self.had.retain(|_, had| {
            *had /= weight;
            *had >= FORGOTTEN_TOKENS
        });
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_long_ago_counts_for_less() {
        let start = Instant::now();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut service = Service::new(start);
        service.charge(&a, 100.0, start);
        service.charge(&b, 60.0, start + HALF_LIFE);
        assert!(service.weighed(&a) < service.weighed(&b), "100 of a minute ago are 50");
        let now = service.weighed(&a) / service.weight(start + HALF_LIFE);
        assert!((now - 50.0).abs() < 1e-9);
        service.charge(&b, -60.0, start + HALF_LIFE);
        assert!(service.weighed(&b).abs() < 1e-9);
    }

    #[test]
    fn years_change_nothing_and_leave_nothing() {
        let start = Instant::now();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut service = Service::new(start);
        for hour in 0..10_000 {
            let now = start + Duration::from_hours(hour);
            service.charge(&a, 100.0, now);
            service.charge(&b, 50.0, now);
            assert!(service.weighed(&a).is_finite() && service.weighed(&a) > service.weighed(&b));
        }
        let end = start + Duration::from_hours(20_000);
        service.charge(&b, 1.0, end);
        service.forget(end);
        assert_eq!(service.had.len(), 1);
    }
}
