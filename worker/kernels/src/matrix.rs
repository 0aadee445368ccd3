//! Matrices of weights, and their products with rows of activations.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod layout;
#[cfg(target_arch = "aarch64")]
mod neon;
mod numbers;
mod packed;
mod plain;
#[cfg(test)]
mod tests;
mod tile;
mod vectors;

use layout::TILE;
use numbers::Numbers;
use packed::Packed;

use crate::format::Format;
use crate::pool::Pool;
use crate::processor::Processor;
use crate::rows::{Rows, Shared};

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

/// Parts whose products are one job.
const PARTS_TOGETHER: usize = 4;

/// Matrices of one width, stacked: what goes in is shared, what comes out lies side by side.
#[derive(Debug)]
pub struct Matrix {
    inputs: usize,
    outputs: usize,
    parts: Vec<Part>,
}

/// One source's weights.
#[derive(Debug)]
struct Part {
    first_output: usize,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Packed(Packed),
    Numbers(Numbers),
}

impl Matrix {
    /// Packs weights of `inputs` columns for the products. Their outputs follow each other in the order of `sources`.
    pub fn pack(pool: &Pool, inputs: usize, sources: &[Source<'_>]) -> Result<Self, PackError> {
        Self::pack_for(Processor::detect(), pool, inputs, sources)
    }

    fn pack_for(
        processor: Processor,
        pool: &Pool,
        inputs: usize,
        sources: &[Source<'_>],
    ) -> Result<Self, PackError> {
        let mut outputs = 0;
        let mut parts = Vec::with_capacity(sources.len());
        for source in sources {
            check(inputs, source)?;
            let weights = match Packed::new(pool, processor, inputs, source) {
                Some(packed) => Weights::Packed(packed),
                None => Weights::Numbers(Numbers::new(pool, processor, inputs, *source)?),
            };
            parts.push(Part { first_output: outputs, weights });
            outputs += source.outputs;
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
        let bytes = |part: &Part| match &part.weights {
            Weights::Packed(packed) => packed.bytes(),
            Weights::Numbers(numbers) => numbers.bytes(),
        };
        self.parts.iter().map(bytes).sum()
    }

    /// Writes each row's product to `out`, a row of `outputs` numbers for each row.
    ///
    /// # Panics
    /// If the rows are not `inputs` wide or `out` has not the size for the products.
    pub fn multiply(&self, pool: &Pool, rows: &Rows, out: &mut [f32]) {
        self.product(pool, rows, out, false);
    }

    /// Adds each row's product to what `out` holds.
    ///
    /// # Panics
    /// As `multiply` does.
    pub fn multiply_add(&self, pool: &Pool, rows: &Rows, out: &mut [f32]) {
        self.product(pool, rows, out, true);
    }

    fn product(&self, pool: &Pool, rows: &Rows, out: &mut [f32], adds: bool) {
        assert_eq!(rows.width(), self.inputs, "numbers in a row");
        assert_eq!(out.len(), rows.count() * self.outputs, "numbers for the products");
        let out = Shared(out.as_mut_ptr());
        // The parts' tasks are one job: threads meet at its end only.
        for parts in self.parts.chunks(PARTS_TOGETHER) {
            let mut shares = [Share::Nothing; PARTS_TOGETHER];
            for (share, part) in shares.iter_mut().zip(parts) {
                *share = part.weights.share_out(pool.threads(), rows.count());
            }
            pool.run(shares.iter().map(Share::tasks).sum(), |mut task| {
                for (share, part) in shares.iter().zip(parts) {
                    if task < share.tasks() {
                        let target =
                            Target { out, stride: self.outputs, first_output: part.first_output, adds };
                        return share.multiply(task, rows, &target);
                    }
                    task -= share.tasks();
                }
            });
        }
    }
}

impl Weights {
    fn share_out(&self, threads: usize, rows: usize) -> Share<'_> {
        match self {
            Self::Packed(packed) => Share::Packed(packed, packed.cut(threads, rows)),
            Self::Numbers(numbers) => Share::Numbers(numbers, numbers.cut(threads, rows)),
        }
    }
}

/// A part's weights, and how their product is cut into tasks.
#[derive(Clone, Copy)]
enum Share<'a> {
    Nothing,
    Packed(&'a Packed, packed::Cut),
    Numbers(&'a Numbers, numbers::Cut),
}

impl Share<'_> {
    fn tasks(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Packed(_, cut) => cut.tasks,
            Self::Numbers(_, cut) => cut.tasks,
        }
    }

    fn multiply(&self, task: usize, rows: &Rows, target: &Target) {
        match self {
            Self::Nothing => {}
            Self::Packed(packed, cut) => packed.multiply(cut, task, rows, target),
            Self::Numbers(numbers, cut) => numbers.multiply(cut, task, rows, target),
        }
    }
}

/// Where products go.
struct Target {
    out: Shared<f32>,
    /// Numbers from one row to the next.
    stride: usize,
    /// Where the part's outputs begin in a row.
    first_output: usize,
    /// Whether products are added to what is there.
    adds: bool,
}

impl Target {
    /// Takes products of one row of a tile, from output `first` of the part on: as many as the part has of them, `count`.
    /// No two tasks may have the same ones.
    fn store(&self, row: usize, first: usize, products: &[f32; TILE], count: usize) {
        let start = row * self.stride + self.first_output + first;
        // SAFETY: rows and outputs are those that `Matrix::product` has checked the size for.
        unsafe {
            let out = self.out.get().add(start);
            if count == TILE {
                // Of a fixed size: no call.
                put(&mut *out.cast::<[f32; TILE]>(), products, self.adds);
            } else {
                put(std::slice::from_raw_parts_mut(out, count), &products[..count], self.adds);
            }
        }
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for slices of known length too")]
fn put(out: &mut [f32], products: &[f32], adds: bool) {
    if adds {
        out.iter_mut().zip(products).for_each(|(out, product)| *out += product);
    } else {
        out.copy_from_slice(products);
    }
}

pub(crate) fn check(inputs: usize, source: &Source<'_>) -> Result<(), PackError> {
    let (format, outputs, found) = (source.format, source.outputs, source.bytes.len());
    let Some(row_bytes) = format.bytes(inputs) else {
        return Err(PackError::Width { inputs, format, block: format.block_len() });
    };
    if row_bytes.checked_mul(outputs) != Some(found) {
        return Err(PackError::Size { outputs, inputs, format, found });
    }
    Ok(())
}
