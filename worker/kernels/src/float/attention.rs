//! Attention in which every token sees every other one of its sequence, or those of a window around it.

use super::activation::exponential;
use super::lanes::{LANES, MultiplyAdd, sum_lanes, vectorized};
use super::matrix::Strip;
use super::panels::PANEL;

/// The queries, keys and values of one sequence, in rows of queries, then keys, then values, head by head.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// One row of `3 · heads · head_width` numbers for each token.
    pub rows: &'a [f32],
    /// Heads.
    pub heads: usize,
    /// Numbers of a head.
    pub head_width: usize,
    /// Tokens on each side that a token sees besides itself; all, if there is none.
    pub window: Option<usize>,
    /// What a head's scores lose for each token of distance; one for each head, or none.
    pub slopes: &'a [f32],
}

/// Memory of one thread, reused from call to call.
#[derive(Debug, Default)]
pub struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
}

/// Queries whose scores are held at a time.
const QUERIES: usize = 48;

impl Sequence<'_> {
    /// Tokens.
    pub fn len(&self) -> usize {
        self.rows.len() / self.row_width()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn row_width(&self) -> usize {
        3 * self.width()
    }

    fn width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Writes what the tokens from `first` on gather, a row of `heads · head_width` numbers for each row that `out` has.
    ///
    /// # Panics
    /// If the rows are not whole, or there are fewer tokens.
    pub fn attend(&self, first: usize, out: &mut [f32], scratch: &mut Scratch) {
        let width = self.width();
        assert!(self.rows.len().is_multiple_of(self.row_width()), "numbers in whole rows");
        assert!(out.len().is_multiple_of(width), "numbers in whole rows of {width}");
        assert!(first + out.len() / width <= self.len(), "tokens from {first} on");
        for (part, out) in out.chunks_mut(QUERIES * width).enumerate() {
            let first = first + part * QUERIES;
            for head in 0..self.heads {
                self.attend_head(head, first, out, scratch);
            }
        }
    }

    fn attend_head(&self, head: usize, first: usize, out: &mut [f32], scratch: &mut Scratch) {
        let (width, head_width, row_width) = (self.width(), self.head_width, self.row_width());
        let count = out.len() / width;
        // The keys that any of these queries sees.
        let reach = self.window.unwrap_or(self.len());
        let from = first.saturating_sub(reach);
        let to = (first + count).saturating_add(reach).min(self.len());
        let keys = to - from;
        let at = |part: usize| part * width + head * head_width;
        pack_keys(
            &self.rows[from * row_width..to * row_width],
            row_width,
            at(1),
            head_width,
            &mut scratch.keys,
        );
        pack_values(
            &self.rows[from * row_width..to * row_width],
            row_width,
            at(2),
            head_width,
            &mut scratch.values,
        );
        scratch.scores.resize(QUERIES * keys, 0.0);
        let scores = &mut scratch.scores[..count * keys];
        Strip {
            rows: &self.rows[first * row_width + at(0)..],
            row_stride: row_width,
            count,
            terms: head_width,
            panels: &scratch.keys,
            outputs: keys,
        }
        .multiply(scores, keys);
        let scale = 1.0 / (head_width as f32).sqrt();
        for (query, scores) in scores.chunks_exact_mut(keys).enumerate() {
            let place = first + query - from;
            let seen = self
                .window
                .map_or(0..keys, |window| place.saturating_sub(window)..(place + window + 1).min(keys));
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
            let slope = self.slopes.get(head).copied().unwrap_or(0.0);
            softmax(&mut scores[seen.clone()], scale, slope, place as f32 - seen.start as f32);
        }
        Strip {
            rows: scores,
            row_stride: keys,
            count,
            terms: keys,
            panels: &scratch.values,
            outputs: head_width,
        }
        .multiply(&mut out[head * head_width..], width);
    }
}

/// Lays the keys out as weights: for each number of a head, the keys' numbers side by side.
fn pack_keys(rows: &[f32], row_width: usize, at: usize, head_width: usize, panels: &mut Vec<f32>) {
    let count = (rows.len() / row_width).div_ceil(PANEL);
    panels.clear();
    panels.resize(count * head_width * PANEL, 0.0);
    for (key, row) in rows.chunks_exact(row_width).enumerate() {
        let panel = &mut panels[key / PANEL * head_width * PANEL..][..head_width * PANEL];
        for (number, place) in
            row[at..at + head_width].iter().zip(panel[key % PANEL..].iter_mut().step_by(PANEL))
        {
            *place = *number;
        }
    }
}

/// Lays the values out as weights: for each key, its value's numbers side by side.
fn pack_values(rows: &[f32], row_width: usize, at: usize, head_width: usize, panels: &mut Vec<f32>) {
    let keys = rows.len() / row_width;
    let count = head_width.div_ceil(PANEL);
    panels.clear();
    panels.resize(count * keys * PANEL, 0.0);
    for (key, row) in rows.chunks_exact(row_width).enumerate() {
        for (index, numbers) in row[at..at + head_width].chunks(PANEL).enumerate() {
            panels[(index * keys + key) * PANEL..][..numbers.len()].copy_from_slice(numbers);
        }
    }
}

#[inline(always)]
fn softmax_body<M: MultiplyAdd>(scores: &mut [f32], scale: f32, slope: f32, place: f32) {
    if slope == 0.0 {
        for score in &mut *scores {
            *score *= scale;
        }
    } else {
        for (key, score) in scores.iter_mut().enumerate() {
            *score = M::multiply_add(*score, scale, -slope * (key as f32 - place).abs());
        }
    }
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = scores.as_chunks::<LANES>();
    for scores in whole {
        for lane in 0..LANES {
            maxima[lane] = if scores[lane] > maxima[lane] { scores[lane] } else { maxima[lane] };
        }
    }
    for (score, maximum) in rest.iter().zip(&mut maxima) {
        *maximum = maximum.max(*score);
    }
    let maximum = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0f32; LANES];
    let (whole, rest) = scores.as_chunks_mut::<LANES>();
    for scores in whole {
        for lane in 0..LANES {
            scores[lane] = exponential::<M>(scores[lane] - maximum);
            sums[lane] += scores[lane];
        }
    }
    for (score, sum) in rest.iter_mut().zip(&mut sums) {
        *score = exponential::<M>(*score - maximum);
        *sum += *score;
    }
    let factor = 1.0 / sum_lanes(sums);
    for score in scores {
        *score *= factor;
    }
}

vectorized!(fn softmax(scores: &mut [f32], scale: f32, slope: f32, place: f32) = softmax_body);

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 7919 + 13) % 1009) as f32 / 300.0 - 1.6).collect()
    }

    fn expected(sequence: &Sequence<'_>, token: usize, head: usize) -> Vec<f64> {
        let (width, head_width) = (sequence.width(), sequence.head_width);
        let part = |token: usize, part: usize| {
            &sequence.rows[token * 3 * width + part * width + head * head_width..][..head_width]
        };
        let seen: Vec<usize> = (0..sequence.len())
            .filter(|key| sequence.window.is_none_or(|window| key.abs_diff(token) <= window))
            .collect();
        let score = |key: usize| {
            let dot: f64 =
                part(token, 0).iter().zip(part(key, 1)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let slope = f64::from(sequence.slopes.get(head).copied().unwrap_or(0.0));
            (dot / (head_width as f64).sqrt() - slope * key.abs_diff(token) as f64).exp()
        };
        let total: f64 = seen.iter().map(|key| score(*key)).sum();
        (0..head_width)
            .map(|index| {
                seen.iter().map(|key| score(*key) * f64::from(part(*key, 2)[index])).sum::<f64>() / total
            })
            .collect()
    }

    #[test]
    fn tokens_gather_what_the_formula_says() {
        let slopes = [0.5, 0.25, 0.125];
        for (tokens, head_width, window, slopes) in [
            (1, 32, None, &[][..]),
            (33, 32, None, &[][..]),
            (70, 40, None, &slopes[..]),
            (100, 64, Some(8), &[][..]),
            (61, 16, Some(200), &[][..]),
        ] {
            let rows = rows(tokens * 3 * 3 * head_width);
            let sequence = Sequence { rows: &rows, heads: 3, head_width, window, slopes };
            let mut out = vec![f32::NAN; tokens * 3 * head_width];
            sequence.attend(0, &mut out, &mut Scratch::default());
            for token in 0..tokens {
                for head in 0..3 {
                    let found = &out[(token * 3 + head) * head_width..][..head_width];
                    for (found, expected) in found.iter().zip(expected(&sequence, token, head)) {
                        let off = (f64::from(*found) - expected).abs();
                        assert!(off < 1e-5, "{tokens} tokens, {token}, {head}: {expected}, not {found}");
                    }
                }
            }
        }
    }

    #[test]
    fn where_a_part_begins_changes_no_bit() {
        let rows = rows(90 * 3 * 2 * 32);
        for window in [None, Some(10)] {
            let sequence = Sequence { rows: &rows, heads: 2, head_width: 32, window, slopes: &[] };
            let mut whole = vec![0.0; 90 * 64];
            let mut scratch = Scratch::default();
            sequence.attend(0, &mut whole, &mut scratch);
            let mut part = vec![0.0; 20 * 64];
            sequence.attend(37, &mut part, &mut scratch);
            assert_eq!(part, whole[37 * 64..57 * 64], "{window:?}");
        }
    }
}
