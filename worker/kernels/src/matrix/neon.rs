//! 128-bit vectors of Arm processors with products of bytes in one instruction.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]
#![expect(clippy::cast_ptr_alignment, reason = "what is loaded may stand at any address")]

use std::arch::aarch64::{
    float32x4_t, int32x4_t, uint8x16_t, vaddq_s32, vandq_u8, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s32,
    vdupq_n_u8, veorq_u8, vfmaq_f32, vld1q_f32, vld1q_u8, vmulq_f32, vorrq_u8, vqtbl1q_u8,
    vreinterpretq_s32_u8, vreinterpretq_u8_s32, vshlq_n_u8, vshrq_n_u8, vst1q_f32,
};
use std::arch::asm;

use half::f16;

use super::layout::{Layout, TILE};
use super::tile::Weights;
use super::vectors::{self, Vectors, is_wide};
use crate::rows::Panel;

/// # Safety
/// As for every product of a tile.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn product<L: Layout, const M: usize, const ROWS: usize>(
    weights: Weights<'_>,
    panel: Panel<'_>,
    sums: *mut [f32; TILE],
) {
    // SAFETY: the caller's promise.
    unsafe { vectors::product::<Neon, L, M, ROWS>(weights, panel, sums) }
}

struct Neon;

// SAFETY of each function: its caller has the instructions and the memory that the trait asks for.
impl Vectors for Neon {
    type Integers = uint8x16_t;
    type Numbers = float32x4_t;
    const LANES: usize = 4;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn load(bytes: *const u8) -> uint8x16_t {
        unsafe { vld1q_u8(bytes) }
    }

    #[inline(always)]
    unsafe fn low(bytes: uint8x16_t) -> uint8x16_t {
        unsafe { vandq_u8(bytes, vdupq_n_u8(15)) }
    }

    #[inline(always)]
    unsafe fn high(bytes: uint8x16_t) -> uint8x16_t {
        unsafe { vshrq_n_u8::<4>(bytes) }
    }

    #[inline(always)]
    unsafe fn left<const BITS: i32>(bytes: uint8x16_t) -> uint8x16_t {
        unsafe { vshlq_n_u8::<BITS>(bytes) }
    }

    #[inline(always)]
    unsafe fn right<const BITS: i32>(bytes: uint8x16_t) -> uint8x16_t {
        unsafe { vshrq_n_u8::<BITS>(bytes) }
    }

    #[inline(always)]
    unsafe fn insert(codes: uint8x16_t, bytes: uint8x16_t, mask: u8) -> uint8x16_t {
        unsafe { vorrq_u8(codes, vandq_u8(bytes, vdupq_n_u8(mask))) }
    }

    #[inline(always)]
    unsafe fn look_up(table: &[u8; 16], codes: uint8x16_t) -> uint8x16_t {
        unsafe { vqtbl1q_u8(vld1q_u8(table.as_ptr()), codes) }
    }

    #[inline(always)]
    unsafe fn dot<L: Layout, const N: usize>(codes: &[uint8x16_t], quants: *const i8) -> uint8x16_t {
        unsafe {
            let mut sum = vdupq_n_s32(0);
            for (vector, codes) in codes.iter().enumerate().take(N) {
                let codes = if is_wide(L::CODES) { veorq_u8(*codes, vdupq_n_u8(128)) } else { *codes };
                let four = vdupq_n_s32(quants.cast::<i32>().add(vector).read_unaligned());
                sum = dot_signed(sum, codes, four);
            }
            vreinterpretq_u8_s32(sum)
        }
    }

    #[inline(always)]
    unsafe fn add(left: uint8x16_t, right: i32) -> uint8x16_t {
        unsafe { vreinterpretq_u8_s32(vaddq_s32(vreinterpretq_s32_u8(left), vdupq_n_s32(right))) }
    }

    #[inline(always)]
    unsafe fn convert(integers: uint8x16_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(vreinterpretq_s32_u8(integers)) }
    }

    #[inline(always)]
    unsafe fn splat(number: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(number) }
    }

    #[inline(always)]
    unsafe fn multiply(left: float32x4_t, right: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(left, right) }
    }

    #[inline(always)]
    unsafe fn multiply_add(left: float32x4_t, right: float32x4_t, sum: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(sum, left, right) }
    }

    #[inline(always)]
    unsafe fn store(numbers: float32x4_t, out: *mut f32) {
        unsafe { vst1q_f32(out, numbers) }
    }

    #[inline(always)]
    unsafe fn halves(bytes: *const u8) -> float32x4_t {
        unsafe {
            let numbers =
                bytes.cast::<[[u8; 2]; 4]>().read().map(|number| f16::from_le_bytes(number).to_f32());
            vld1q_f32(numbers.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn signed(bytes: *const u8) -> float32x4_t {
        unsafe { vld1q_f32(bytes.cast::<[i8; 4]>().read().map(f32::from).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn unsigned(bytes: *const u8) -> float32x4_t {
        unsafe { vld1q_f32(bytes.cast::<[u8; 4]>().read().map(f32::from).as_ptr()) }
    }
}

/// Adds to each lane the products of its four signed bytes.
///
/// # Safety
/// The processor must have the instruction.
#[inline(always)]
unsafe fn dot_signed(sum: int32x4_t, left: uint8x16_t, right: int32x4_t) -> int32x4_t {
    let mut result = sum;
    // SAFETY: the caller's promise; registers only. The compiler's own name for it is not stable yet.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {left:v}.16b, {right:v}.16b",
            sum = inout(vreg) result,
            left = in(vreg) left,
            right = in(vreg) right,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    result
}
