//! Stored weights as plain numbers: for embedding rows, and as the reference that products are tested against.

use half::{bf16, f16};

use crate::blocks::{GROUP, Group, level};
use crate::format::Format;

/// Writes the weights stored in `bytes` to `out`.
///
/// # Panics
/// If `bytes` are not exactly the blocks of `out.len()` weights.
pub fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(format.bytes(out.len()), Some(bytes.len()), "{} weights of {format}", out.len());
    match format {
        Format::F32 => {
            out.iter_mut()
                .zip(bytes.as_chunks().0)
                .for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
        }
        Format::F16 => {
            let number = |bytes: &[u8; 2]| f16::from_le_bytes(*bytes).to_f32();
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, bytes)| *out = number(bytes));
        }
        Format::Bf16 => {
            let number = |bytes: &[u8; 2]| bf16::from_le_bytes(*bytes).to_f32();
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, bytes)| *out = number(bytes));
        }
        _ => {
            let blocks = bytes.chunks_exact(format.block_bytes());
            for (out, block) in out.chunks_exact_mut(format.block_len()).zip(blocks) {
                dequantize_block(format, block, out);
            }
        }
    }
}

fn dequantize_block(format: Format, block: &[u8], out: &mut [f32]) {
    for (index, out) in out.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
        let group = Group::read(format, block, index);
        let (scales, added) = (group.scales(), group.added(format));
        for (i, out) in out.iter_mut().enumerate() {
            *out = scales[i / 16] * level(format, group.codes[i]) as f32 + added;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(format: Format, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() / format.block_bytes() * format.block_len()];
        dequantize(format, bytes, &mut out);
        out
    }

    fn half(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    #[test]
    fn blocks_of_32_have_a_scale_and_perhaps_a_minimum() {
        let low_three_high_nine = [0x93; 16];
        let block = [&half(0.5)[..], &low_three_high_nine].concat();
        let found = weights(Format::Q4_0, &block);
        assert_eq!((found[0], found[15], found[16]), (-2.5, -2.5, 0.5));
        let found = weights(Format::Iq4Nl, &block);
        assert_eq!((found[0], found[16]), (-32.5, 6.5));
        let block = [&half(0.5)[..], &half(-1.0), &low_three_high_nine].concat();
        let found = weights(Format::Q4_1, &block);
        assert_eq!((found[0], found[31]), (0.5, 3.5));
        // The high bits of values 0 and 31 are set.
        let block = [&half(0.5)[..], &[1, 0, 0, 0x80], &low_three_high_nine].concat();
        let found = weights(Format::Q5_0, &block);
        assert_eq!((found[0], found[1], found[30], found[31]), (1.5, -6.5, -3.5, 4.5));
        let block = [&half(0.5)[..], &half(1.0), &[1, 0, 0, 0x80], &low_three_high_nine].concat();
        let found = weights(Format::Q5_1, &block);
        assert_eq!((found[0], found[1], found[31]), (10.5, 2.5, 13.5));
        let block = [&half(0.25)[..], &[0x80; 31], &[4]].concat();
        let found = weights(Format::Q8_0, &block);
        assert_eq!((found[0], found[31]), (-32.0, 1.0));
    }

    #[test]
    fn blocks_of_256_have_scales_of_scales() {
        // Scale 3 and minimum 5 for the first group; 0x21 and 0x13 for the sixth, whose top bits lie with the second's.
        let mut scales = [0u8; 12];
        (scales[0], scales[4]) = (3, 5);
        (scales[9], scales[1], scales[5]) = (0x31, 2 << 6, 1 << 6);
        let mut quants = [0u8; 128];
        (quants[0], quants[95]) = (7, 0xe0);
        let head = [&half(0.5)[..], &half(0.25), &scales].concat();
        let found = weights(Format::Q4K, &[&head[..], &quants].concat());
        assert_eq!((found[0], found[1]), (10.5 - 1.25, -1.25));
        assert_eq!(found[191], 0.5 * 33.0 * 14.0 - 0.25 * 19.0);
        let mut high = [0u8; 32];
        high[31] = 1 << 5;
        let found = weights(Format::Q5K, &[&head[..], &high, &quants].concat());
        assert_eq!(found[0], 10.5 - 1.25);
        assert_eq!(found[191], 0.5 * 33.0 * 30.0 - 0.25 * 19.0);

        let mut block = [0u8; 210];
        block[208..].copy_from_slice(&half(0.5));
        // Value 112 + 128 is in the second half's fourth quarter: byte 48 + 64 of the nibbles, byte 16 + 32 of the rest.
        (block[112], block[128 + 48], block[192 + 15]) = (0xa0, 0b1100_0000, 0xfe);
        let found = weights(Format::Q6K, &block);
        assert_eq!(found[240], 0.5 * -2.0 * f32::from(0x3a - 32i8));
        assert_eq!(found[241], 0.5 * -2.0 * -32.0);
        assert_eq!(found[0], 0.0);

        let mut block = [0u8; 136];
        block[..2].copy_from_slice(&half(0.5));
        // The fourth group's scale is 0b10_0101 - 32.
        (block[2], block[5], block[8 + 48]) = (0b1000_0000, 0x50, 0xf0);
        let found = weights(Format::Iq4Xs, &block);
        assert_eq!((found[96], found[112]), (0.5 * 5.0 * -127.0, 0.5 * 5.0 * 113.0));
        assert_eq!(found[0], 0.5 * -32.0 * -127.0);
    }

    #[test]
    fn plain_numbers_are_taken_as_they_are() {
        assert_eq!(weights(Format::F32, &1.5f32.to_le_bytes()), [1.5]);
        assert_eq!(weights(Format::F16, &half(1.5)), [1.5]);
        assert_eq!(weights(Format::Bf16, &[0xc0, 0x3f]), [1.5]);
    }
}
