//! Vectors of numbers, one type for each family of instructions, so that a loop is written once and compiled for each.
//!
//! A loop is a [`Loop`]; [`run`] compiles it into a function that may use the instructions of the processor at hand.
//! Values of the vector types exist within such loops only, which is what makes their arithmetic sound.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]

use half::f16;

use crate::processor::Processor;

/// A vector of numbers.
pub(crate) trait Lanes: Copy {
    /// Numbers in it.
    const COUNT: usize;
    /// Rows of two sums each that fit the registers together with what is added to them.
    const ROWS: usize;

    fn splat(number: f32) -> Self;
    /// # Safety
    /// `COUNT` numbers lie there.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// There is room for `COUNT` numbers.
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    /// `COUNT` numbers lie there.
    unsafe fn load_halves(from: *const f16) -> Self;
    /// # Safety
    /// There is room for `COUNT` numbers.
    unsafe fn store_halves(self, to: *mut f16);
    /// # Safety
    /// `COUNT` numbers lie there.
    unsafe fn load_bytes(from: *const i8) -> Self;
    /// Stores whole numbers between -128 and 127.
    ///
    /// # Safety
    /// There is room for `COUNT` bytes.
    unsafe fn store_bytes(self, to: *mut i8);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    /// self · factor + term.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// To the nearest whole number.
    fn round(self) -> Self;
    /// To what 16 bits hold.
    fn rounded_to_half(self) -> Self;
    /// self · 2^power for whole powers between -125 and 127.
    fn scale(self, power: Self) -> Self;
    /// Zero wherever `other` is not above the limit.
    fn keep_where_above(self, other: Self, limit: f32) -> Self;
    /// The first number.
    fn first(self) -> f32;
    fn to_sum(self) -> f32;
    fn to_highest(self) -> f32;
}

/// A loop that is compiled for each family of instructions.
pub(crate) trait Loop {
    type Output;
    /// To be marked `#[inline(always)]`.
    fn run<L: Lanes>(self) -> Self::Output;
}

/// Runs a loop with the best instructions of the processor at hand.
#[inline]
pub(crate) fn run<T: Loop>(body: T) -> T::Output {
    run_on(Processor::detect(), body)
}

/// Runs a loop with the instructions of a family that [`Processor::available`] names.
#[inline]
pub(crate) fn run_on<T: Loop>(processor: Processor, body: T) -> T::Output {
    match processor {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has what its family promises.
        Processor::Avx512 => unsafe { x86::run_avx512(body) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the same.
        Processor::Avx2 | Processor::AvxVnni => unsafe { x86::run_avx2(body) },
        // On 64-bit ARM, vectors of four are part of the base that all code is compiled for.
        _ => body.run::<Plain>(),
    }
}

/// e to the power of each number, to about one part in ten million; 0 below the smallest ordinary number.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(power: L) -> L {
    const LOWEST: f32 = -86.5;
    const HIGHEST: f32 = 88.0;
    // ln 2 in two parts, the first of which has so few digits that its multiples are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // The polynomial of the Cephes library's expf.
    const TERMS: [f32; 5] = [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let clamped = power.max(L::splat(LOWEST)).min(L::splat(HIGHEST));
    let twos = clamped.mul(L::splat(std::f32::consts::LOG2_E)).round();
    let rest = twos.mul_add(L::splat(-LN_2_HIGH), clamped);
    let rest = twos.mul_add(L::splat(-LN_2_LOW), rest);
    let mut series = L::splat(1.987_569_1e-4);
    for term in TERMS {
        series = series.mul_add(rest, L::splat(term));
    }
    let series = series.mul_add(rest.mul(rest), rest.add(L::splat(1.0)));
    series.scale(twos).keep_where_above(power, LOWEST)
}

/// The hyperbolic tangent of each number, exact to about 1e-7.
#[inline(always)]
pub(crate) fn tanh<L: Lanes>(number: L) -> L {
    let grown = exp(number.add(number));
    L::splat(1.0).sub(L::splat(2.0).div(grown.add(L::splat(1.0))))
}

/// Eight numbers without instructions by name: the reference, and what the compiler turns into vectors elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 8]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| operation(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    fn fold(self, operation: impl Fn(f32, f32) -> f32) -> f32 {
        let [fours @ .., _, _, _, _] = self.0;
        let fours: [f32; 4] = std::array::from_fn(|lane| operation(fours[lane], self.0[lane + 4]));
        operation(operation(fours[0], fours[2]), operation(fours[1], fours[3]))
    }
}

impl Lanes for Plain {
    const COUNT: usize = 8;
    const ROWS: usize = 4;

    #[inline(always)]
    fn splat(number: f32) -> Self {
        Self([number; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) };
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const f16) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[f16; 8]>().read_unaligned() }.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: *mut f16) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f16; 8]>().write_unaligned(self.0.map(f16::from_f32)) };
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const i8) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[i8; 8]>().read_unaligned() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[i8; 8]>().write_unaligned(self.0.map(|number| number as i8)) };
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |left, right| left + right)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |left, right| left - right)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |left, right| left * right)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |left, right| left / right)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |left, right| if left > right { left } else { right })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |left, right| if left < right { left } else { right })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        self.mul(factor).add(term)
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }

    #[inline(always)]
    fn rounded_to_half(self) -> Self {
        Self(self.0.map(|number| f16::from_f32(number).to_f32()))
    }

    #[inline(always)]
    fn scale(self, power: Self) -> Self {
        self.zip(power, |number, power| number * f32::from_bits(((power as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn keep_where_above(self, other: Self, limit: f32) -> Self {
        self.zip(other, |number, other| if other > limit { number } else { 0.0 })
    }

    #[inline(always)]
    fn first(self) -> f32 {
        self.0[0]
    }

    #[inline(always)]
    fn to_sum(self) -> f32 {
        self.fold(|left, right| left + right)
    }

    #[inline(always)]
    fn to_highest(self) -> f32 {
        self.fold(f32::max)
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "values of these types exist within loops that were started after the features were detected"
)]
mod x86 {
    #[allow(clippy::wildcard_imports, reason = "a whole instruction set; not told in builds of tests")]
    use std::arch::x86_64::*;

    use half::f16;

    use super::{Lanes, Loop};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    pub(super) unsafe fn run_avx512<T: Loop>(body: T) -> T::Output {
        body.run::<Avx512>()
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn run_avx2<T: Loop>(body: T) -> T::Output {
        body.run::<Avx2>()
    }

    const ROUNDING: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

    #[derive(Clone, Copy)]
    pub(super) struct Avx512(__m512);

    impl Lanes for Avx512 {
        const COUNT: usize = 16;
        const ROWS: usize = 8;

        #[inline(always)]
        fn splat(number: f32) -> Self {
            Self(unsafe { _mm512_set1_ps(number) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) };
        }

        #[inline(always)]
        unsafe fn load_halves(from: *const f16) -> Self {
            Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
        }

        #[inline(always)]
        unsafe fn store_halves(self, to: *mut f16) {
            unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) };
        }

        #[inline(always)]
        unsafe fn load_bytes(from: *const i8) -> Self {
            Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn store_bytes(self, to: *mut i8) {
            unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(self.0))) };
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Self(unsafe { _mm512_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn div(self, other: Self) -> Self {
            Self(unsafe { _mm512_div_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            Self(unsafe { _mm512_max_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            Self(unsafe { _mm512_min_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
        }

        #[inline(always)]
        fn round(self) -> Self {
            Self(unsafe { _mm512_roundscale_ps::<ROUNDING>(self.0) })
        }

        #[inline(always)]
        fn rounded_to_half(self) -> Self {
            Self(unsafe { _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) })
        }

        #[inline(always)]
        fn scale(self, power: Self) -> Self {
            Self(unsafe { _mm512_scalef_ps(self.0, power.0) })
        }

        #[inline(always)]
        fn keep_where_above(self, other: Self, limit: f32) -> Self {
            let above = unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(other.0, _mm512_set1_ps(limit)) };
            Self(unsafe { _mm512_maskz_mov_ps(above, self.0) })
        }

        #[inline(always)]
        fn first(self) -> f32 {
            unsafe { _mm512_cvtss_f32(self.0) }
        }

        #[inline(always)]
        fn to_sum(self) -> f32 {
            unsafe { _mm512_reduce_add_ps(self.0) }
        }

        #[inline(always)]
        fn to_highest(self) -> f32 {
            unsafe { _mm512_reduce_max_ps(self.0) }
        }
    }

    #[derive(Clone, Copy)]
    pub(super) struct Avx2(__m256);

    impl Lanes for Avx2 {
        const COUNT: usize = 8;
        const ROWS: usize = 6;

        #[inline(always)]
        fn splat(number: f32) -> Self {
            Self(unsafe { _mm256_set1_ps(number) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm256_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) };
        }

        #[inline(always)]
        unsafe fn load_halves(from: *const f16) -> Self {
            Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
        }

        #[inline(always)]
        unsafe fn store_halves(self, to: *mut f16) {
            unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) };
        }

        #[inline(always)]
        unsafe fn load_bytes(from: *const i8) -> Self {
            Self(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn store_bytes(self, to: *mut i8) {
            unsafe {
                let wide = _mm256_cvtps_epi32(self.0);
                let halves =
                    _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
                _mm_storel_epi64(to.cast(), _mm_packs_epi16(halves, halves));
            }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Self(unsafe { _mm256_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Self(unsafe { _mm256_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn div(self, other: Self) -> Self {
            Self(unsafe { _mm256_div_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            Self(unsafe { _mm256_max_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            Self(unsafe { _mm256_min_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
        }

        #[inline(always)]
        fn round(self) -> Self {
            Self(unsafe { _mm256_round_ps::<ROUNDING>(self.0) })
        }

        #[inline(always)]
        fn rounded_to_half(self) -> Self {
            Self(unsafe { _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) })
        }

        #[inline(always)]
        fn scale(self, power: Self) -> Self {
            unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(power.0));
                Self(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), exponent)))
            }
        }

        #[inline(always)]
        fn keep_where_above(self, other: Self, limit: f32) -> Self {
            let above = unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(other.0, _mm256_set1_ps(limit)) };
            Self(unsafe { _mm256_and_ps(above, self.0) })
        }

        #[inline(always)]
        fn first(self) -> f32 {
            unsafe { _mm256_cvtss_f32(self.0) }
        }

        #[inline(always)]
        fn to_sum(self) -> f32 {
            unsafe {
                let fours = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let twos = _mm_add_ps(fours, _mm_movehl_ps(fours, fours));
                _mm_cvtss_f32(_mm_add_ss(twos, _mm_movehdup_ps(twos)))
            }
        }

        #[inline(always)]
        fn to_highest(self) -> f32 {
            unsafe {
                let fours = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let twos = _mm_max_ps(fours, _mm_movehl_ps(fours, fours));
                _mm_cvtss_f32(_mm_max_ss(twos, _mm_movehdup_ps(twos)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a mut [f32]);

    impl Loop for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self) {
            for chunk in self.0.chunks_exact_mut(L::COUNT) {
                // SAFETY: a chunk holds so many numbers.
                unsafe { exp(L::load(chunk.as_ptr())).store(chunk.as_mut_ptr()) };
            }
        }
    }

    #[test]
    fn exp_is_near_the_true_one_on_every_processor() {
        let powers: Vec<f32> = (0..16_000).map(|index| (index as f32 - 8_000.0) * 0.0108).collect();
        for processor in Processor::available() {
            let mut results = powers.clone();
            run_on(processor, Exp(&mut results));
            for (power, result) in powers.iter().zip(&results) {
                let exact = f64::from(*power).exp();
                let apart = (f64::from(*result) / exact - 1.0).abs();
                assert!(apart < 3e-7, "{processor:?}: e^{power} is {exact}, not {result}");
            }
            let mut ends = [f32::NEG_INFINITY; 16];
            ends[1] = -200.0;
            ends[2] = 0.0;
            run_on(processor, Exp(&mut ends));
            assert_eq!(ends[..3], [0.0, 0.0, 1.0], "{processor:?}");
        }
    }

    struct Fold<'a>(&'a [f32; 16]);

    impl Loop for Fold<'_> {
        type Output = (f32, f32);

        #[inline(always)]
        fn run<L: Lanes>(self) -> (f32, f32) {
            // SAFETY: the array holds at least so many numbers.
            let lanes = unsafe { L::load(self.0.as_ptr()) };
            (lanes.to_sum() * L::COUNT as f32, lanes.to_highest())
        }
    }

    #[test]
    fn folds_see_every_lane() {
        for processor in Processor::available() {
            for place in 0..8 {
                let mut numbers = [-1.0; 16];
                numbers[place] = 1.0;
                let (sum, highest) = run_on(processor, Fold(&numbers));
                let lanes = if sum == -14.0 * 16.0 { 16.0 } else { 8.0 };
                assert_eq!(sum, (2.0 - lanes) * lanes, "{processor:?}");
                assert_eq!(highest, 1.0);
            }
        }
    }
}
