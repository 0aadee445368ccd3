//! Weights that are plain numbers.

use super::{Source, Target};
use crate::dequantize::dequantize;
use crate::format::Format;
use crate::pool::Pool;
use crate::rows::Rows;

/// Outputs that one task computes.
const TASK_OUTPUTS: usize = 16;

/// Rows of weights, as the file has them.
#[derive(Debug)]
pub(super) struct Numbers {
    format: Format,
    outputs: usize,
    bytes: Vec<u8>,
}

impl Numbers {
    pub fn new(source: &Source<'_>) -> Self {
        Self { format: source.format, outputs: source.outputs, bytes: source.bytes.to_vec() }
    }

    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Puts the products of all rows where `target` says.
    pub fn multiply(&self, pool: &Pool, rows: &Rows, target: &Target) {
        let row_bytes = self.bytes.len() / self.outputs.max(1);
        pool.run(self.outputs.div_ceil(TASK_OUTPUTS), |task| {
            let mut weights = vec![0.0; rows.width()];
            for output in task * TASK_OUTPUTS..self.outputs.min((task + 1) * TASK_OUTPUTS) {
                dequantize(self.format, &self.bytes[output * row_bytes..][..row_bytes], &mut weights);
                for row in 0..rows.count() {
                    target.store(row, output, &[dot(&weights, rows.row(row))]);
                }
            }
        });
    }
}

/// In sixteen interleaved sums.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}
