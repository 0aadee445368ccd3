//! The stored blocks taken apart, 32 weights at a time.
//!
//! Whatever the format, such a group is 32 codes with a scale for each half and a minimum for both:
//! weight = scale · level(code) + minimum.

use half::f16;

use crate::format::Format;

/// Weights in a group.
pub(crate) const GROUP: usize = 32;

/// What the codes of IQ4_NL and IQ4_XS stand for.
pub(crate) const IQ4_LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Scales of a group as a block of 256 stores them: fractions of the block's own.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fractions {
    /// For each half of the group.
    pub scales: [i8; 2],
    pub minimum: u8,
}

/// 32 weights.
pub(crate) struct Group {
    pub codes: [u8; GROUP],
    /// The block's scale.
    pub scale: f16,
    /// The block's minimum: what is added (Q4_1, Q5_1) or what is taken away in fractions (Q4_K, Q5_K).
    pub minimum: f16,
    pub fractions: Fractions,
}

impl Group {
    /// Group `index` of a block.
    pub fn read(format: Format, block: &[u8], index: usize) -> Self {
        match format {
            Format::F32 | Format::F16 | Format::Bf16 => unreachable!("{format} has no groups"),
            Format::Q4_0 | Format::Iq4Nl => Self::plain(block, nibbles(&block[2..18])),
            Format::Q4_1 => Self::plain(block, nibbles(&block[4..20])).with_minimum(number(block, 2)),
            Format::Q5_0 => Self::plain(block, fives(&block[2..22])),
            Format::Q5_1 => Self::plain(block, fives(&block[4..24])).with_minimum(number(block, 2)),
            // The bytes are signed; as codes they start at zero.
            Format::Q8_0 => Self::plain(block, std::array::from_fn(|i| block[2 + i] ^ 0x80)),
            Format::Q4K => Self::four_k(block, index),
            Format::Q5K => Self::five_k(block, index),
            Format::Q6K => Self::six_k(block, index),
            Format::Iq4Xs => Self::iq4_xs(block, index),
        }
    }

    /// The factor of each half's levels.
    pub fn scales(&self) -> [f32; 2] {
        self.fractions.scales.map(|fraction| self.scale.to_f32() * f32::from(fraction))
    }

    /// What is added to each weight.
    pub fn added(&self, format: Format) -> f32 {
        match format {
            Format::Q4_1 | Format::Q5_1 => self.minimum.to_f32(),
            _ => -(self.minimum.to_f32() * f32::from(self.fractions.minimum)),
        }
    }

    fn plain(block: &[u8], codes: [u8; GROUP]) -> Self {
        let fractions = Fractions { scales: [1, 1], minimum: 0 };
        Self { codes, scale: number(block, 0), minimum: f16::ZERO, fractions }
    }

    fn with_minimum(self, minimum: f16) -> Self {
        Self { minimum, ..self }
    }

    fn four_k(block: &[u8], index: usize) -> Self {
        let quants = &block[16 + index / 2 * 32..][..32];
        let shift = 4 * (index % 2);
        let codes = std::array::from_fn(|i| quants[i] >> shift & 15);
        Self {
            codes,
            scale: number(block, 0),
            minimum: number(block, 2),
            fractions: packed_six(&block[4..16], index),
        }
    }

    fn five_k(block: &[u8], index: usize) -> Self {
        let high = &block[16..48];
        let quants = &block[48 + index / 2 * 32..][..32];
        let shift = 4 * (index % 2);
        let codes = std::array::from_fn(|i| quants[i] >> shift & 15 | (high[i] >> index & 1) << 4);
        Self {
            codes,
            scale: number(block, 0),
            minimum: number(block, 2),
            fractions: packed_six(&block[4..16], index),
        }
    }

    fn six_k(block: &[u8], index: usize) -> Self {
        // Two halves of 128 weights, each of 64 bytes with nibbles and 32 bytes with the two bits above them.
        let (half, quarter) = (index / 4, index % 4);
        let low = &block[half * 64 + quarter % 2 * 32..][..32];
        let high = &block[128 + half * 32..][..32];
        let codes =
            std::array::from_fn(|i| low[i] >> (4 * (quarter / 2)) & 15 | (high[i] >> (2 * quarter) & 3) << 4);
        let scales = [0, 1].map(|part| block[192 + index * 2 + part].cast_signed());
        let fractions = Fractions { scales, minimum: 0 };
        Self { codes, scale: number(block, 208), minimum: f16::ZERO, fractions }
    }

    fn iq4_xs(block: &[u8], index: usize) -> Self {
        let high = u16::from_le_bytes([block[2], block[3]]);
        let low = block[4 + index / 2] >> (4 * (index % 2)) & 15;
        let scale = (low | ((high >> (2 * index) & 3) as u8) << 4).cast_signed() - 32;
        let fractions = Fractions { scales: [scale, scale], minimum: 0 };
        let codes = nibbles(&block[8 + index * 16..][..16]);
        Self { codes, scale: number(block, 0), minimum: f16::ZERO, fractions }
    }
}

/// The level of code zero; what a code adds to it is itself. The table formats have levels of their own.
pub(crate) fn offset(format: Format) -> i32 {
    match format {
        Format::Q4_0 => -8,
        Format::Q5_0 => -16,
        Format::Q6K => -32,
        Format::Q8_0 => -128,
        _ => 0,
    }
}

/// What a code stands for.
pub(crate) fn level(format: Format, code: u8) -> i32 {
    match format {
        Format::Iq4Nl | Format::Iq4Xs => i32::from(IQ4_LEVELS[usize::from(code)]),
        _ => i32::from(code) + offset(format),
    }
}

fn number(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

/// Code i in the low half of byte i, code i + 16 in its high half.
fn nibbles(bytes: &[u8]) -> [u8; GROUP] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// Nibbles as above, behind four bytes with the bit above each.
fn fives(bytes: &[u8]) -> [u8; GROUP] {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let low = nibbles(&bytes[4..]);
    std::array::from_fn(|i| low[i] | ((high >> i & 1) as u8) << 4)
}

/// Scale and minimum of six bits each, eight of both in twelve bytes.
fn packed_six(bytes: &[u8], index: usize) -> Fractions {
    let (scale, minimum) = if index < 4 {
        (bytes[index] & 63, bytes[index + 4] & 63)
    } else {
        let scale = bytes[index + 4] & 15 | bytes[index - 4] >> 6 << 4;
        let minimum = bytes[index + 4] >> 4 | bytes[index] >> 6 << 4;
        (scale, minimum)
    };
    Fractions { scales: [scale.cast_signed(); 2], minimum }
}
