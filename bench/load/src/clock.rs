//! Time as all processes of this machine read it, and what many times come to.

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Microseconds on the clock that no one sets, so that one process can tell another when something was due.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000
}

/// Durations in microseconds; one that is negative is a difference of two.
#[derive(Debug, Clone, Default)]
pub struct Durations(Vec<i64>);

/// What durations are judged by.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    count: usize,
    p50: i64,
    p95: i64,
    p99: i64,
    max: i64,
}

impl Durations {
    /// Adds one.
    pub fn add(&mut self, microseconds: i64) {
        self.0.push(microseconds);
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Each less its counterpart.
    pub fn minus(&self, others: &Self) -> Self {
        Self(self.0.iter().zip(&others.0).map(|(own, other)| own - other).collect())
    }

    /// All zero if there are none.
    pub fn percentiles(mut self) -> Percentiles {
        self.0.sort_unstable();
        let count = self.0.len();
        let at = |percent: usize| self.0.get((count * percent / 100).min(count.saturating_sub(1))).copied();
        let [p50, p95, p99, max] = [50, 95, 99, 100].map(|percent| at(percent).unwrap_or_default());
        Percentiles { count, p50, p95, p99, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_durations() {
        let durations = Durations((0..200).rev().collect());
        let Percentiles { count, p50, p95, p99, max } = durations.percentiles();
        assert_eq!((count, p50, p95, p99, max), (200, 100, 190, 198, 199));
        assert_eq!(Durations::default().percentiles().max, 0);
    }
}
