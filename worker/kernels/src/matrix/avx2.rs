//! 256-bit vectors: with products of bytes in one instruction, and without.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]
#![expect(clippy::cast_ptr_alignment, reason = "what is loaded may stand at any address")]

use std::arch::x86_64::{
    __m256, __m256i, _mm_loadl_epi64, _mm_loadu_si128, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps,
    _mm256_cvtepu8_epi32, _mm256_cvtph_ps, _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_sign_epi8, _mm256_slli_epi16, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_xor_si256,
};

use super::layout::{Codes, Layout, TILE};
use super::tile::Weights;
use super::vectors::{self, Vectors, is_wide};
use crate::rows::Panel;

/// # Safety
/// As for every product of a tile.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn product<L: Layout, const M: usize, const ROWS: usize>(
    weights: Weights<'_>,
    panel: Panel<'_>,
    sums: *mut [f32; TILE],
) {
    // SAFETY: the caller's promise.
    unsafe { vectors::product::<Avx2<false>, L, M, ROWS>(weights, panel, sums) }
}

/// # Safety
/// As for every product of a tile.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn product_vnni<L: Layout, const M: usize, const ROWS: usize>(
    weights: Weights<'_>,
    panel: Panel<'_>,
    sums: *mut [f32; TILE],
) {
    // SAFETY: the caller's promise.
    unsafe { vectors::product::<Avx2<true>, L, M, ROWS>(weights, panel, sums) }
}

/// Vectors of 256 bits; whether bytes are multiplied in one instruction.
struct Avx2<const VNNI: bool>;

// SAFETY of each function: its caller has the instructions and the memory that the trait asks for.
impl<const VNNI: bool> Vectors for Avx2<VNNI> {
    type Integers = __m256i;
    type Numbers = __m256;
    const LANES: usize = 8;
    const SIGNED: bool = !VNNI;

    #[inline(always)]
    unsafe fn load(bytes: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(bytes.cast()) }
    }

    #[inline(always)]
    unsafe fn low(bytes: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn high(bytes: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn left<const BITS: i32>(bytes: __m256i) -> __m256i {
        unsafe { _mm256_slli_epi16::<BITS>(bytes) }
    }

    #[inline(always)]
    unsafe fn right<const BITS: i32>(bytes: __m256i) -> __m256i {
        unsafe { _mm256_srli_epi16::<BITS>(bytes) }
    }

    #[inline(always)]
    unsafe fn insert(codes: __m256i, bytes: __m256i, mask: u8) -> __m256i {
        unsafe { _mm256_or_si256(codes, _mm256_and_si256(bytes, _mm256_set1_epi8(mask.cast_signed()))) }
    }

    #[inline(always)]
    unsafe fn look_up(table: &[u8; 16], codes: __m256i) -> __m256i {
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, codes)
        }
    }

    #[inline(always)]
    unsafe fn dot<L: Layout, const N: usize>(codes: &[__m256i], quants: *const i8) -> __m256i {
        // SAFETY: there are four quants for each of the `N` vectors.
        let four = |vector: usize| unsafe { quants.cast::<i32>().add(vector).read_unaligned() };
        unsafe {
            let mut sum = _mm256_setzero_si256();
            if VNNI {
                for (vector, codes) in codes.iter().enumerate().take(N) {
                    sum = _mm256_dpbusd_avx_epi32(sum, *codes, _mm256_set1_epi32(four(vector)));
                }
                return sum;
            }
            for (step, codes) in codes[..N].chunks(sums_in_16_bits(L::CODES)).enumerate() {
                let mut pairs = _mm256_setzero_si256();
                for (index, codes) in codes.iter().enumerate() {
                    let quants = _mm256_set1_epi32(four(step * sums_in_16_bits(L::CODES) + index));
                    pairs = _mm256_add_epi16(pairs, multiply_pairs::<L>(*codes, quants));
                }
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
            sum
        }
    }

    #[inline(always)]
    unsafe fn add(left: __m256i, right: i32) -> __m256i {
        unsafe { _mm256_add_epi32(left, _mm256_set1_epi32(right)) }
    }

    #[inline(always)]
    unsafe fn convert(integers: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(integers) }
    }

    #[inline(always)]
    unsafe fn splat(number: f32) -> __m256 {
        unsafe { _mm256_set1_ps(number) }
    }

    #[inline(always)]
    unsafe fn multiply(left: __m256, right: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(left, right) }
    }

    #[inline(always)]
    unsafe fn multiply_add(left: __m256, right: __m256, sum: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(left, right, sum) }
    }

    #[inline(always)]
    unsafe fn store(numbers: __m256, out: *mut f32) {
        unsafe { _mm256_storeu_ps(out, numbers) }
    }

    #[inline(always)]
    unsafe fn halves(bytes: *const u8) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bytes.cast())) }
    }

    #[inline(always)]
    unsafe fn signed(bytes: *const u8) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.cast()))) }
    }

    #[inline(always)]
    unsafe fn unsigned(bytes: *const u8) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.cast()))) }
    }
}

/// How many vectors' pairs of products can be summed up in 16 bits.
const fn sums_in_16_bits(codes: Codes) -> usize {
    match codes {
        Codes::Nibbles => 8,
        Codes::Fives => 4,
        Codes::Sixes => 2,
        Codes::Table | Codes::Bytes => 1,
    }
}

/// The sums of two products each, in 16 bits, of codes less 128 if they are wide.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn multiply_pairs<L: Layout>(codes: __m256i, quants: __m256i) -> __m256i {
    unsafe {
        if !is_wide(L::CODES) {
            return _mm256_maddubs_epi16(codes, quants);
        }
        // The sign goes over to the quant: none of these is -128, so that all can be negated.
        let levels = _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN));
        _mm256_maddubs_epi16(_mm256_abs_epi8(levels), _mm256_sign_epi8(quants, levels))
    }
}
