//! Rows of activations, as numbers and quantised.
//!
//! A row is quantised 32 numbers at a time to 8 bits. Scales are rounded as llama.cpp stores them, so that both engines
//! say the same. Rows lie in panels of 16, 8, 4, 2 or 1, as many as a product takes at once, block by block: what a
//! product reads next is what lies next.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]

use crate::lanes::{Lanes, Loop, run};
use crate::pool::Pool;

/// Numbers that share a scale.
pub(crate) const BLOCK: usize = 32;
/// Numbers whose sum is kept, for formats whose scales are as narrow.
const HALF: usize = BLOCK / 2;
/// Rows in the largest panel. Smaller ones are the powers of two below.
pub(crate) const PANEL: usize = 16;

/// Rows of activations that go into products. Reused from step to step, so that nothing is allocated once it is warm.
#[derive(Debug, Default)]
pub struct Rows {
    count: usize,
    width: usize,
    numbers: Vec<f32>,
    /// What follows is there only for a width of whole blocks.
    quants: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<f32>,
    rounded_sums: Vec<f32>,
    half_sums: Vec<i32>,
}

/// The quantised rows of one panel. With `m` rows, everything lies block by block and then row by row.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    /// 32 a block and row.
    pub quants: &'a [i8],
    /// One a block and row: what a quant stands for.
    pub scales: &'a [f32],
    /// The sum of the block's values, as exact as it comes.
    pub sums: &'a [f32],
    /// The same as llama.cpp rounds it for formats that store a minimum.
    pub rounded_sums: &'a [f32],
    /// The sums of the quants of each half block: for every block first those of all first halves.
    pub half_sums: &'a [i32],
}

/// Where a panel's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub first: usize,
    pub count: usize,
}

impl Place {
    /// The panel of `row` among `rows`.
    fn of(row: usize, rows: usize) -> Self {
        let mut first = rows / PANEL * PANEL;
        if row < first {
            return Self { first: row / PANEL * PANEL, count: PANEL };
        }
        let mut count = PANEL / 2;
        loop {
            if rows & count != 0 {
                if row < first + count {
                    return Self { first, count };
                }
                first += count;
            }
            count /= 2;
        }
    }

    /// The panels of so many rows.
    pub fn all(rows: usize) -> impl Iterator<Item = Self> {
        let mut next = 0;
        std::iter::from_fn(move || {
            (next < rows).then(|| {
                let place = Self::of(next, rows);
                next += place.count;
                place
            })
        })
    }
}

impl Rows {
    /// No rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all rows by `count` rows of `width` numbers, which `produce` writes row by row, on all threads. What it does
    /// not write is any number.
    pub fn fill(
        &mut self,
        pool: &Pool,
        count: usize,
        width: usize,
        produce: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        self.resize(count, width);
        let numbers = Shared(self.numbers.as_mut_ptr());
        let parts = Parts {
            quants: Shared(self.quants.as_mut_ptr()),
            scales: Shared(self.scales.as_mut_ptr()),
            sums: Shared(self.sums.as_mut_ptr()),
            rounded_sums: Shared(self.rounded_sums.as_mut_ptr()),
            half_sums: Shared(self.half_sums.as_mut_ptr()),
        };
        // Of many rows a thread takes whole panels, so that threads seldom write to the same cache line.
        let rows_per_task = if count < 4 * PANEL { 1 } else { PANEL };
        pool.run(count.div_ceil(rows_per_task), |task| {
            for row in task * rows_per_task..count.min((task + 1) * rows_per_task) {
                // SAFETY: the row lies within the numbers, and no other task has the same one.
                let numbers =
                    unsafe { std::slice::from_raw_parts_mut(numbers.get().add(row * width), width) };
                produce(row, numbers);
                if width.is_multiple_of(BLOCK) {
                    quantize_row(numbers, row, Place::of(row, count), &parts);
                }
            }
        });
    }

    fn resize(&mut self, count: usize, width: usize) {
        self.count = count;
        self.width = width;
        grow(&mut self.numbers, count * width);
        if width.is_multiple_of(BLOCK) {
            let blocks = count * (width / BLOCK);
            grow(&mut self.quants, blocks * BLOCK);
            grow(&mut self.scales, blocks);
            grow(&mut self.sums, blocks);
            grow(&mut self.rounded_sums, blocks);
            grow(&mut self.half_sums, 2 * blocks);
        }
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The numbers of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.numbers[row * self.width..(row + 1) * self.width]
    }

    /// The numbers of some rows, one row behind the other.
    pub(crate) fn rows(&self, first: usize, count: usize) -> &[f32] {
        &self.numbers[first * self.width..(first + count) * self.width]
    }

    /// The quantised rows at a place.
    pub(crate) fn panel(&self, place: Place) -> Panel<'_> {
        let blocks = self.width / BLOCK;
        let numbers = place.first * self.width..(place.first + place.count) * self.width;
        let each = place.first * blocks..(place.first + place.count) * blocks;
        Panel {
            quants: &self.quants[numbers],
            scales: &self.scales[each.clone()],
            sums: &self.sums[each.clone()],
            rounded_sums: &self.rounded_sums[each.clone()],
            half_sums: &self.half_sums[2 * each.start..2 * each.end],
        }
    }
}

/// Sees to it that there is room. What is there already stays, so that nothing is cleared only to be overwritten.
fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// A pointer of which each task uses a part of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub *mut T);

// SAFETY: whoever shares it sees to it that no two threads use the same part.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn get(self) -> *mut T {
        self.0
    }
}

/// The quantised form of all rows.
struct Parts {
    quants: Shared<i8>,
    scales: Shared<f32>,
    sums: Shared<f32>,
    rounded_sums: Shared<f32>,
    half_sums: Shared<i32>,
}

/// Quantises a row and writes it to its place. The processors differ in nothing that comes out.
fn quantize_row(numbers: &[f32], row: usize, place: Place, parts: &Parts) {
    run(QuantizeRow { numbers, row, place, parts });
}

struct QuantizeRow<'a> {
    numbers: &'a [f32],
    row: usize,
    place: Place,
    parts: &'a Parts,
}

impl Loop for QuantizeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { numbers, row, place, parts } = self;
        let first = place.first * (numbers.len() / BLOCK);
        for (index, numbers) in numbers.as_chunks::<BLOCK>().0.iter().enumerate() {
            let in_block = index * place.count + row - place.first;
            let halves = 2 * (first + index * place.count) + row - place.first;
            // SAFETY: the panel's data begins behind that of the rows before it and holds as many blocks as its rows
            // have; this row's part of it is written by this task alone.
            unsafe {
                let quants = parts.quants.get().add((first + in_block) * BLOCK);
                let block = quantize::<L>(numbers, quants);
                *parts.scales.get().add(first + in_block) = block.scale;
                *parts.sums.get().add(first + in_block) = block.sum;
                *parts.rounded_sums.get().add(first + in_block) = block.rounded_sum;
                *parts.half_sums.get().add(halves) = block.half_sums[0];
                *parts.half_sums.get().add(halves + place.count) = block.half_sums[1];
            }
        }
    }
}

/// What stands beside the 32 quants of a block.
struct Quantized {
    scale: f32,
    sum: f32,
    rounded_sum: f32,
    half_sums: [i32; 2],
}

/// # Safety
/// There is room for the quants of a block.
#[inline(always)]
unsafe fn quantize<L: Lanes>(numbers: &[f32; BLOCK], quants: *mut i8) -> Quantized {
    let zero = L::splat(0.0);
    let mut lanes = zero;
    for at in (0..BLOCK).step_by(L::COUNT) {
        // SAFETY: every vector's length divides 16.
        let numbers = unsafe { L::load(numbers.as_ptr().add(at)) };
        lanes = lanes.max(numbers.max(zero.sub(numbers)));
    }
    let highest = lanes.to_highest();
    let inverse = L::splat(if highest > 0.0 { 127.0 / highest } else { 0.0 });
    let mut half_sums = [0; 2];
    for (half, total) in half_sums.iter_mut().enumerate() {
        let mut sum = zero;
        for at in (half * HALF..(half + 1) * HALF).step_by(L::COUNT) {
            // SAFETY: as above.
            let scaled = unsafe { L::load(numbers.as_ptr().add(at)) }.mul(inverse).round();
            // Not beyond 127 but for a rounding; what is no number becomes any.
            let whole = scaled.min(L::splat(127.0)).max(L::splat(-127.0));
            // SAFETY: the caller's promise.
            unsafe { whole.store_bytes(quants.add(at)) };
            sum = sum.add(whole);
        }
        // Small whole numbers: exact in any order.
        *total = sum.to_sum() as i32;
    }
    let total = (half_sums[0] + half_sums[1]) as f32;
    let exact = highest / 127.0;
    let scale = rounded::<L>(exact);
    Quantized { scale, sum: scale * total, rounded_sum: rounded::<L>(exact * total), half_sums }
}

/// Rounded as llama.cpp stores it, if 16 bits hold numbers of that size at all.
#[inline(always)]
fn rounded<L: Lanes>(value: f32) -> f32 {
    const SMALLEST: f32 = 1.0 / 16_384.0;
    let rounded = L::splat(value).rounded_to_half().first();
    if rounded.abs() >= SMALLEST && rounded.is_finite() { rounded } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::run_on;
    use crate::processor::Processor;

    /// Quants, scales, sums, rounded sums and sums of half blocks of one row.
    type Parted = (Vec<i8>, Vec<f32>, Vec<f32>, Vec<f32>, Vec<i32>);

    fn quantized(processor: Processor, numbers: &[f32]) -> Parted {
        let blocks = numbers.len() / BLOCK;
        let (mut quants, mut half_sums) = (vec![0; numbers.len()], vec![0; 2 * blocks]);
        let [mut scales, mut sums, mut rounded_sums] = [const { Vec::new() }; 3].map(|mut part: Vec<f32>| {
            part.resize(blocks, 0.0);
            part
        });
        let parts = Parts {
            quants: Shared(quants.as_mut_ptr()),
            scales: Shared(scales.as_mut_ptr()),
            sums: Shared(sums.as_mut_ptr()),
            rounded_sums: Shared(rounded_sums.as_mut_ptr()),
            half_sums: Shared(half_sums.as_mut_ptr()),
        };
        let place = Place { first: 0, count: 1 };
        run_on(processor, QuantizeRow { numbers, row: 0, place, parts: &parts });
        (quants, scales, sums, rounded_sums, half_sums)
    }

    #[test]
    fn every_processor_quantises_alike_and_as_near_as_eight_bits_allow() {
        for size in [1.0, 1e-3, 1e-9, 1e-30, 3e4, 1e30] {
            let mut numbers: Vec<f32> =
                (0..6 * BLOCK).map(|index| ((index * 7919 % 1009) as f32 / 504.0 - 1.0) * size).collect();
            numbers[BLOCK..2 * BLOCK].fill(0.0);
            // The highest is 127 steps, and others lie halfway between two.
            for (index, number) in numbers[2 * BLOCK..3 * BLOCK].iter_mut().enumerate() {
                *number = if index == 0 { 127.0 * size } else { (index as f32 - 15.5) * size };
            }
            let expected = quantized(Processor::Plain, &numbers);
            for processor in Processor::available() {
                assert_eq!(quantized(processor, &numbers), expected, "{processor:?} {size}");
            }
            let (quants, scales, sums, _, half_sums) = expected;
            for (block, numbers) in numbers.as_chunks::<BLOCK>().0.iter().enumerate() {
                let (quants, scale) = (&quants[block * BLOCK..][..BLOCK], scales[block]);
                // Half a step, and what rounding the scale to 16 bits adds at 127 of them.
                let bound = 0.57 * scale;
                for (number, quant) in numbers.iter().zip(quants) {
                    let off = (number - scale * f32::from(*quant)).abs();
                    assert!(off <= bound, "{number} as {quant} steps of {scale}");
                }
                let total: i32 = quants.iter().map(|quant| i32::from(*quant)).sum();
                assert_eq!(half_sums[2 * block] + half_sums[2 * block + 1], total);
                assert_eq!(sums[block], scale * total as f32);
            }
        }
    }
}
