//! How long answers take, which is what an estimate of a wait rests on.

use std::collections::HashMap;
use std::time::Duration;

/// How much one answer counts beside those before it: about the last ten make the mean.
const WEIGHT: f64 = 0.2;

/// The mean time that an answer holds a slot, by model; recent ones count more.
#[derive(Debug, Default)]
pub(super) struct Pace {
    seconds: HashMap<String, f64>,
}

impl Pace {
    /// Takes note of one answer.
    pub(super) fn note(&mut self, model: &str, took: Duration) {
        let took = took.as_secs_f64();
        match self.seconds.get_mut(model) {
            Some(mean) => *mean += WEIGHT * (took - *mean),
            None => drop(self.seconds.insert(model.to_owned(), took)),
        }
    }

    /// How long the one in this place (1 is next) waits for one of so many slots, all taken; none before the first
    /// answer, and none without slots.
    pub(super) fn wait(&self, model: &str, place: u32, slots: u32) -> Option<Duration> {
        let mean = self.seconds.get(model)?;
        (slots > 0).then(|| Duration::from_secs_f64(mean * f64::from(place) / f64::from(slots)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_with_the_place_and_shrinks_with_the_slots() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait("m", 1, 4), None);
        pace.note("m", Duration::from_secs(2));
        assert_eq!(pace.wait("m", 1, 4), Some(Duration::from_millis(500)));
        assert_eq!(pace.wait("m", 6, 4), Some(Duration::from_secs(3)));
        assert_eq!((pace.wait("m", 1, 0), pace.wait("other", 1, 1)), (None, None));
        for _ in 0..50 {
            pace.note("m", Duration::from_secs(1));
        }
        assert!(pace.wait("m", 1, 1).unwrap() < Duration::from_millis(1001));
    }
}
