//! 512-bit vectors with products of bytes in one instruction: a whole tile in each.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]
#![expect(clippy::cast_ptr_alignment, reason = "what is loaded may stand at any address")]

use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm256_loadu_si256, _mm512_add_epi32, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_slli_epi16,
    _mm512_srli_epi16, _mm512_storeu_ps, _mm512_ternarylogic_epi32,
};

use super::layout::{Layout, TILE};
use super::tile::Weights;
use super::vectors::{self, Vectors};
use crate::rows::Panel;

/// (a and b) or c, as a truth table.
const AND_OR: i32 = 0xea;

/// # Safety
/// As for every product of a tile.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn product<L: Layout, const M: usize, const ROWS: usize>(
    weights: Weights<'_>,
    panel: Panel<'_>,
    sums: *mut [f32; TILE],
) {
    // SAFETY: the caller's promise.
    unsafe { vectors::product::<Avx512, L, M, ROWS>(weights, panel, sums) }
}

struct Avx512;

// SAFETY of each function: its caller has the instructions and the memory that the trait asks for.
impl Vectors for Avx512 {
    type Integers = __m512i;
    type Numbers = __m512;
    const LANES: usize = 16;
    const SIGNED: bool = false;

    #[inline(always)]
    unsafe fn load(bytes: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(bytes.cast()) }
    }

    #[inline(always)]
    unsafe fn low(bytes: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn high(bytes: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn left<const BITS: i32>(bytes: __m512i) -> __m512i {
        const { assert!(BITS == 1 || BITS == 2 || BITS == 3 || BITS == 4) };
        unsafe {
            match BITS {
                1 => _mm512_slli_epi16::<1>(bytes),
                2 => _mm512_slli_epi16::<2>(bytes),
                3 => _mm512_slli_epi16::<3>(bytes),
                _ => _mm512_slli_epi16::<4>(bytes),
            }
        }
    }

    #[inline(always)]
    unsafe fn right<const BITS: i32>(bytes: __m512i) -> __m512i {
        const { assert!(BITS == 1 || BITS == 2 || BITS == 3) };
        unsafe {
            match BITS {
                1 => _mm512_srli_epi16::<1>(bytes),
                2 => _mm512_srli_epi16::<2>(bytes),
                _ => _mm512_srli_epi16::<3>(bytes),
            }
        }
    }

    #[inline(always)]
    unsafe fn insert(codes: __m512i, bytes: __m512i, mask: u8) -> __m512i {
        unsafe { _mm512_ternarylogic_epi32::<AND_OR>(bytes, _mm512_set1_epi8(mask.cast_signed()), codes) }
    }

    #[inline(always)]
    unsafe fn look_up(table: &[u8; 16], codes: __m512i) -> __m512i {
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, codes)
        }
    }

    #[inline(always)]
    unsafe fn dot<L: Layout, const N: usize>(codes: &[__m512i], quants: *const i8) -> __m512i {
        unsafe {
            let mut sum = _mm512_setzero_si512();
            for (vector, codes) in codes.iter().enumerate().take(N) {
                let four = quants.cast::<i32>().add(vector).read_unaligned();
                sum = _mm512_dpbusd_epi32(sum, *codes, _mm512_set1_epi32(four));
            }
            sum
        }
    }

    #[inline(always)]
    unsafe fn add(left: __m512i, right: i32) -> __m512i {
        unsafe { _mm512_add_epi32(left, _mm512_set1_epi32(right)) }
    }

    #[inline(always)]
    unsafe fn convert(integers: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(integers) }
    }

    #[inline(always)]
    unsafe fn splat(number: f32) -> __m512 {
        unsafe { _mm512_set1_ps(number) }
    }

    #[inline(always)]
    unsafe fn multiply(left: __m512, right: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(left, right) }
    }

    #[inline(always)]
    unsafe fn multiply_add(left: __m512, right: __m512, sum: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(left, right, sum) }
    }

    #[inline(always)]
    unsafe fn store(numbers: __m512, out: *mut f32) {
        unsafe { _mm512_storeu_ps(out, numbers) }
    }

    #[inline(always)]
    unsafe fn halves(bytes: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.cast())) }
    }

    #[inline(always)]
    unsafe fn signed(bytes: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.cast()))) }
    }

    #[inline(always)]
    unsafe fn unsigned(bytes: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.cast()))) }
    }
}
