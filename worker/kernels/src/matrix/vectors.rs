//! The product of a tile, written once for vectors of any width: one lane for each output.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]

use std::marker::PhantomData;

use super::layout::{BLOCK_GROUPS, Codes, LINE, Layout, Scales, TILE};
use super::tile::Weights;
use crate::blocks::IQ4_LEVELS;
use crate::memory::fetch;
use crate::rows::{BLOCK, Panel};

/// Vectors of codes in a group.
const VECTORS: usize = 8;
/// Rows from which on weights are asked for before their turn: a product that is slower than the memory leaves the
/// processor's own foresight too little to go by. A faster one is better left to that.
const FETCHING_ROWS: usize = 4;
/// Bytes between the weights in use and those that are asked for.
const AHEAD_BYTES: usize = 4096;
/// What is taken off codes of eight bits where instructions know signed bytes only.
const SIGN: i32 = 128;

/// What a processor can do with a vector.
///
/// # Safety
/// The processor must have the instructions; what is loaded or stored must be there.
pub(super) trait Vectors {
    /// 32 bits for each lane, or four bytes.
    type Integers: Copy;
    /// A number for each lane.
    type Numbers: Copy;
    /// Outputs in a vector.
    const LANES: usize;
    /// Whether `dot` takes 128 off codes of eight bits.
    const SIGNED: bool;

    unsafe fn load(bytes: *const u8) -> Self::Integers;
    /// The low half of each byte.
    unsafe fn low(bytes: Self::Integers) -> Self::Integers;
    /// The high half of each byte.
    unsafe fn high(bytes: Self::Integers) -> Self::Integers;
    /// Each byte shifted to the left; what comes from its neighbour does not matter if it has not more than four bits.
    unsafe fn left<const BITS: i32>(bytes: Self::Integers) -> Self::Integers;
    /// Each byte shifted to the right, likewise.
    unsafe fn right<const BITS: i32>(bytes: Self::Integers) -> Self::Integers;
    /// The bits of `bytes` that `mask` has, added to `codes`.
    unsafe fn insert(codes: Self::Integers, bytes: Self::Integers, mask: u8) -> Self::Integers;
    /// The byte of `table` that each code names.
    unsafe fn look_up(table: &[u8; 16], codes: Self::Integers) -> Self::Integers;
    /// The sum over `N` vectors of each lane's four codes times the same four quants.
    unsafe fn dot<L: Layout, const N: usize>(codes: &[Self::Integers], quants: *const i8) -> Self::Integers;
    unsafe fn add(left: Self::Integers, right: i32) -> Self::Integers;
    unsafe fn convert(integers: Self::Integers) -> Self::Numbers;

    /// The same number for each lane.
    unsafe fn splat(number: f32) -> Self::Numbers;
    unsafe fn multiply(left: Self::Numbers, right: Self::Numbers) -> Self::Numbers;
    /// left · right + sum in one rounding.
    unsafe fn multiply_add(left: Self::Numbers, right: Self::Numbers, sum: Self::Numbers) -> Self::Numbers;
    unsafe fn store(numbers: Self::Numbers, out: *mut f32);
    /// Numbers stored in 16 bits each.
    unsafe fn halves(bytes: *const u8) -> Self::Numbers;
    /// Numbers stored in a signed byte each.
    unsafe fn signed(bytes: *const u8) -> Self::Numbers;
    /// Numbers stored in an unsigned byte each.
    unsafe fn unsigned(bytes: *const u8) -> Self::Numbers;
}

/// Whether the codes use all eight bits.
pub(super) const fn is_wide(codes: Codes) -> bool {
    matches!(codes, Codes::Bytes | Codes::Table)
}

/// The product of a tile and a panel of `M` rows, `ROWS` of them at a time.
///
/// # Safety
/// As for every product of a tile.
#[inline(always)]
pub(super) unsafe fn product<V: Vectors, L: Layout, const M: usize, const ROWS: usize>(
    weights: Weights<'_>,
    panel: Panel<'_>,
    sums: *mut [f32; TILE],
) {
    for lane in (0..TILE).step_by(V::LANES) {
        for row in (0..M).step_by(ROWS) {
            let part = Part::<V, L, M> { weights, panel, lane, row, vectors: PhantomData };
            // SAFETY: the caller's promise; `ROWS` divides `M`, and the lanes of a vector those of a tile.
            unsafe { part.multiply::<ROWS>(sums) };
        }
    }
}

/// A vector's lanes of a tile, from `lane` on, and some rows of a panel of `M`, from `row` on.
struct Part<'a, V, L, const M: usize> {
    weights: Weights<'a>,
    panel: Panel<'a>,
    lane: usize,
    row: usize,
    vectors: PhantomData<(V, L)>,
}

impl<V: Vectors, L: Layout, const M: usize> Part<'_, V, L, M> {
    /// # Safety
    /// Weights and panel are whole, and the part is of them; there is room for the sums.
    #[inline(always)]
    unsafe fn multiply<const ROWS: usize>(&self, sums: *mut [f32; TILE]) {
        let all_groups = self.weights.groups;
        // SAFETY: every block and group that the weights have, and no other.
        unsafe {
            let mut found = [V::splat(0.0); ROWS];
            for block in 0..all_groups.div_ceil(BLOCK_GROUPS) {
                let groups = (all_groups - block * BLOCK_GROUPS).min(BLOCK_GROUPS);
                let block_start = self.weights.bytes.as_ptr().add(block * L::BLOCK_BYTES);
                let scaling = Scaling::<V, L>::of_block(block_start, self.lane);
                for group in 0..groups {
                    let codes_at = L::codes_at(group);
                    if M >= FETCHING_ROWS {
                        // The codes, and the line behind them. Asking for the one line of a block that this
                        // leaves out gains nothing.
                        for line in 0..=L::CODE_BYTES / LINE {
                            fetch(block_start.wrapping_add(codes_at + AHEAD_BYTES + line * LINE));
                        }
                    }
                    let factors = scaling.factors(block_start.add(L::scales_at(group)));
                    let codes = codes::<V, L>(block_start.add(codes_at + 4 * self.lane));
                    self.add_group(&codes, factors, block * BLOCK_GROUPS + group, &mut found);
                }
            }
            for (row, found) in found.into_iter().enumerate() {
                V::store(found, sums.add(self.row + row).cast::<f32>().add(self.lane));
            }
        }
    }

    /// Adds the products of a group with each row.
    ///
    /// # Safety
    /// The panel has this group.
    #[inline(always)]
    unsafe fn add_group<const ROWS: usize>(
        &self,
        codes: &[V::Integers; VECTORS],
        [scale, second]: [V::Numbers; 2],
        group: usize,
        sums: &mut [V::Numbers; ROWS],
    ) {
        let panel = self.panel;
        let totals = if L::SCALES == Scales::Two { panel.rounded_sums } else { panel.sums };
        for (row, sum) in sums.iter_mut().enumerate() {
            let at = group * M + self.row + row;
            // SAFETY: the caller's promise.
            unsafe {
                let quants = panel.quants.as_ptr().add(at * BLOCK);
                let half_sums = panel.half_sums.as_ptr().add(2 * group * M + self.row + row);
                let row_scale = V::splat(*panel.scales.as_ptr().add(at));
                if L::SCALES == Scales::Halves {
                    let offset = -i32::from(L::OFFSET);
                    let low = V::add(V::dot::<L, 4>(&codes[..4], quants), offset * *half_sums);
                    let high =
                        V::add(V::dot::<L, 4>(&codes[4..], quants.add(16)), offset * *half_sums.add(M));
                    let both = V::multiply_add(V::convert(high), second, V::multiply(V::convert(low), scale));
                    *sum = V::multiply_add(both, row_scale, *sum);
                    continue;
                }
                let mut product = V::dot::<L, VECTORS>(codes, quants);
                if V::SIGNED && is_wide(L::CODES) {
                    product = V::add(product, SIGN * (*half_sums + *half_sums.add(M)));
                }
                *sum = V::multiply_add(V::convert(product), V::multiply(scale, row_scale), *sum);
                *sum = V::multiply_add(second, V::splat(*totals.as_ptr().add(at)), *sum);
            }
        }
    }
}

/// A group's codes as unsigned bytes.
///
/// # Safety
/// `lines` are the codes of a group, from the vector's first lane on.
#[inline(always)]
unsafe fn codes<V: Vectors, L: Layout>(lines: *const u8) -> [V::Integers; VECTORS] {
    // SAFETY: the layout says how many lines there are, and no other is read.
    unsafe {
        let line = |index: usize| V::load(lines.add(index * LINE));
        if L::CODES == Codes::Bytes {
            return [line(0), line(1), line(2), line(3), line(4), line(5), line(6), line(7)];
        }
        let lines = [line(0), line(1), line(2), line(3)];
        let low = [V::low(lines[0]), V::low(lines[1]), V::low(lines[2]), V::low(lines[3])];
        let high = [V::high(lines[0]), V::high(lines[1]), V::high(lines[2]), V::high(lines[3])];
        let codes = [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]];
        match L::CODES {
            Codes::Nibbles | Codes::Bytes => codes,
            Codes::Table => {
                let table = IQ4_LEVELS.map(|level| level.cast_unsigned() ^ 0x80);
                codes.map(|codes| V::look_up(&table, codes))
            }
            Codes::Fives => {
                let bits = line(4);
                [
                    V::insert(codes[0], V::left::<4>(bits), 16),
                    V::insert(codes[1], V::left::<3>(bits), 16),
                    V::insert(codes[2], V::left::<2>(bits), 16),
                    V::insert(codes[3], V::left::<1>(bits), 16),
                    V::insert(codes[4], bits, 16),
                    V::insert(codes[5], V::right::<1>(bits), 16),
                    V::insert(codes[6], V::right::<2>(bits), 16),
                    V::insert(codes[7], V::right::<3>(bits), 16),
                ]
            }
            Codes::Sixes => {
                let (first, second) = (line(4), line(5));
                [
                    V::insert(codes[0], V::left::<4>(first), 0x30),
                    V::insert(codes[1], V::left::<2>(first), 0x30),
                    V::insert(codes[2], first, 0x30),
                    V::insert(codes[3], V::right::<2>(first), 0x30),
                    V::insert(codes[4], V::left::<4>(second), 0x30),
                    V::insert(codes[5], V::left::<2>(second), 0x30),
                    V::insert(codes[6], second, 0x30),
                    V::insert(codes[7], V::right::<2>(second), 0x30),
                ]
            }
        }
    }
}

/// The scales of a block.
struct Scaling<V: Vectors, L> {
    lane: usize,
    scale: V::Numbers,
    minimum: V::Numbers,
    layout: PhantomData<L>,
}

impl<V: Vectors, L: Layout> Scaling<V, L> {
    /// # Safety
    /// A block begins there.
    #[inline(always)]
    unsafe fn of_block(block: *const u8, lane: usize) -> Self {
        // SAFETY: as many numbers are there as the layout has.
        unsafe {
            let zero = V::splat(0.0);
            let number = |at: usize| V::halves(block.add(at + 2 * lane));
            let scale = if L::BLOCK_SCALE_BYTES > 0 { number(0) } else { zero };
            let minimum = match L::SCALES {
                Scales::Fractions => V::multiply(number(2 * TILE), V::splat(-1.0)),
                _ => zero,
            };
            Self { lane, scale, minimum, layout: PhantomData }
        }
    }

    /// Scale and minimum of a group for each lane, or the scales of both halves.
    ///
    /// # Safety
    /// The scales of a group of this block begin there.
    #[inline(always)]
    unsafe fn factors(&self, scales: *const u8) -> [V::Numbers; 2] {
        // SAFETY: the layout says what a group has.
        unsafe {
            let (numbers, fractions) = (scales.add(2 * self.lane), scales.add(self.lane));
            let with_offset = |scale| [scale, V::multiply(scale, V::splat(-f32::from(L::OFFSET)))];
            match L::SCALES {
                Scales::One => with_offset(V::halves(numbers)),
                Scales::Two => [V::halves(numbers), V::halves(numbers.add(2 * TILE))],
                Scales::Fractions => [
                    V::multiply(self.scale, V::unsigned(fractions)),
                    V::multiply(self.minimum, V::unsigned(fractions.add(TILE))),
                ],
                Scales::Signed => with_offset(V::multiply(self.scale, V::signed(fractions))),
                Scales::Halves => [
                    V::multiply(self.scale, V::signed(fractions)),
                    V::multiply(self.scale, V::signed(fractions.add(TILE))),
                ],
            }
        }
    }
}
