//! The tokens that filters leave, and the draw among them.

use std::cmp::Ordering;

use crate::text::sampler::{Sampling, scan};

/// Candidates that are sorted at first when a set of some weight is looked for; four times more each time that they do
/// not hold it.
const FIRST_SORTED: usize = 128;
/// Candidates that are gathered at least before the best of them are told from the rest.
const GATHERED_MIN: usize = 256;
/// How far below a computed floor a logit may lie, in units of the scaled logit: rounding must not lose a candidate that
/// the exact sums keep.
const MARGIN: f32 = 1e-2;

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    weight: f32,
    /// How far its surprise is from the expected one, where that is asked.
    distance: f32,
}

impl Candidate {
    fn new(id: u32, logit: f32) -> Self {
        Self { id, logit, weight: 0.0, distance: 0.0 }
    }
}

/// Room for candidates, used again for each token.
#[derive(Debug, Default)]
pub struct Candidates {
    kept: Vec<Candidate>,
    blocks: Vec<f64>,
}

impl Candidates {
    /// Draws by all weights of a row; `point` is from 0 up to 1.
    pub fn draw_from_all(&mut self, logits: &[f32], highest: f32, scale: f32, point: f64) -> Option<u32> {
        self.blocks.clear();
        self.blocks.extend(logits.chunks(scan::BLOCK).map(|block| scan::block_total(block, highest, scale)));
        let target = point * self.blocks.iter().sum::<f64>();
        let mut reached = 0.0;
        let mut last = None;
        for (block, total) in logits.chunks(scan::BLOCK).enumerate().zip(&self.blocks) {
            if reached + total <= target {
                reached += total;
                continue;
            }
            let (index, block) = block;
            for (offset, logit) in block.iter().enumerate() {
                let weight = scan::weight(*logit, highest, scale);
                reached += f64::from(weight);
                if weight > 0.0 {
                    last = Some((index * scan::BLOCK + offset) as u32);
                    if reached > target {
                        return last;
                    }
                }
            }
        }
        // The block's sum was rounded otherwise than this one.
        last.or_else(|| Some(scan::likeliest(logits)))
    }

    /// Keeps what all filters leave of a row. The order of what is kept depends on nothing but the row and the filters:
    /// by likelihood after top_k and top_p, by distance after typical_p, by id otherwise.
    pub fn filter(&mut self, sampling: &Sampling, logits: &[f32], highest: f32, scale: f32) {
        let mut total = None;
        if sampling.top_k > 0 && sampling.top_k < logits.len() {
            self.gather_top(logits, sampling.top_k);
            self.kept.sort_unstable_by(by_likelihood);
        } else if sampling.typical_p < 1.0 {
            self.gather(logits, f32::NEG_INFINITY);
        } else if sampling.top_p < 1.0 {
            let all = scan::total(logits, highest, scale);
            // What is below this holds less than the nucleus may leave out, all of it together.
            let least = (1.0 - f64::from(sampling.top_p)) * all / logits.len() as f64;
            self.gather(logits, highest + (least.ln() as f32 - MARGIN) / scale);
            total = Some(all);
        } else {
            self.gather(logits, highest + (sampling.min_p.ln() - MARGIN) / scale);
        }
        for candidate in &mut self.kept {
            candidate.weight = scan::weight(candidate.logit, highest, scale);
        }
        if sampling.typical_p < 1.0 {
            self.keep_typical(sampling.typical_p, highest, scale);
            total = None;
        }
        if sampling.top_p < 1.0 {
            let total = total.unwrap_or_else(|| self.total());
            let kept = first_holding(&mut self.kept, f64::from(sampling.top_p) * total, |left, right| {
                by_likelihood(left, right)
            });
            self.kept.truncate(kept);
        }
        if sampling.min_p > 0.0 {
            let most = self.kept.iter().map(|candidate| candidate.weight).fold(0.0, f32::max);
            self.kept.retain(|candidate| candidate.weight >= sampling.min_p * most);
        }
    }

    /// Draws among what filters left.
    pub fn draw(&self, point: f64) -> Option<u32> {
        let target = point * self.total();
        let mut reached = 0.0;
        let drawn = self.kept.iter().find(|candidate| {
            reached += f64::from(candidate.weight);
            reached > target
        });
        drawn.or(self.kept.first()).map(|candidate| candidate.id)
    }

    /// The `count` likeliest tokens and their logits, likeliest first.
    pub fn top(&mut self, logits: &[f32], count: usize) -> impl Iterator<Item = (u32, f32)> {
        self.kept.clear();
        if count > 0 {
            self.gather_top(logits, count);
            self.kept.sort_unstable_by(by_likelihood);
        }
        self.kept.iter().map(|candidate| (candidate.id, candidate.logit))
    }

    fn gather(&mut self, logits: &[f32], floor: f32) {
        self.kept.clear();
        scan::above(logits, floor, |id, logit| {
            self.kept.push(Candidate::new(id, logit));
            floor
        });
    }

    /// Gathers the `count` likeliest, in no order: whenever twice as many are gathered, the worse half goes, and what
    /// does not come up to the worst of the rest is not gathered any more.
    fn gather_top(&mut self, logits: &[f32], count: usize) {
        self.kept.clear();
        let room = (2 * count).max(GATHERED_MIN);
        let mut floor = f32::NEG_INFINITY;
        scan::above(logits, floor, |id, logit| {
            self.kept.push(Candidate::new(id, logit));
            if self.kept.len() == room {
                floor = keep_first(&mut self.kept, count);
            }
            floor
        });
        keep_first(&mut self.kept, count);
    }

    /// Locally typical sampling (Meister et al. 2022): the tokens whose surprise is nearest to the expected one.
    fn keep_typical(&mut self, share: f32, highest: f32, scale: f32) {
        // What has no weight at all has no place in the set either.
        self.kept.retain(|candidate| candidate.weight > 0.0);
        let total = self.total();
        let log_total = total.ln();
        let surprise = |candidate: &Candidate| log_total - f64::from((candidate.logit - highest) * scale);
        let expected: f64 =
            self.kept.iter().map(|candidate| f64::from(candidate.weight) / total * surprise(candidate)).sum();
        for candidate in &mut self.kept {
            candidate.distance = (surprise(candidate) - expected).abs() as f32;
        }
        let kept = first_holding(&mut self.kept, f64::from(share) * total, |left, right| {
            left.distance.total_cmp(&right.distance).then_with(|| by_likelihood(left, right))
        });
        self.kept.truncate(kept);
    }

    fn total(&self) -> f64 {
        self.kept.iter().map(|candidate| f64::from(candidate.weight)).sum()
    }

    #[cfg(test)]
    pub fn ids(&self) -> Vec<u32> {
        self.kept.iter().map(|candidate| candidate.id).collect()
    }
}

fn by_likelihood(left: &Candidate, right: &Candidate) -> Ordering {
    right.logit.total_cmp(&left.logit).then(left.id.cmp(&right.id))
}

/// Keeps the `count` likeliest, and gives the logit of the least of them.
fn keep_first(candidates: &mut Vec<Candidate>, count: usize) -> f32 {
    if candidates.len() <= count {
        return f32::NEG_INFINITY;
    }
    let (_, least, _) = candidates.select_nth_unstable_by(count - 1, by_likelihood);
    let floor = least.logit;
    candidates.truncate(count);
    floor
}

/// Brings the fewest candidates that come first in `order` and hold `wanted` weight to the front, in that order; gives
/// their number, at least one.
fn first_holding(
    candidates: &mut [Candidate],
    wanted: f64,
    order: impl Fn(&Candidate, &Candidate) -> Ordering,
) -> usize {
    let mut reached = 0.0;
    let mut sorted = 0;
    let mut more = FIRST_SORTED;
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let now = more.min(rest.len());
        if now < rest.len() {
            rest.select_nth_unstable_by(now - 1, &order);
        }
        rest[..now].sort_unstable_by(&order);
        for (index, candidate) in rest[..now].iter().enumerate() {
            reached += f64::from(candidate.weight);
            if reached >= wanted {
                return sorted + index + 1;
            }
        }
        sorted += now;
        more *= 4;
    }
    candidates.len()
}
