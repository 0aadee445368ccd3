//! Pauses between attempts. Each is longer than the one before and partly chance, so that those who failed together do not
//! come back together.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Pauses that double from the first to the last, without end. Chance makes each longer, by its own length at most.
pub fn doubling(first: Duration, last: Duration) -> Pauses {
    Pauses(growing(first, last, 2.0).without_max_times().build(), last)
}

/// What [`Pauses`] are made of, for a number of attempts.
pub fn growing(first: Duration, last: Duration, factor: f32) -> ExponentialBuilder {
    ExponentialBuilder::default().with_min_delay(first).with_max_delay(last).with_factor(factor).with_jitter()
}

/// Pauses without end.
#[derive(Debug)]
pub struct Pauses(ExponentialBackoff, Duration);

impl Pauses {
    /// The next one.
    pub fn next(&mut self) -> Duration {
        self.0.next().unwrap_or(self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_grow_to_the_last_and_differ() {
        let (first, last) = (Duration::from_millis(100), Duration::from_secs(1));
        let all = || {
            let mut pauses = doubling(first, last);
            std::array::from_fn::<_, 8, _>(|_| pauses.next())
        };
        let (one, other) = (all(), all());
        assert!(one[0] >= first && one[0] <= first * 2, "{one:?}");
        assert!(one.iter().all(|pause| *pause <= last * 2) && one[7] >= last, "{one:?}");
        assert_ne!(one, other);
    }
}
