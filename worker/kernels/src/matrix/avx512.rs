//! The product of a tile with 512-bit vectors: one lane for each output.

#![expect(clippy::cast_ptr_alignment, reason = "what is loaded may stand at any address")]

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_loadu_si256, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_epi8,
    _mm512_slli_epi16, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_storeu_ps, _mm512_sub_epi32,
    _mm512_sub_ps, _mm512_ternarylogic_epi32,
};
use std::marker::PhantomData;

use super::layout::{BLOCK_GROUPS, Codes, LINE, Layout, Scales};
use super::tile::{AHEAD_BYTES, Ahead, Sums, Weights};
use crate::blocks::IQ4_LEVELS;
use crate::rows::{BLOCK, Panel};

/// Vectors of a group.
const VECTORS: usize = 8;
/// (a and b) or c, as a truth table.
const AND_OR: i32 = 0xea;

/// # Safety
/// As for every product of a tile.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
pub(super) unsafe fn product<L: Layout, const M: usize>(
    weights: Weights<'_>,
    panel: Panel<'_>,
    sums: &mut Sums,
) {
    let mut found = [_mm512_setzero_ps(); M];
    for block in 0..weights.groups.div_ceil(BLOCK_GROUPS) {
        let groups = (weights.groups - block * BLOCK_GROUPS).min(BLOCK_GROUPS);
        // SAFETY: the caller promises that weights and panel hold all groups.
        unsafe {
            let codes = weights.bytes.as_ptr().add(block * L::BLOCK_BYTES);
            let scales = Scaling::<L>::of_block(codes.add(groups * L::CODE_BYTES));
            for group in 0..groups {
                let codes = codes.add(group * L::CODE_BYTES);
                if weights.ahead == Ahead::Weights {
                    fetch_ahead::<L>(codes);
                }
                let factors = scales.factors(group);
                add_group::<L, M>(
                    &self::codes::<L>(codes),
                    factors,
                    panel,
                    block * BLOCK_GROUPS + group,
                    &mut found,
                );
            }
        }
    }
    for (found, sums) in found.iter().zip(sums) {
        // SAFETY: there are 16 numbers.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *found) };
    }
}

/// Adds the products of a group with each row.
///
/// # Safety
/// The panel of `M` rows has this group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn add_group<L: Layout, const M: usize>(
    codes: &[__m512i; VECTORS],
    [scale, minimum]: [__m512; 2],
    panel: Panel<'_>,
    group: usize,
    sums: &mut [__m512; M],
) {
    let totals = if L::SCALES == Scales::Two { panel.rounded_sums } else { panel.sums };
    for (row, sum) in sums.iter_mut().enumerate() {
        let at = group * M + row;
        // SAFETY: the caller's promise.
        unsafe {
            let quants = panel.quants.as_ptr().add(at * BLOCK);
            let row_scale = _mm512_set1_ps(*panel.scales.as_ptr().add(at));
            if L::SCALES == Scales::Halves {
                let half_sums = panel.half_sums.as_ptr().add(2 * group * M + row);
                let low = levels::<L>(dot::<4>(&codes[..4], quants), *half_sums);
                let high = levels::<L>(dot::<4>(&codes[4..], quants.add(16)), *half_sums.add(M));
                let both = _mm512_fmadd_ps(high, minimum, _mm512_mul_ps(low, scale));
                *sum = _mm512_fmadd_ps(both, row_scale, *sum);
            } else {
                let product = _mm512_cvtepi32_ps(dot::<8>(codes, quants));
                *sum = _mm512_fmadd_ps(product, _mm512_mul_ps(scale, row_scale), *sum);
                *sum = _mm512_fmadd_ps(minimum, _mm512_set1_ps(*totals.as_ptr().add(at)), *sum);
            }
        }
    }
}

/// Asks for weights that will be wanted soon. What hardware foresees by itself ends at each page.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
fn fetch_ahead<L: Layout>(codes: *const u8) {
    let lines = (L::CODE_BYTES + L::SCALE_BYTES).div_ceil(LINE);
    for line in 0..lines {
        _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD_BYTES + line * LINE).cast());
    }
}

/// The dot products of each lane's codes with the same quants.
///
/// # Safety
/// There are four quants for each of the vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn dot<const N: usize>(codes: &[__m512i], quants: *const i8) -> __m512i {
    let mut sum = _mm512_setzero_si512();
    for (vector, codes) in codes.iter().enumerate().take(N) {
        // SAFETY: the caller's promise.
        let four = unsafe { quants.cast::<i32>().add(vector).read_unaligned() };
        sum = _mm512_dpbusd_epi32(sum, *codes, _mm512_set1_epi32(four));
    }
    sum
}

/// What a product of codes is without their offset.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
fn levels<L: Layout>(product: __m512i, half_sum: i32) -> __m512 {
    const { assert!(L::OFFSET == 0 || L::OFFSET.is_power_of_two()) };
    let offset = match L::OFFSET {
        32 => _mm512_slli_epi32::<5>(_mm512_set1_epi32(half_sum)),
        _ => _mm512_set1_epi32(i32::from(L::OFFSET) * half_sum),
    };
    _mm512_cvtepi32_ps(_mm512_sub_epi32(product, offset))
}

/// A group's codes as unsigned bytes.
///
/// # Safety
/// `lines` are the codes of a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn codes<L: Layout>(lines: *const u8) -> [__m512i; VECTORS] {
    // SAFETY: the layout says how many lines there are, and no other is read below.
    let line = |index: usize| unsafe { _mm512_loadu_si512(lines.add(index * LINE).cast()) };
    if L::CODES == Codes::Bytes {
        return std::array::from_fn(line);
    }
    let half = _mm512_set1_epi8(15);
    let mut codes = [_mm512_setzero_si512(); VECTORS];
    for index in 0..4 {
        let both = line(index);
        codes[index] = _mm512_and_si512(both, half);
        codes[index + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), half);
    }
    match L::CODES {
        Codes::Nibbles | Codes::Bytes => {}
        Codes::Table => {
            let levels = IQ4_LEVELS.map(|level| level.cast_unsigned() ^ 0x80);
            // SAFETY: the table has 16 bytes.
            let table = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(levels.as_ptr().cast())) };
            codes = codes.map(|codes| _mm512_shuffle_epi8(table, codes));
        }
        Codes::Fives => {
            let high = line(4);
            let bit = _mm512_set1_epi8(16);
            let shifted = [
                _mm512_slli_epi16::<4>(high),
                _mm512_slli_epi16::<3>(high),
                _mm512_slli_epi16::<2>(high),
                _mm512_slli_epi16::<1>(high),
                high,
                _mm512_srli_epi16::<1>(high),
                _mm512_srli_epi16::<2>(high),
                _mm512_srli_epi16::<3>(high),
            ];
            for (codes, shifted) in codes.iter_mut().zip(shifted) {
                *codes = _mm512_ternarylogic_epi32::<AND_OR>(shifted, bit, *codes);
            }
        }
        Codes::Sixes => {
            let bits = _mm512_set1_epi8(0x30);
            for half in 0..2 {
                let high = line(4 + half);
                let shifted = [
                    _mm512_slli_epi16::<4>(high),
                    _mm512_slli_epi16::<2>(high),
                    high,
                    _mm512_srli_epi16::<2>(high),
                ];
                for (codes, shifted) in codes[4 * half..].iter_mut().zip(shifted) {
                    *codes = _mm512_ternarylogic_epi32::<AND_OR>(shifted, bits, *codes);
                }
            }
        }
    }
    codes
}

/// The scales of a block.
struct Scaling<L> {
    bytes: *const u8,
    scale: __m512,
    minimum: __m512,
    layout: PhantomData<L>,
}

impl<L: Layout> Scaling<L> {
    /// # Safety
    /// `bytes` are the scales of a block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    unsafe fn of_block(bytes: *const u8) -> Self {
        let has = |size| L::BLOCK_SCALE_BYTES >= size;
        // SAFETY: as many bytes are there as were asked for.
        unsafe {
            let scale = if has(32) { numbers(bytes) } else { _mm512_setzero_ps() };
            let minimum = if has(64) { numbers(bytes.add(32)) } else { _mm512_setzero_ps() };
            Self { bytes: bytes.add(L::BLOCK_SCALE_BYTES), scale, minimum, layout: PhantomData }
        }
    }

    /// Scale and minimum of a group for each lane, or the scales of both halves.
    ///
    /// # Safety
    /// The block has this group.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    unsafe fn factors(&self, group: usize) -> [__m512; 2] {
        // SAFETY: the layout says what a group has.
        unsafe {
            let bytes = self.bytes.add(group * L::SCALE_BYTES);
            let fractions = |at: usize| _mm_loadu_si128(bytes.add(at).cast());
            let signed = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(fractions(at)));
            let unsigned = |at: usize| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(fractions(at)));
            let offset = _mm512_set1_ps(-f32::from(L::OFFSET));
            match L::SCALES {
                Scales::One => {
                    let scale = numbers(bytes);
                    [scale, _mm512_mul_ps(scale, offset)]
                }
                Scales::Two => [numbers(bytes), numbers(bytes.add(32))],
                Scales::Fractions => {
                    let minimum = _mm512_mul_ps(self.minimum, unsigned(16));
                    [_mm512_mul_ps(self.scale, unsigned(0)), _mm512_sub_ps(_mm512_setzero_ps(), minimum)]
                }
                Scales::Signed => {
                    let scale = _mm512_mul_ps(self.scale, signed(0));
                    [scale, _mm512_mul_ps(scale, offset)]
                }
                Scales::Halves => [signed(0), signed(16)].map(|fraction| _mm512_mul_ps(self.scale, fraction)),
            }
        }
    }
}

/// A number of 16 bits for each lane.
///
/// # Safety
/// There are 32 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn numbers(bytes: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.cast())) }
}
