//! How long answers take and how long they are, which is what estimates rest on.

use std::collections::HashMap;
use std::time::Duration;

/// How much one answer counts beside those before it: about the last ten make the mean.
const WEIGHT: f64 = 0.2;
/// What an answer is taken to have before the first of its model.
const ANSWER_TOKENS: f64 = 256.0;

/// The mean of a model's answers; recent ones count more.
#[derive(Debug, Clone, Copy)]
struct Mean {
    /// How long one holds a slot.
    seconds: f64,
    /// How many tokens it has.
    tokens: f64,
}

/// Means by model.
#[derive(Debug, Default)]
pub(super) struct Pace {
    means: HashMap<String, Mean>,
}

impl Pace {
    /// Takes note of one answer, and of its tokens if they are known.
    pub(super) fn note(&mut self, model: &str, took: Duration, tokens: Option<u32>) {
        let seconds = took.as_secs_f64();
        if let Some(mean) = self.means.get_mut(model) {
            mean.seconds += WEIGHT * (seconds - mean.seconds);
            if let Some(tokens) = tokens {
                mean.tokens += WEIGHT * (f64::from(tokens) - mean.tokens);
            }
        } else {
            let mean = Mean { seconds, tokens: tokens.map_or(ANSWER_TOKENS, f64::from) };
            self.means.insert(model.to_owned(), mean);
        }
    }

    /// How many tokens an answer will have.
    pub(super) fn answer_tokens(&self, model: &str) -> f64 {
        self.means.get(model).map_or(ANSWER_TOKENS, |mean| mean.tokens)
    }

    /// How long the one in this place (1 is next) waits for one of so many slots, all taken; none before the first
    /// answer, and none without slots.
    pub(super) fn wait(&self, model: &str, place: u32, slots: u32) -> Option<Duration> {
        let mean = self.means.get(model)?.seconds;
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
        pace.note("m", Duration::from_secs(2), None);
        assert_eq!(pace.wait("m", 1, 4), Some(Duration::from_millis(500)));
        assert_eq!(pace.wait("m", 6, 4), Some(Duration::from_secs(3)));
        assert_eq!((pace.wait("m", 1, 0), pace.wait("other", 1, 1)), (None, None));
        for _ in 0..50 {
            pace.note("m", Duration::from_secs(1), Some(10));
        }
        assert!(pace.wait("m", 1, 1).unwrap() < Duration::from_millis(1001));
        assert!((pace.answer_tokens("m") - 10.0).abs() < 0.1);
    }
}
