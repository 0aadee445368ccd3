//! What a cell looks like, the keys and values of one layer and one head for the tokens of a block.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]

use half::f16;

use crate::kv::BLOCK_TOKENS;
use crate::lanes::{Lanes, Loop, run};

/// Elements of a token that share a scale.
pub(crate) const SCALED: usize = 32;
/// The largest f16. Larger numbers would become infinite, and a weight of zero would not silence them.
const HALF_MAX: f32 = 65_504.0;

/// What a number of a key or a value is kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvFormat {
    /// 16 bits.
    F16,
    /// 8 bits, and a scale for each 32 elements of a token.
    Q8,
}

/// What a block looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Layers.
    pub layers: usize,
    /// Key heads, as many as value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// What they are kept as.
    pub format: KvFormat,
}

impl KvLayout {
    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.cell_bytes()
    }

    /// Elements of a value with those that fill it up to whole vectors.
    pub(crate) fn value_width(&self) -> usize {
        self.head_dim.next_multiple_of(SCALED)
    }

    pub(crate) fn cell_bytes(&self) -> usize {
        let scales = 2 * self.value_width() / SCALED * BLOCK_TOKENS * size_of::<f32>();
        let numbers = (self.head_dim + self.value_width()) * BLOCK_TOKENS;
        match self.format {
            KvFormat::F16 => numbers * size_of::<f16>(),
            KvFormat::Q8 => numbers + scales,
        }
    }

    /// Where a cell's values begin, in numbers: its keys come first.
    pub(crate) fn values_at(&self) -> usize {
        self.head_dim * BLOCK_TOKENS
    }

    /// Where a cell's scales begin, in bytes. The keys' come first; each 32 elements have 32 scales, one a token.
    fn scales_at(&self) -> usize {
        (self.head_dim + self.value_width()) * BLOCK_TOKENS
    }

    /// The scales of a cell's keys and of its values.
    ///
    /// # Safety
    /// `cell` is a cell of this layout, with 8 bits a number.
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "numbers of 32 tokens come before, and a cell begins where a cache line does"
    )]
    pub(crate) unsafe fn scales(&self, cell: *const u8) -> (*const f32, *const f32) {
        let each = self.value_width() / SCALED * BLOCK_TOKENS;
        // SAFETY: both lie within the cell, behind its numbers.
        unsafe {
            let keys = cell.add(self.scales_at()).cast::<f32>();
            (keys, keys.add(each))
        }
    }

    /// Writes the key and the value of one token.
    ///
    /// # Safety
    /// `cell` is a cell of this layout, and nobody else uses this token's part of it.
    pub(crate) unsafe fn write(&self, cell: *mut u8, token: usize, key: &[f32], value: &[f32]) {
        assert!(token < BLOCK_TOKENS && key.len() == self.head_dim && value.len() == self.head_dim);
        match self.format {
            KvFormat::F16 => run(HalfWrite { layout: self, cell: cell.cast(), token, key, value }),
            // SAFETY: the caller's promise.
            KvFormat::Q8 => unsafe { self.write_bytes(cell, token, key, value) },
        }
    }

    /// # Safety
    /// As of `write`.
    unsafe fn write_bytes(&self, cell: *mut u8, token: usize, key: &[f32], value: &[f32]) {
        // SAFETY: the cell is one of this layout.
        let (key_scales, value_scales) = unsafe { self.scales(cell) };
        let numbers = cell.cast::<i8>();
        for (chunk, (key, value)) in key.chunks(SCALED).zip(value.chunks(SCALED)).enumerate() {
            let (key_scale, value_scale) = (scale(key), scale(value));
            let scale_at = chunk * BLOCK_TOKENS + token;
            // SAFETY: a cell has this many scales and numbers, and this token's are the caller's.
            unsafe {
                *key_scales.cast_mut().add(scale_at) = key_scale;
                *value_scales.cast_mut().add(scale_at) = value_scale;
                for (index, (key, value)) in key.iter().zip(value).enumerate() {
                    let element = chunk * SCALED + index;
                    *numbers.add(element * BLOCK_TOKENS + token) = quantize(*key, key_scale);
                    *numbers.add(self.values_at() + token * self.value_width() + element) =
                        quantize(*value, value_scale);
                }
            }
        }
    }
}

/// What one step of 8 bits stands for.
fn scale(numbers: &[f32]) -> f32 {
    numbers.iter().fold(0f32, |highest, number| highest.max(number.abs())) / 127.0
}

fn quantize(number: f32, scale: f32) -> i8 {
    if scale > 0.0 { (number / scale).round_ties_even() as i8 } else { 0 }
}

struct HalfWrite<'a> {
    layout: &'a KvLayout,
    cell: *mut f16,
    token: usize,
    key: &'a [f32],
    value: &'a [f32],
}

impl Loop for HalfWrite<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        const LANES_MAX: usize = 16;
        let head_dim = self.layout.head_dim;
        let whole = head_dim / L::COUNT * L::COUNT;
        let mut halves = [f16::ZERO; LANES_MAX];
        // SAFETY: key and value hold `head_dim` numbers; the cell has room for `head_dim` elements of 32 tokens, and
        // behind them for 32 tokens of `value_width` elements; this token's are the caller's.
        unsafe {
            let value_out = self.cell.add(self.layout.values_at() + self.token * self.layout.value_width());
            let key_out = self.cell.add(self.token);
            for at in (0..whole).step_by(L::COUNT) {
                bounded::<L>(L::load(self.key.as_ptr().add(at))).store_halves(halves.as_mut_ptr());
                for (index, half) in halves[..L::COUNT].iter().enumerate() {
                    *key_out.add((at + index) * BLOCK_TOKENS) = *half;
                }
                bounded::<L>(L::load(self.value.as_ptr().add(at))).store_halves(value_out.add(at));
            }
            for at in whole..head_dim {
                let half = |number: f32| f16::from_f32(number.clamp(-HALF_MAX, HALF_MAX));
                *key_out.add(at * BLOCK_TOKENS) = half(self.key[at]);
                *value_out.add(at) = half(self.value[at]);
            }
        }
    }
}

#[inline(always)]
fn bounded<L: Lanes>(lanes: L) -> L {
    lanes.min(L::splat(HALF_MAX)).max(L::splat(-HALF_MAX))
}
