//! Rotary position embedding for a flat batch in which every row has a position of its own.

use candle_core::{Device, Result, Tensor};

use crate::text::architecture::{RopePairs, RopeScale};

/// The angles of one kind of layer.
#[derive(Debug)]
pub struct Rope {
    pairs: RopePairs,
    position_scale: f32,
    /// Each frequency is the one before times this.
    ratio: f32,
    /// Per pair, a divisor of its angle; empty where all are 1.
    factors: Vec<f32>,
    half: usize,
}

/// Cosines and sines of one batch, each of shape (rows, 1, head_dim / 2).
#[derive(Debug)]
pub struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// Angles for heads of `head_dim` elements; `factors` holds one divisor per pair, or nothing.
    pub fn new(pairs: RopePairs, scale: RopeScale, head_dim: usize, factors: Vec<f32>) -> Self {
        let ratio = scale.base.powf(-2.0 / head_dim as f32);
        Self { pairs, position_scale: scale.position_scale, ratio, factors, half: head_dim / 2 }
    }

    /// Computes the angles of these positions. The order of the operations is llama.cpp's, so that the roundings are too.
    pub fn angles(&self, positions: &[usize], device: &Device) -> Result<Angles> {
        let mut cos = Vec::with_capacity(positions.len() * self.half);
        let mut sin = Vec::with_capacity(positions.len() * self.half);
        for position in positions {
            let mut theta = *position as f32;
            for pair in 0..self.half {
                let factor = self.factors.get(pair).copied().unwrap_or(1.0);
                let angle = theta / factor * self.position_scale;
                cos.push(angle.cos());
                sin.push(angle.sin());
                theta *= self.ratio;
            }
        }
        let shape = (positions.len(), 1, self.half);
        Ok(Angles { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }

    /// Rotates the heads of every row; `heads` has shape (rows, heads, head_dim) and is contiguous.
    pub fn rotate(&self, heads: &Tensor, angles: &Angles) -> Result<Tensor> {
        // A row counts as a batch of one token here, which lets each have angles of its own.
        let tokens = heads.unsqueeze(2)?;
        let rotated = match self.pairs {
            RopePairs::Interleaved => candle_nn::rotary_emb::rope_i(&tokens, &angles.cos, &angles.sin)?,
            RopePairs::Halves => candle_nn::rotary_emb::rope(&tokens, &angles.cos, &angles.sin)?,
        };
        rotated.squeeze(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_turns_by_its_own_position() {
        let scale = RopeScale { base: 10_000.0, position_scale: 1.0 };
        let rows =
            Tensor::from_vec(vec![1f32, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], (2, 1, 4), &Device::Cpu).unwrap();
        for (pairs, partner) in [(RopePairs::Interleaved, 1), (RopePairs::Halves, 2)] {
            let rope = Rope::new(pairs, scale, 4, Vec::new());
            let angles = rope.angles(&[0, 2], &Device::Cpu).unwrap();
            let turned =
                rope.rotate(&rows, &angles).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(turned[..4], [1.0, 0.0, 0.0, 0.0]);
            assert!((turned[4] - 2f32.cos()).abs() < 1e-6);
            assert!((turned[4 + partner] - 2f32.sin()).abs() < 1e-6);
        }
    }
}
