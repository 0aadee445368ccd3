//! A matrix of plain numbers and its products.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::panels::{Layout, PANEL, Panels, lossless};
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::matrix::{PackError, Source, check};
use crate::pool::Pool;
use crate::processor::Processor;

/// What goes into a product's multiplications; the sums are `f32` in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// Numbers as they are.
    F32,
    /// Rows and weights rounded to `bf16`: twice as fast where the processor has dot products of pairs of them.
    Bf16,
}

impl Operands {
    /// Whether this processor has products of this kind.
    pub fn is_available(self) -> bool {
        self == Self::F32 || has_pairs()
    }
}

/// Whether the processor has dot products of `bf16` pairs.
fn has_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        Processor::detect() == Processor::Avx512 && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// What becomes of what the place of a product holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// It is overwritten.
    Set,
    /// The product is added to it.
    Add,
}

/// Rows as products take them, all of one width.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    /// `f32`, or pairs of `bf16`.
    pub rows: *const u8,
    /// Bytes from a row to the next.
    pub stride: usize,
    pub count: usize,
}

/// A block of products: some rows against one panel.
pub(crate) struct Tile {
    /// Inputs, or pairs of inputs.
    pub terms: usize,
    pub rows: *const u8,
    /// Bytes from a row to the next.
    pub row_stride: usize,
    pub panel: *const u8,
    /// What the chains of sums begin with, for each output of a panel.
    pub bias: *const f32,
    pub out: *mut f32,
    /// Numbers from a row of products to the next.
    pub out_stride: usize,
    /// Outputs of the panel that there are, 1 to [`PANEL`].
    pub width: usize,
    pub store: Store,
}

/// Computes a tile of a fixed number of rows.
///
/// # Safety
/// All pointers of the tile lead to what it says, and the processor has the instructions.
pub(crate) type Kernel = unsafe fn(&Tile);

/// The kernels for a processor: the one at index i is for i + 1 rows. None if the layout must be read into plain
/// numbers first.
fn kernels(processor: Processor, layout: Layout) -> Option<&'static [Kernel]> {
    #[cfg(target_arch = "x86_64")]
    if processor == Processor::Avx512 {
        return Some(x86::avx512(layout));
    }
    (layout == Layout::F32).then(|| portable_kernels(processor))
}

fn portable_kernels(processor: Processor) -> &'static [Kernel] {
    match processor {
        #[cfg(target_arch = "x86_64")]
        Processor::Avx2 | Processor::AvxVnni => x86::avx2(),
        _ => portable::kernels(),
    }
}

/// Stacked weights with their biases.
#[derive(Debug)]
pub struct FloatMatrix {
    inputs: usize,
    outputs: usize,
    /// One for each output, and zeros to the end of the last panel.
    bias: Vec<f32>,
    panels: Panels,
    processor: Processor,
}

impl FloatMatrix {
    /// Packs weights of `inputs` columns; their outputs follow each other in the order of `sources`, and so do the biases,
    /// if there are any.
    ///
    /// # Panics
    /// If this processor has no products of such operands, or there are biases and not one for each output.
    pub fn pack(
        pool: &Pool,
        inputs: usize,
        sources: &[Source<'_>],
        bias: Option<&[f32]>,
        operands: Operands,
    ) -> Result<Self, PackError> {
        assert!(operands.is_available(), "this processor has no dot products of bf16 pairs");
        Self::pack_for(Processor::detect(), pool, inputs, sources, bias, operands)
    }

    pub(crate) fn pack_for(
        processor: Processor,
        pool: &Pool,
        inputs: usize,
        sources: &[Source<'_>],
        bias: Option<&[f32]>,
        operands: Operands,
    ) -> Result<Self, PackError> {
        sources.iter().try_for_each(|source| check(inputs, source))?;
        let outputs = sources.iter().map(|source| source.outputs).sum();
        let layout = match operands {
            Operands::F32 => lossless(sources),
            Operands::Bf16 => Layout::Pairs,
        };
        let mut biases = vec![0.0; usize::next_multiple_of(outputs, PANEL)];
        if let Some(bias) = bias {
            assert_eq!(bias.len(), outputs, "biases");
            biases[..outputs].copy_from_slice(bias);
        }
        let panels = Panels::pack(pool, layout, inputs, sources);
        Ok(Self { inputs, outputs, bias: biases, panels, processor })
    }

    /// Numbers in a row that goes in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers in a row that comes out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// Multiplies rows, one behind the other, on the thread at hand.
    ///
    /// # Panics
    /// If `rows` are no whole number of rows, or `out` has not one row of `outputs` numbers for each of them.
    pub fn multiply(&self, rows: &[f32], out: &mut [f32], store: Store) {
        let count = rows.len() / self.inputs;
        assert_eq!(rows.len(), count * self.inputs, "numbers in whole rows of {}", self.inputs);
        assert_eq!(out.len(), count * self.outputs, "numbers for {count} products");
        self.with_operand(rows, |operand| {
            let panels = 0..self.outputs.div_ceil(PANEL);
            // SAFETY: rows and out have the sizes that were checked.
            unsafe { self.product(operand, panels, out.as_mut_ptr(), self.outputs, store) };
        });
    }

    /// Calls `work` with the rows as the kernels read them.
    pub(crate) fn with_operand(&self, rows: &[f32], work: impl FnOnce(Operand)) {
        let count = rows.len() / self.inputs;
        if self.panels.layout != Layout::Pairs {
            return work(Operand { rows: rows.as_ptr().cast(), stride: self.inputs * 4, count });
        }
        thread_local!(static PAIRS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });
        PAIRS.with_borrow_mut(|pairs| {
            let width = self.inputs.div_ceil(2);
            pairs.resize(count * width, 0);
            for (row, pairs) in rows.chunks_exact(self.inputs).zip(pairs.chunks_exact_mut(width)) {
                round(row, pairs);
            }
            work(Operand { rows: pairs.as_ptr().cast(), stride: width * 4, count });
        });
    }

    /// Multiplies rows by some of the panels; the products of the first output of panel 0 and of row 0 go to `out`.
    ///
    /// # Safety
    /// The operand holds rows of `inputs`; `out` has room for a row of products at each multiple of `out_stride`, and no
    /// other thread uses the part of it that these panels have.
    pub(crate) unsafe fn product(
        &self,
        operand: Operand,
        panels: Range<usize>,
        out: *mut f32,
        out_stride: usize,
        store: Store,
    ) {
        let layout = self.panels.layout;
        let direct = kernels(self.processor, layout);
        let kernels = direct.unwrap_or_else(|| portable_kernels(self.processor));
        let mut numbers = Vec::new();
        for index in panels {
            let panel = if direct.is_some() {
                self.panels.panel(index).as_ptr()
            } else {
                self.panels.read(index, &mut numbers);
                numbers.as_ptr().cast()
            };
            let mut row = 0;
            while row < operand.count {
                let height = kernels.len().min(operand.count - row);
                // SAFETY: row < count, and the panel's outputs lie within the row of products and within the biases.
                unsafe {
                    kernels[height - 1](&Tile {
                        terms: if layout == Layout::Pairs { self.inputs.div_ceil(2) } else { self.inputs },
                        rows: operand.rows.add(row * operand.stride),
                        row_stride: operand.stride,
                        panel,
                        bias: self.bias.as_ptr().add(index * PANEL),
                        out: out.add(row * out_stride + index * PANEL),
                        out_stride,
                        width: PANEL.min(self.outputs - index * PANEL),
                        store,
                    });
                }
                row += height;
            }
        }
    }
}

/// Rounds a row to `bf16`, two numbers in each word; a last odd one has a zero beside it.
fn round(row: &[f32], pairs: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if has_pairs() {
        // SAFETY: the processor has the instructions.
        return unsafe { x86::round(row, pairs) };
    }
    for (numbers, pair) in row.chunks(2).zip(pairs) {
        let bits = |index: usize| {
            numbers.get(index).map_or(0, |number| u32::from(bf16::from_f32(*number).to_bits()))
        };
        *pair = bits(0) | bits(1) << 16;
    }
}

/// A panel made at run time: of keys and values, which are weights of a product for one sequence only.
pub(super) struct Strip<'a> {
    pub rows: &'a [f32],
    pub row_stride: usize,
    pub count: usize,
    pub terms: usize,
    /// Whole panels of `terms` rows of [`PANEL`] numbers.
    pub panels: &'a [f32],
    pub outputs: usize,
}

impl Strip<'_> {
    /// Multiplies and overwrites.
    pub fn multiply(&self, out: &mut [f32], out_stride: usize) {
        const ZEROS: [f32; PANEL] = [0.0; PANEL];
        if self.count == 0 || self.outputs == 0 {
            return;
        }
        let count = self.outputs.div_ceil(PANEL);
        assert!(self.panels.len() >= count * self.terms * PANEL, "numbers in the panels");
        assert!(self.rows.len() >= (self.count - 1) * self.row_stride + self.terms, "numbers in the rows");
        assert!(out.len() >= (self.count - 1) * out_stride + self.outputs, "numbers for the products");
        let processor = Processor::detect();
        let kernels = kernels(processor, Layout::F32).unwrap_or_else(|| portable_kernels(processor));
        for index in 0..count {
            for row in (0..self.count).step_by(kernels.len()) {
                let height = kernels.len().min(self.count - row);
                // SAFETY: the sizes were checked; the processor has the instructions.
                unsafe {
                    kernels[height - 1](&Tile {
                        terms: self.terms,
                        rows: self.rows.as_ptr().add(row * self.row_stride).cast(),
                        row_stride: self.row_stride * 4,
                        panel: self.panels.as_ptr().add(index * self.terms * PANEL).cast(),
                        bias: ZEROS.as_ptr(),
                        out: out.as_mut_ptr().add(row * out_stride + index * PANEL),
                        out_stride,
                        width: PANEL.min(self.outputs - index * PANEL),
                        store: Store::Set,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn stored(format: Format, weights: &[f32]) -> Vec<u8> {
        match format {
            Format::F16 => {
                weights.iter().flat_map(|weight| half::f16::from_f32(*weight).to_le_bytes()).collect()
            }
            Format::Bf16 => weights.iter().flat_map(|weight| bf16::from_f32(*weight).to_le_bytes()).collect(),
            _ => weights.iter().flat_map(|weight| weight.to_le_bytes()).collect(),
        }
    }

    struct Case {
        inputs: usize,
        weights: Vec<f32>,
        bias: Vec<f32>,
        rows: Vec<f32>,
        /// How far a product may be off, relative to the sum of its terms' sizes.
        tolerance: f32,
    }

    impl Case {
        fn new(inputs: usize, outputs: usize, count: usize, tolerance: f32) -> Self {
            Self {
                inputs,
                weights: numbers(inputs * outputs, 1),
                bias: numbers(outputs, 2),
                rows: numbers(inputs * count, 3),
                tolerance,
            }
        }

        fn check(&self, out: &[f32], added_to: f32, what: &str) {
            let outputs = self.bias.len();
            for (index, found) in out.iter().enumerate() {
                let (row, output) = (index / outputs, index % outputs);
                let row = &self.rows[row * self.inputs..][..self.inputs];
                let weights = &self.weights[output * self.inputs..][..self.inputs];
                let terms = || row.iter().zip(weights).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let exact = terms().sum::<f64>() + f64::from(self.bias[output]) + f64::from(added_to);
                let size = terms().map(f64::abs).sum::<f64>() + 2.0;
                let off = (f64::from(*found) - exact).abs() / size;
                assert!(off < f64::from(self.tolerance), "{what}: product {index} is {found}, not {exact}");
            }
        }
    }

    fn kinds() -> Vec<(Processor, Format, Operands, f32)> {
        let mut kinds = Vec::new();
        for processor in Processor::available() {
            kinds.push((processor, Format::F32, Operands::F32, 1e-6));
            kinds.push((processor, Format::F16, Operands::F32, 6e-4));
            kinds.push((processor, Format::Bf16, Operands::F32, 4e-3));
            if has_pairs() && Some(&processor) == Processor::available().last() {
                kinds.push((processor, Format::F32, Operands::Bf16, 8e-3));
            }
        }
        kinds
    }

    #[test]
    fn every_kernel_multiplies_every_shape() {
        let pool = Pool::new(2);
        for (processor, format, operands, tolerance) in kinds() {
            for (inputs, outputs) in [(1, 1), (7, 33), (64, 32), (65, 31), (48, 96)] {
                for count in 1..=33 {
                    let case = Case::new(inputs, outputs, count, tolerance);
                    let bytes = stored(format, &case.weights);
                    let source = Source { format, outputs, bytes: &bytes };
                    let matrix = FloatMatrix::pack_for(
                        processor,
                        &pool,
                        inputs,
                        &[source],
                        Some(&case.bias),
                        operands,
                    );
                    let matrix = matrix.unwrap();
                    let what = format!("{processor:?} {format} {operands:?} {count}x{inputs}x{outputs}");
                    let mut out = vec![f32::NAN; count * outputs];
                    matrix.multiply(&case.rows, &mut out, Store::Set);
                    case.check(&out, 0.0, &what);
                    out.fill(1.0);
                    matrix.multiply(&case.rows, &mut out, Store::Add);
                    case.check(&out, 1.0, &what);
                }
            }
        }
    }

    #[test]
    fn a_rows_products_do_not_depend_on_its_company() {
        let pool = Pool::new(1);
        for (processor, format, operands, _) in kinds() {
            let case = Case::new(129, 70, 25, 1.0);
            let bytes = stored(format, &case.weights);
            let source = Source { format, outputs: 70, bytes: &bytes };
            let matrix = FloatMatrix::pack_for(processor, &pool, 129, &[source], None, operands).unwrap();
            let mut together = vec![0.0; 25 * 70];
            matrix.multiply(&case.rows, &mut together, Store::Set);
            for (row, together) in case.rows.chunks_exact(129).zip(together.chunks_exact(70)) {
                let mut alone = vec![0.0; 70];
                matrix.multiply(row, &mut alone, Store::Set);
                assert_eq!(alone, together, "{processor:?} {format} {operands:?}");
            }
        }
    }

    #[test]
    fn stacked_sources_lie_side_by_side() {
        let weights = numbers(3 * 50, 5);
        let bytes = stored(Format::F32, &weights);
        let (first, second) = bytes.split_at(3 * 10 * 4);
        let source = |outputs, bytes| Source { format: Format::F32, outputs, bytes };
        let pool = Pool::new(1);
        let pack =
            |sources: &[Source<'_>]| FloatMatrix::pack(&pool, 3, sources, None, Operands::F32).unwrap();
        let row = numbers(3, 6);
        let (mut stacked, mut whole) = ([0.0; 50], [0.0; 50]);
        pack(&[source(10, first), source(40, second)]).multiply(&row, &mut stacked, Store::Set);
        pack(&[source(50, &bytes)]).multiply(&row, &mut whole, Store::Set);
        assert_eq!(stacked, whole);
    }
}
