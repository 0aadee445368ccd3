//! Matrices of weights, and their products with rows of activations.

use crate::dequantize::dequantize;
use crate::format::Format;
use crate::pool::Pool;
use crate::rows::{Rows, Shared};

/// Outputs that one task computes.
const TASK_OUTPUTS: usize = 16;

/// Weights as a file stores them: `outputs` rows, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The layout of the bytes.
    pub format: Format,
    /// Rows of weights, each of which makes one output.
    pub outputs: usize,
    /// The rows.
    pub bytes: &'a [u8],
}

/// Why weights cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The width of the rows does not fit the format.
    #[error("rows of {inputs} weights are no whole number of {format} blocks ({block} weights each)")]
    Width {
        /// Weights in a row.
        inputs: usize,
        /// The weights' format.
        format: Format,
        /// Weights in a block of that format.
        block: usize,
    },
    /// The bytes do not hold the weights that they should.
    #[error("{outputs} rows of {inputs} weights in {format} have {found} bytes")]
    Size {
        /// Rows of weights.
        outputs: usize,
        /// Weights in a row.
        inputs: usize,
        /// The weights' format.
        format: Format,
        /// Bytes that were given.
        found: usize,
    },
}

/// Matrices of one width, stacked: what goes in is shared, what comes out lies side by side.
#[derive(Debug)]
pub struct Matrix {
    inputs: usize,
    outputs: usize,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    format: Format,
    bytes: Vec<u8>,
    first_output: usize,
    outputs: usize,
}

impl Matrix {
    /// Packs weights of `inputs` columns for the products. Their outputs follow each other in the order of `sources`.
    pub fn pack(_pool: &Pool, inputs: usize, sources: &[Source<'_>]) -> Result<Self, PackError> {
        let mut outputs = 0;
        let mut parts = Vec::with_capacity(sources.len());
        for source in sources {
            check(inputs, source)?;
            let (format, count) = (source.format, source.outputs);
            parts.push(Part { format, bytes: source.bytes.to_vec(), first_output: outputs, outputs: count });
            outputs += count;
        }
        Ok(Self { inputs, outputs, parts })
    }

    /// Numbers in a row that comes out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Numbers in a row that goes in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Writes each row's product to `out`, a row of `outputs` numbers for each row.
    ///
    /// # Panics
    /// If the rows are not `inputs` wide or `out` has not the size for the products.
    pub fn multiply(&self, pool: &Pool, rows: &Rows, out: &mut [f32]) {
        self.product(pool, rows, out, |out, product| *out = product);
    }

    /// Adds each row's product to what `out` holds.
    ///
    /// # Panics
    /// As `multiply` does.
    pub fn multiply_add(&self, pool: &Pool, rows: &Rows, out: &mut [f32]) {
        self.product(pool, rows, out, |out, product| *out += product);
    }

    fn product(&self, pool: &Pool, rows: &Rows, out: &mut [f32], store: impl Fn(&mut f32, f32) + Sync) {
        assert_eq!(rows.width(), self.inputs, "numbers in a row");
        assert_eq!(out.len(), rows.count() * self.outputs, "numbers for the products");
        let out = Shared(out.as_mut_ptr());
        for part in &self.parts {
            let row_bytes = part.bytes.len() / part.outputs.max(1);
            pool.run(part.outputs.div_ceil(TASK_OUTPUTS), |task| {
                let mut weights = vec![0.0; self.inputs];
                let first = task * TASK_OUTPUTS;
                for output in first..(first + TASK_OUTPUTS).min(part.outputs) {
                    dequantize(part.format, &part.bytes[output * row_bytes..][..row_bytes], &mut weights);
                    for row in 0..rows.count() {
                        // SAFETY: within `out`, and of this task alone.
                        let out =
                            unsafe { &mut *out.get().add(row * self.outputs + part.first_output + output) };
                        store(out, dot(&weights, rows.row(row)));
                    }
                }
            });
        }
    }
}

fn check(inputs: usize, source: &Source<'_>) -> Result<(), PackError> {
    let (format, outputs, found) = (source.format, source.outputs, source.bytes.len());
    let Some(row_bytes) = format.bytes(inputs) else {
        return Err(PackError::Width { inputs, format, block: format.block_len() });
    };
    if row_bytes.checked_mul(outputs) != Some(found) {
        return Err(PackError::Size { outputs, inputs, format, found });
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacked_sources_lie_side_by_side() {
        let pool = Pool::new(2);
        let first: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|number| number.to_le_bytes()).collect();
        let second: Vec<u8> = [0x80, 0x3f, 0x00, 0x40].to_vec();
        let sources = [
            Source { format: Format::F32, outputs: 2, bytes: &first },
            Source { format: Format::Bf16, outputs: 1, bytes: &second },
        ];
        let matrix = Matrix::pack(&pool, 2, &sources).unwrap();
        assert_eq!((matrix.inputs(), matrix.outputs()), (2, 3));
        let mut rows = Rows::new();
        rows.fill(&pool, 2, 2, |row, numbers| numbers.fill(row as f32 + 1.0));
        let mut out = [f32::NAN; 6];
        matrix.multiply(&pool, &rows, &mut out);
        assert_eq!(out, [3.0, 7.0, 3.0, 6.0, 14.0, 6.0]);
        matrix.multiply_add(&pool, &rows, &mut out);
        assert_eq!(out, [6.0, 14.0, 6.0, 12.0, 28.0, 12.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_numbers() {
        let pool = Pool::new(1);
        let error = |inputs, format, outputs, bytes: usize| {
            let bytes = vec![0; bytes];
            Matrix::pack(&pool, inputs, &[Source { format, outputs, bytes: &bytes }]).unwrap_err().to_string()
        };
        assert_eq!(
            error(100, Format::Q4K, 2, 288),
            "rows of 100 weights are no whole number of Q4_K blocks (256 weights each)"
        );
        assert_eq!(error(64, Format::Q4_0, 2, 71), "2 rows of 64 weights in Q4_0 have 71 bytes");
    }
}
