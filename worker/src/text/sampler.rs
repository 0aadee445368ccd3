//! From logits to the next token: greedy, or by chance with temperature, top_k and top_p, in this order.
//!
//! The same seed and the same logits give the same token, whatever else runs: draws are numbered and each is computed
//! from the seed and its number. The vocabulary is never sorted as a whole.

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Only the smallest set of tokens that holds this probability; 1 takes all.
    pub top_p: f32,
    /// Only this many of the likeliest tokens; 0 takes all.
    pub top_k: usize,
    /// What the draws are computed from.
    pub seed: u64,
}

/// Candidates that are sorted at first when looking for top_p's set; it grows fourfold while it is too small.
const FIRST_CANDIDATES: usize = 128;

/// The sampler of one request.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    draws: u64,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Sampler {
    /// A sampler that has drawn nothing yet.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, draws: 0 }
    }

    /// Chooses the next token. Logits that are no numbers are never chosen while there is another.
    pub fn next(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature <= 0.0 || self.sampling.top_k == 1 {
            return likeliest(logits);
        }
        let point = self.draw();
        if self.sampling.top_k == 0 && self.sampling.top_p >= 1.0 {
            return self.draw_from_all(logits, point);
        }
        let candidates = self.candidates(logits);
        self.draw_from_sorted(&candidates, point)
    }

    /// A number from 0 up to 1, by SplitMix64's finaliser on the seed and the number of the draw.
    fn draw(&mut self) -> f64 {
        self.draws += 1;
        let bits = mix(mix(self.sampling.seed).wrapping_add(self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    fn weight(&self, logit: f32, highest: f32) -> f64 {
        f64::from((logit - highest) / self.sampling.temperature).exp()
    }

    fn draw_from_all(&self, logits: &[f32], point: f64) -> u32 {
        let best = likeliest(logits);
        let highest = logits.get(best as usize).copied().unwrap_or(0.0);
        let weights =
            logits.iter().map(|logit| if logit.is_nan() { 0.0 } else { self.weight(*logit, highest) });
        let target = point * weights.clone().sum::<f64>();
        let mut reached = 0.0;
        for (id, weight) in weights.enumerate() {
            reached += weight;
            if reached > target {
                return id as u32;
            }
        }
        best
    }

    /// The tokens that top_k and top_p leave, likeliest first.
    fn candidates(&self, logits: &[f32]) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| !logit.is_nan())
            .map(|(id, logit)| Candidate { id: id as u32, logit: *logit })
            .collect();
        if self.sampling.top_k > 0 {
            let kept = self.sampling.top_k.min(all.len());
            sort_first(&mut all, kept);
            all.truncate(kept);
            let nucleus = self.nucleus(&all, None).unwrap_or(all.len());
            all.truncate(nucleus);
            return all;
        }
        let highest = all.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max);
        let total = all.iter().map(|candidate| self.weight(candidate.logit, highest)).sum();
        let mut sorted = FIRST_CANDIDATES.min(all.len());
        loop {
            sort_first(&mut all, sorted);
            match self.nucleus(&all[..sorted], Some(total)) {
                Some(nucleus) => {
                    all.truncate(nucleus);
                    return all;
                }
                None if sorted == all.len() => return all,
                None => sorted = (sorted * 4).min(all.len()),
            }
        }
    }

    /// How many of the sorted candidates hold top_p of the total weight (their own, if it is not given); `None` if all
    /// of them together do not.
    fn nucleus(&self, sorted: &[Candidate], total: Option<f64>) -> Option<usize> {
        let highest = sorted.first()?.logit;
        let weight = |candidate: &Candidate| self.weight(candidate.logit, highest);
        let total = total.unwrap_or_else(|| sorted.iter().map(weight).sum());
        let wanted = f64::from(self.sampling.top_p) * total;
        let mut reached = 0.0;
        sorted
            .iter()
            .position(|candidate| {
                reached += weight(candidate);
                reached >= wanted
            })
            .map(|index| index + 1)
    }

    fn draw_from_sorted(&self, candidates: &[Candidate], point: f64) -> u32 {
        let Some(first) = candidates.first() else { return 0 };
        let weights = candidates.iter().map(|candidate| self.weight(candidate.logit, first.logit));
        let target = point * weights.clone().sum::<f64>();
        let mut reached = 0.0;
        for (candidate, weight) in candidates.iter().zip(weights) {
            reached += weight;
            if reached > target {
                return candidate.id;
            }
        }
        first.id
    }
}

/// The token of the highest logit, the lowest id of equals.
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    let mut highest = f32::NEG_INFINITY;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > highest {
            highest = *logit;
            best = id;
        }
    }
    best as u32
}

/// Brings the `count` likeliest candidates to the front and sorts those; equals by id.
fn sort_first(candidates: &mut [Candidate], count: usize) {
    let order =
        |left: &Candidate, right: &Candidate| right.logit.total_cmp(&left.logit).then(left.id.cmp(&right.id));
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, order);
    }
    candidates[..count].sort_unstable_by(order);
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 7 };

    fn drawn(sampling: Sampling, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
        (0..count).map(|_| sampler.next(logits)).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals_and_no_nan() {
        let logits = [f32::NAN, 1.0, 3.0, 3.0];
        assert_eq!(drawn(Sampling { temperature: 0.0, ..PLAIN }, &logits, 2), [2, 2]);
    }

    #[test]
    fn a_seed_repeats_itself_and_another_differs() {
        let logits = [0.0; 50];
        assert_eq!(drawn(PLAIN, &logits, 20), drawn(PLAIN, &logits, 20));
        assert_ne!(drawn(PLAIN, &logits, 20), drawn(Sampling { seed: 8, ..PLAIN }, &logits, 20));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        for sampling in [PLAIN, Sampling { top_k: 3, ..PLAIN }, Sampling { top_p: 0.9999, ..PLAIN }] {
            let drawn = drawn(sampling, &logits, 16_000);
            for (id, share) in [(0, 0.125), (1, 0.25), (2, 0.625)] {
                let seen = drawn.iter().filter(|token| **token == id).count() as f64 / 16_000.0;
                assert!((seen - share).abs() < 0.015, "{sampling:?}: token {id} came {seen}, not {share}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_partial_selection_equals_a_full_sort(
            logits in prop::collection::vec(-8.0f32..8.0, 1..700),
            top_k in 0usize..40,
            top_p in 0f32..1.0,
            temperature in 0.1f32..2.0,
        ) {
            let sampler = Sampler::new(Sampling { temperature, top_p, top_k, seed: 0 });
            let mut sorted: Vec<Candidate> =
                logits.iter().enumerate().map(|(id, logit)| Candidate { id: id as u32, logit: *logit }).collect();
            sorted.sort_by(|left, right| right.logit.total_cmp(&left.logit).then(left.id.cmp(&right.id)));
            if top_k > 0 {
                sorted.truncate(top_k);
            }
            let total: f64 = sorted.iter().map(|candidate| sampler.weight(candidate.logit, sorted[0].logit)).sum();
            let mut reached = 0.0;
            let expected: Vec<u32> = sorted.iter().take_while(|candidate| {
                let open = reached < f64::from(top_p) * total - 1e-9 * total;
                reached += sampler.weight(candidate.logit, sorted[0].logit);
                open
            }).map(|candidate| candidate.id).collect();
            let found: Vec<u32> = sampler.candidates(&logits).iter().map(|candidate| candidate.id).collect();
            // A sum that lies on the boundary may round either way; nothing else may differ.
            prop_assert!(found.len().abs_diff(expected.len()) <= 1);
            let common = found.len().min(expected.len());
            prop_assert_eq!(&found[..common], &expected[..common]);
        }
    }
}
