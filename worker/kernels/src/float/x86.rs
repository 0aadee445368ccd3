//! Kernels for x86-64.

#![expect(
    clippy::cast_ptr_alignment,
    reason = "numbers are aligned as numbers; the loads of whole registers take any address"
)]

use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm256_loadu_si256, _mm512_add_ps, _mm512_castsi512_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtph_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_si512,
};

use super::lanes::Fused;
use super::matrix::{Kernel, Store, Tile};
use super::panels::{Layout, PANEL};
use super::portable;

/// Numbers in a register.
const LANES: usize = 16;

#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_tile<const ROWS: usize>(tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { portable::tile::<Fused, ROWS>(tile) }
}

/// Kernels for 256-bit vectors.
pub fn avx2() -> &'static [Kernel] {
    &[avx2_tile::<1>, avx2_tile::<2>, avx2_tile::<3>, avx2_tile::<4>, avx2_tile::<5>, avx2_tile::<6>]
}

/// What the chains of sums begin with: the bias.
///
/// # Safety
/// As for [`Kernel`].
#[inline(always)]
unsafe fn begin<const ROWS: usize>(tile: &Tile) -> [[__m512; 2]; ROWS] {
    // SAFETY: a bias for each output of the panel.
    unsafe { [[_mm512_loadu_ps(tile.bias), _mm512_loadu_ps(tile.bias.add(LANES))]; ROWS] }
}

/// Writes the sums.
///
/// # Safety
/// As for [`Kernel`].
#[inline(always)]
unsafe fn end<const ROWS: usize>(tile: &Tile, sums: &[[__m512; 2]; ROWS]) {
    let bits = u32::MAX >> (PANEL - tile.width);
    let masks = [(bits & 0xffff) as u16, (bits >> 16) as u16];
    for (row, sums) in sums.iter().enumerate() {
        for half in 0..2 {
            // SAFETY: the masks leave out what lies beyond the tile's width.
            unsafe {
                let out = tile.out.add(row * tile.out_stride).wrapping_add(half * LANES);
                let sum = match tile.store {
                    Store::Set => sums[half],
                    Store::Add => _mm512_add_ps(_mm512_maskz_loadu_ps(masks[half], out), sums[half]),
                };
                _mm512_mask_storeu_ps(out, masks[half], sum);
            }
        }
    }
}

/// Defines a kernel of products with `f32` rows, given how sixteen weights are loaded.
macro_rules! float_kernel {
    ($name:ident, $bytes:literal, |$weights:ident| $load:expr) => {
        #[target_feature(enable = "avx512f")]
        unsafe fn $name<const ROWS: usize>(tile: &Tile) {
            // SAFETY: the tile's pointers lead to what it says.
            unsafe {
                let mut sums = begin::<ROWS>(tile);
                for term in 0..tile.terms {
                    let line = tile.panel.add(term * PANEL * $bytes);
                    let weights = [line, line.add(LANES * $bytes)].map(|$weights| $load);
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let number =
                            _mm512_set1_ps(*tile.rows.add(row * tile.row_stride).cast::<f32>().add(term));
                        sums[0] = _mm512_fmadd_ps(number, weights[0], sums[0]);
                        sums[1] = _mm512_fmadd_ps(number, weights[1], sums[1]);
                    }
                }
                end(tile, &sums);
            }
        }
    };
}

float_kernel!(f32_tile, 4, |weights| _mm512_loadu_ps(weights.cast()));
float_kernel!(f16_tile, 2, |weights| _mm512_cvtph_ps(_mm256_loadu_si256(weights.cast::<__m256i>())));
float_kernel!(bf16_tile, 2, |weights| {
    let halves = _mm256_loadu_si256(weights.cast::<__m256i>());
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
});

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs_tile<const ROWS: usize>(tile: &Tile) {
    // SAFETY: the tile's pointers lead to what it says; a register of pairs has no bit pattern that is not one.
    unsafe {
        let mut sums = begin::<ROWS>(tile);
        for term in 0..tile.terms {
            let line = tile.panel.add(term * PANEL * 4);
            let weights = [line, line.add(LANES * 4)]
                .map(|weights| std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(weights.cast())));
            for (row, sums) in sums.iter_mut().enumerate() {
                let pair = *tile.rows.add(row * tile.row_stride).cast::<i32>().add(term);
                let pair = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair));
                sums[0] = _mm512_dpbf16_ps(sums[0], pair, weights[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], pair, weights[1]);
            }
        }
        end(tile, &sums);
    }
}

macro_rules! up_to_twelve_rows {
    ($kernel:ident) => {
        &[
            $kernel::<1>,
            $kernel::<2>,
            $kernel::<3>,
            $kernel::<4>,
            $kernel::<5>,
            $kernel::<6>,
            $kernel::<7>,
            $kernel::<8>,
            $kernel::<9>,
            $kernel::<10>,
            $kernel::<11>,
            $kernel::<12>,
        ]
    };
}

/// Kernels for 512-bit vectors: twelve rows of two registers each leave room for the weights and a number.
pub fn avx512(layout: Layout) -> &'static [Kernel] {
    match layout {
        Layout::F32 => up_to_twelve_rows!(f32_tile),
        Layout::F16 => up_to_twelve_rows!(f16_tile),
        Layout::Bf16 => up_to_twelve_rows!(bf16_tile),
        Layout::Pairs => up_to_twelve_rows!(pairs_tile),
    }
}

/// Rounds a row to `bf16`, two numbers in each word; a last odd one has a zero beside it.
///
/// # Panics
/// If `pairs` has not half as many words as `row` has numbers, rounded up.
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn round(row: &[f32], pairs: &mut [u32]) {
    assert_eq!(pairs.len(), row.len().div_ceil(2), "pairs");
    for (numbers, pairs) in row.chunks(2 * LANES).zip(pairs.chunks_mut(LANES)) {
        let mut whole = [0f32; 2 * LANES];
        let numbers = numbers.first_chunk().unwrap_or_else(|| {
            whole[..numbers.len()].copy_from_slice(numbers);
            &whole
        });
        let mut words = [0u32; LANES];
        // SAFETY: both arrays are as long as what is read and written; pairs are bits like any others.
        unsafe {
            let low = _mm512_loadu_ps(numbers.as_ptr());
            let high = _mm512_loadu_ps(numbers.as_ptr().add(LANES));
            let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(words.as_mut_ptr().cast(), rounded);
        }
        pairs.copy_from_slice(&words[..pairs.len()]);
    }
}

const _: () = assert!(size_of::<__m512>() == size_of::<[f32; LANES]>());
