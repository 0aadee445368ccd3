//! The product of a tile without instructions by name: slow, and what every other one must equal to the bit.

use half::f16;

use super::layout::{BLOCK_GROUPS, Codes, LINE, Layout, Scales, TILE};
use super::tile::Weights;
use crate::blocks::{GROUP, IQ4_LEVELS};
use crate::rows::{BLOCK, Panel};

/// # Safety
/// There is room for the sums of `M` rows.
pub(super) unsafe fn product<L: Layout, const M: usize>(
    weights: Weights<'_>,
    panel: Panel<'_>,
    sums: *mut [f32; TILE],
) {
    for row in 0..M {
        let found = std::array::from_fn(|lane| {
            (0..weights.groups)
                .fold(0.0, |sum, index| add_group::<L, M>(weights, panel, [index, row, lane], sum))
        });
        // SAFETY: the caller's promise.
        unsafe { *sums.add(row) = found };
    }
}

fn add_group<L: Layout, const M: usize>(
    weights: Weights<'_>,
    panel: Panel<'_>,
    [index, row, lane]: [usize; 3],
    sum: f32,
) -> f32 {
    let (block, in_block) = (index / BLOCK_GROUPS, index % BLOCK_GROUPS);
    let block = &weights.bytes[block * L::BLOCK_BYTES..];
    let codes = codes::<L>(&block[L::codes_at(in_block)..], lane);
    let at = index * M + row;
    let quants = &panel.quants[at * BLOCK..][..BLOCK];
    let [low, high] = [0, GROUP / 2].map(|half| {
        let pairs = codes[half..half + GROUP / 2].iter().zip(&quants[half..]);
        pairs.map(|(code, quant)| i32::from(*code) * i32::from(*quant)).sum::<i32>()
    });
    let factors = factors::<L>(block, in_block, lane);
    let scale = panel.scales[at];
    if L::SCALES == Scales::Halves {
        let half_sum = |half: usize| panel.half_sums[(2 * index + half) * M + row];
        let level = |product: i32, half| (product - i32::from(L::OFFSET) * half_sum(half)) as f32;
        let both = level(high, 1).mul_add(factors[1], level(low, 0) * factors[0]);
        return both.mul_add(scale, sum);
    }
    let total = if L::SCALES == Scales::Two { panel.rounded_sums[at] } else { panel.sums[at] };
    let sum = ((low + high) as f32).mul_add(factors[0] * scale, sum);
    factors[1].mul_add(total, sum)
}

/// The codes of one output, or for a table its levels with the offset added.
fn codes<L: Layout>(lines: &[u8], lane: usize) -> [u8; GROUP] {
    std::array::from_fn(|input| {
        let (vector, byte) = (input / 4, lane * 4 + input % 4);
        let (line, half) = (vector % 4, vector / 4);
        let nibble = || lines[line * LINE + byte] >> (4 * half) & 15;
        match L::CODES {
            Codes::Nibbles => nibble(),
            Codes::Table => IQ4_LEVELS[usize::from(nibble())].cast_unsigned() ^ 0x80,
            Codes::Fives => nibble() | (lines[4 * LINE + byte] >> vector & 1) << 4,
            Codes::Sixes => nibble() | (lines[(4 + half) * LINE + byte] >> (2 * line) & 3) << 4,
            Codes::Bytes => lines[vector * LINE + byte],
        }
    })
}

/// Scale and minimum of a group, or the scales of both halves.
fn factors<L: Layout>(bytes: &[u8], index: usize, lane: usize) -> [f32; 2] {
    let at = L::scales_at(index);
    let number = |at: usize| f16::from_le_bytes([bytes[at + 2 * lane], bytes[at + 2 * lane + 1]]).to_f32();
    let signed = |at: usize| f32::from(bytes[at + lane].cast_signed());
    let unsigned = |at: usize| f32::from(bytes[at + lane]);
    let with_offset = |scale: f32| [scale, scale * -f32::from(L::OFFSET)];
    match L::SCALES {
        Scales::One => with_offset(number(at)),
        Scales::Two => [number(at), number(at + 32)],
        Scales::Fractions => [number(0) * unsigned(at), -(number(32) * unsigned(at + TILE))],
        Scales::Signed => with_offset(number(0) * signed(at)),
        Scales::Halves => [number(0) * signed(at), number(0) * signed(at + TILE)],
    }
}
