//! The kernel of products in plain code. The compiler makes vectors of it; with which instructions, its callers decide.

#![expect(clippy::cast_ptr_alignment, reason = "rows and panels are aligned as the numbers in them")]

use super::lanes::{Baseline, MultiplyAdd};
use super::matrix::{Kernel, Store, Tile};
use super::panels::PANEL;

/// Outputs whose sums are held at a time: half a panel of them and six rows fill the registers that most processors have.
const HALF: usize = PANEL / 2;

/// Computes a tile of `ROWS` rows.
///
/// # Safety
/// As for [`Kernel`]; the panel is of `f32`.
#[inline(always)]
pub unsafe fn tile<M: MultiplyAdd, const ROWS: usize>(tile: &Tile) {
    for start in (0..tile.width).step_by(HALF) {
        let mut sums = [[0f32; HALF]; ROWS];
        // SAFETY: the tile's pointers lead to what it says.
        unsafe {
            let bias = &*tile.bias.add(start).cast::<[f32; HALF]>();
            sums.fill(*bias);
            for term in 0..tile.terms {
                let weights = &*tile.panel.cast::<f32>().add(term * PANEL + start).cast::<[f32; HALF]>();
                for (row, sums) in sums.iter_mut().enumerate() {
                    let number = *tile.rows.add(row * tile.row_stride).cast::<f32>().add(term);
                    for lane in 0..HALF {
                        sums[lane] = M::multiply_add(number, weights[lane], sums[lane]);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                let width = HALF.min(tile.width - start);
                let out = std::slice::from_raw_parts_mut(tile.out.add(row * tile.out_stride + start), width);
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = if tile.store == Store::Add { *out + sum } else { *sum };
                }
            }
        }
    }
}

unsafe fn baseline<const ROWS: usize>(tile_: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<Baseline, ROWS>(tile_) }
}

/// Kernels of what the target has for certain.
pub fn kernels() -> &'static [Kernel] {
    &[baseline::<1>, baseline::<2>, baseline::<3>, baseline::<4>, baseline::<5>, baseline::<6>]
}
