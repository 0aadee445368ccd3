//! How weights lie in memory for the products.
//!
//! A tile is 16 outputs, cut into blocks of 256 inputs; the last block may be shorter. A block has groups of 32 inputs.
//! All is lines of 64 bytes, and a product reads them from front to back: processors foresee such a stream, and read
//! less than half as fast from memory what is a little out of order. First in a block comes the line of its own scales, if
//! it has such; then a line with the scales of one, two or four groups, and the codes of these groups; and so on.
//!
//! In byte 4 · output + j of vector v of a group stands the code of input 4 · v + j. So a product multiplies each vector
//! with four activations that are the same for all outputs, and never adds across a vector.
//!
//! | codes | lines of a group |
//! |---|---|
//! | `Nibbles`, `Table` | 4: vector v in the low half of line v, vector v + 4 in the high half |
//! | `Fives` | the same, and one line: bit 4 of vector v in its bit v |
//! | `Sixes` | the same, and two lines: bits 4 and 5 of vectors v and v + 4 in bits 2 · v and 2 · v + 1 |
//! | `Bytes` | 8: a vector each |
//!
//! | scales | of the block | of each group |
//! |---|---|---|
//! | `One` | | 16 f16 |
//! | `Two` | | 16 f16 scales, 16 f16 minima |
//! | `Fractions` | 16 f16 scales, 16 f16 minima | of these 16 and 16 fractions, unsigned |
//! | `Signed` | 16 f16 scales | 16 fractions, signed |
//! | `Halves` | 16 f16 scales | 16 and 16 fractions, signed, for each half |
//!
//! It takes hardly more room than the file: what limits a decode step is how fast the weights can be read.

use half::f16;

use super::Source;
use crate::blocks::{GROUP, Group};

/// Outputs of a tile.
pub(crate) const TILE: usize = 16;
/// Bytes of a line: four inputs of each output.
pub(crate) const LINE: usize = 64;
/// Groups of a block of 256.
pub(crate) const BLOCK_GROUPS: usize = 8;

/// How codes are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codes {
    Nibbles,
    Table,
    Fives,
    Sixes,
    Bytes,
}

/// How scales are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    One,
    Two,
    Fractions,
    Signed,
    Halves,
}

/// A packed format, as a type: products are compiled for each.
pub(crate) trait Layout {
    const CODES: Codes;
    const SCALES: Scales;
    /// What is taken off each code to get the level that it stands for.
    const OFFSET: u8;

    /// Bytes of a group's codes.
    const CODE_BYTES: usize = LINE
        * match Self::CODES {
            Codes::Nibbles | Codes::Table => 4,
            Codes::Fives => 5,
            Codes::Sixes => 6,
            Codes::Bytes => 8,
        };
    /// Bytes of a block's own scales.
    const BLOCK_SCALE_BYTES: usize = match Self::SCALES {
        Scales::One | Scales::Two => 0,
        Scales::Fractions | Scales::Signed | Scales::Halves => LINE,
    };
    /// Bytes of a group's scales.
    const SCALE_BYTES: usize = match Self::SCALES {
        Scales::One | Scales::Fractions | Scales::Halves => 32,
        Scales::Two => 64,
        Scales::Signed => 16,
    };
    /// Groups whose scales share a line.
    const LINE_GROUPS: usize = LINE / Self::SCALE_BYTES;
    /// Bytes of a block of eight groups.
    const BLOCK_BYTES: usize =
        Self::BLOCK_SCALE_BYTES + BLOCK_GROUPS * Self::CODE_BYTES + BLOCK_GROUPS / Self::LINE_GROUPS * LINE;

    /// Where in its block the scales of a group begin.
    fn scales_at(group: usize) -> usize {
        let (line, in_line) = (group / Self::LINE_GROUPS, group % Self::LINE_GROUPS);
        Self::BLOCK_SCALE_BYTES
            + line * (LINE + Self::LINE_GROUPS * Self::CODE_BYTES)
            + in_line * Self::SCALE_BYTES
    }

    /// Where in its block the codes of a group begin.
    fn codes_at(group: usize) -> usize {
        Self::BLOCK_SCALE_BYTES + (group / Self::LINE_GROUPS + 1) * LINE + group * Self::CODE_BYTES
    }
}

macro_rules! layouts {
    ($($name:ident: $codes:ident, $scales:ident, $offset:literal;)*) => {$(
        pub(crate) struct $name;
        impl Layout for $name {
            const CODES: Codes = Codes::$codes;
            const SCALES: Scales = Scales::$scales;
            const OFFSET: u8 = $offset;
        }
    )*};
}

layouts! {
    Q4_0: Nibbles, One, 8;
    Q4_1: Nibbles, Two, 0;
    Q5_0: Fives, One, 16;
    Q5_1: Fives, Two, 0;
    Q8_0: Bytes, One, 128;
    Q4K: Nibbles, Fractions, 0;
    Q5K: Fives, Fractions, 0;
    Q6K: Sixes, Halves, 32;
    Iq4Nl: Table, One, 128;
    Iq4Xs: Table, Signed, 128;
}

/// Calls a function that is generic over the layout of a format, if products are made from its codes.
macro_rules! with_layout {
    ($format:expr, $call:ident) => {
        match $format {
            $crate::Format::F32 | $crate::Format::F16 | $crate::Format::Bf16 => None,
            $crate::Format::Q4_0 => Some($call::<$crate::matrix::layout::Q4_0>()),
            $crate::Format::Q4_1 => Some($call::<$crate::matrix::layout::Q4_1>()),
            $crate::Format::Q5_0 => Some($call::<$crate::matrix::layout::Q5_0>()),
            $crate::Format::Q5_1 => Some($call::<$crate::matrix::layout::Q5_1>()),
            $crate::Format::Q8_0 => Some($call::<$crate::matrix::layout::Q8_0>()),
            $crate::Format::Q4K => Some($call::<$crate::matrix::layout::Q4K>()),
            $crate::Format::Q5K => Some($call::<$crate::matrix::layout::Q5K>()),
            $crate::Format::Q6K => Some($call::<$crate::matrix::layout::Q6K>()),
            $crate::Format::Iq4Nl => Some($call::<$crate::matrix::layout::Iq4Nl>()),
            $crate::Format::Iq4Xs => Some($call::<$crate::matrix::layout::Iq4Xs>()),
        }
    };
}
pub(crate) use with_layout;

/// Bytes from one tile to the next.
pub(crate) fn tile_bytes<L: Layout>(groups: usize) -> usize {
    let rest = groups % BLOCK_GROUPS;
    let last = match rest {
        0 => 0,
        _ => L::codes_at(rest - 1) + L::CODE_BYTES,
    };
    groups / BLOCK_GROUPS * L::BLOCK_BYTES + last
}

/// Packs outputs 16 · `tile` and following. Outputs beyond the last one get weights of zero.
pub(crate) fn pack_tile<L: Layout>(source: &Source<'_>, inputs: usize, tile: usize, out: &mut [u8]) {
    let format = source.format;
    let row_bytes = source.bytes.len() / source.outputs;
    let stored_groups = format.block_len() / GROUP;
    for lane in 0..TILE.min(source.outputs - tile * TILE) {
        let row = &source.bytes[(tile * TILE + lane) * row_bytes..][..row_bytes];
        for index in 0..inputs / GROUP {
            let stored = &row[index / stored_groups * format.block_bytes()..][..format.block_bytes()];
            let group = Group::read(format, stored, index % stored_groups);
            let block = &mut out[index / BLOCK_GROUPS * L::BLOCK_BYTES..];
            let in_block = index % BLOCK_GROUPS;
            pack_codes::<L>(&group.codes, lane, &mut block[L::codes_at(in_block)..][..L::CODE_BYTES]);
            pack_scales::<L>(&group, in_block, lane, block);
        }
    }
}

fn pack_codes<L: Layout>(codes: &[u8; GROUP], lane: usize, out: &mut [u8]) {
    for (input, code) in codes.iter().enumerate() {
        let (vector, byte) = (input / 4, lane * 4 + input % 4);
        if L::CODES == Codes::Bytes {
            out[vector * LINE + byte] = *code;
            continue;
        }
        let (line, half) = (vector % 4, vector / 4);
        out[line * LINE + byte] |= (code & 15) << (4 * half);
        match L::CODES {
            Codes::Fives => out[4 * LINE + byte] |= (code >> 4) << vector,
            Codes::Sixes => out[(4 + half) * LINE + byte] |= (code >> 4) << (2 * line),
            Codes::Nibbles | Codes::Table | Codes::Bytes => {}
        }
    }
}

fn pack_scales<L: Layout>(group: &Group, index: usize, lane: usize, out: &mut [u8]) {
    let of_group = L::scales_at(index);
    let of_both = if L::BLOCK_SCALE_BYTES == 0 { of_group } else { 0 };
    let mut number = |at: usize, value: f16| out[at + lane * 2..][..2].copy_from_slice(&value.to_le_bytes());
    number(of_both, group.scale);
    if matches!(L::SCALES, Scales::Two | Scales::Fractions) {
        number(of_both + 32, group.minimum);
    }
    let [low, high] = group.fractions.scales.map(i8::cast_unsigned);
    let second = if L::SCALES == Scales::Fractions { group.fractions.minimum } else { high };
    if matches!(L::SCALES, Scales::Fractions | Scales::Signed | Scales::Halves) {
        out[of_group + lane] = low;
    }
    if matches!(L::SCALES, Scales::Fractions | Scales::Halves) {
        out[of_group + TILE + lane] = second;
    }
}
