//! The angles of rotary position embedding, computed once for each position and kept.

use crate::text::architecture::{RopeScaling, Rotation};

/// Positions that are computed at once.
const POSITIONS_AT_ONCE: usize = 256;

/// Cosines and sines of one kind of layer.
#[derive(Debug)]
pub struct Rope {
    /// Each frequency is the one before times this.
    ratio: f32,
    position_scale: f32,
    /// Cosines and sines are multiplied by it.
    magnitude: f32,
    /// Per pair, a divisor of its angle; empty where all are 1.
    factors: Vec<f32>,
    /// Per pair, how much of its angle is not scaled; empty where all angles are scaled alike.
    unscaled: Vec<f32>,
    half: usize,
    /// For each position the cosines and then the sines.
    table: Vec<f32>,
}

impl Rope {
    /// Angles of this kind; `factors` holds one divisor per pair, or nothing.
    pub fn new(rotation: Rotation, factors: Vec<f32>) -> Self {
        let half = rotation.dims / 2;
        let mut rope = Self {
            ratio: rotation.base.powf(-2.0 / rotation.dims as f32),
            position_scale: 1.0,
            magnitude: 1.0,
            factors,
            unscaled: Vec::new(),
            half,
            table: Vec::new(),
        };
        match rotation.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear(factor) => rope.position_scale = 1.0 / factor,
            RopeScaling::LongRope { magnitude, .. } => rope.magnitude = magnitude,
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, magnitude } => {
                rope.position_scale = 1.0 / factor;
                rope.magnitude = magnitude * (1.0 + 0.1 * factor.ln());
                // The pair that turns so many times within the original context.
                let pair_of = |turns: f32| {
                    let turn = original_context as f32 / (turns * 2.0 * std::f32::consts::PI);
                    rotation.dims as f32 * turn.ln() / (2.0 * rotation.base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(rotation.dims as f32 - 1.0);
                let ramp = |pair: usize| ((pair as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                rope.unscaled = (0..half).map(|pair| 1.0 - ramp(pair)).collect();
            }
        }
        rope
    }

    /// Computes the angles of all positions below this, unless they are there.
    pub fn reserve(&mut self, positions: usize) {
        let has = self.table.len() / (2 * self.half);
        if positions > has {
            for position in has..positions.next_multiple_of(POSITIONS_AT_ONCE) {
                self.append(position);
            }
        }
    }

    /// The order of the operations is llama.cpp's, so that the roundings are too.
    fn append(&mut self, position: usize) {
        let start = self.table.len();
        self.table.resize(start + 2 * self.half, 0.0);
        let (cos, sin) = self.table[start..].split_at_mut(self.half);
        let mut theta = position as f32;
        for pair in 0..self.half {
            let whole = theta / self.factors.get(pair).copied().unwrap_or(1.0);
            let scaled = whole * self.position_scale;
            let angle = match self.unscaled.get(pair) {
                Some(unscaled) => scaled * (1.0 - unscaled) + whole * unscaled,
                None => scaled,
            };
            cos[pair] = angle.cos() * self.magnitude;
            sin[pair] = angle.sin() * self.magnitude;
            theta *= self.ratio;
        }
    }

    /// Cosines and sines of a position that was reserved.
    pub fn angles(&self, position: usize) -> (&[f32], &[f32]) {
        self.table[position * 2 * self.half..][..2 * self.half].split_at(self.half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Rotation = Rotation { dims: 8, base: 10_000.0, scaling: RopeScaling::None };

    fn rope(scaling: RopeScaling, factors: Vec<f32>) -> Rope {
        let mut rope = Rope::new(Rotation { scaling, ..PLAIN }, factors);
        rope.reserve(301);
        rope
    }

    fn assert_angle(rope: &Rope, position: usize, pair: usize, angle: f32) {
        let (cos, sin) = rope.angles(position);
        assert!((cos[pair] - angle.cos()).abs() < 1e-4, "cosine of pair {pair}");
        assert!((sin[pair] - angle.sin()).abs() < 1e-4, "sine of pair {pair}");
    }

    #[test]
    fn each_pair_turns_at_its_own_speed() {
        let rope = rope(RopeScaling::None, Vec::new());
        for position in [0, 1, 255, 256, 300] {
            for (pair, speed) in [1.0, 0.1, 0.01, 0.001].into_iter().enumerate() {
                assert_angle(&rope, position, pair, position as f32 * speed);
            }
        }
    }

    #[test]
    fn scaling_and_divisors_slow_it_down() {
        let linear = rope(RopeScaling::Linear(4.0), Vec::new());
        assert_angle(&linear, 300, 1, 7.5);
        let divided = rope(RopeScaling::None, vec![1.0, 2.0, 4.0, 8.0]);
        assert_angle(&divided, 300, 0, 300.0);
        assert_angle(&divided, 300, 1, 15.0);
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_slows_slow_ones() {
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 512,
            beta_fast: 32.0,
            beta_slow: 1.0,
            magnitude: 1.0 / (1.0 + 0.1 * 4f32.ln()),
        };
        // 512 tokens are 32 turns at a speed of 0.39, pair 0.4, and one turn at a speed of 0.012, pair 1.9.
        let rope = rope(yarn, Vec::new());
        assert_angle(&rope, 100, 0, 100.0);
        assert_angle(&rope, 100, 1, 10.0 * (0.5 + 0.5 / 4.0));
        assert_angle(&rope, 100, 2, 0.25);
        assert_angle(&rope, 100, 3, 0.025);
    }
}
