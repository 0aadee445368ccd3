//! What stands between the two products of a feed-forward block.

use super::lanes::{MultiplyAdd, vectorized};

/// eˣ, to within two units in the last place; arguments are held to where the result is a normal number.
#[inline(always)]
pub(crate) fn exponential<M: MultiplyAdd>(x: f32) -> f32 {
    // Adding this leaves the whole part in the low bits.
    const WHOLE: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = M::multiply_add(x, std::f32::consts::LOG2_E, WHOLE);
    let whole = shifted - WHOLE;
    let rest = M::multiply_add(whole, -LN_2_LOW, M::multiply_add(whole, -LN_2_HIGH, x));
    let mut power = 0.001_394_110_8;
    for coefficient in [0.008_375_126, 0.041_666_35, 0.166_664_15, 0.5, 1.0, 1.0] {
        power = M::multiply_add(power, rest, coefficient);
    }
    f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// The error function, to within 4e-7: an odd rational function fitted to it where it is not yet one.
#[inline(always)]
fn error_function<M: MultiplyAdd>(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut over = 1.974_686_7e-6;
    for coefficient in
        [2.880_183e-4, 0.004_003_313, 0.053_466_49, 0.196_243_42, std::f32::consts::FRAC_2_SQRT_PI]
    {
        over = M::multiply_add(over, square, coefficient);
    }
    let mut under = 3.747_812_3e-5;
    for coefficient in [0.001_216_247_8, 0.015_443_802, 0.116_473_89, 0.507_247_4, 1.0] {
        under = M::multiply_add(under, square, coefficient);
    }
    x * over / under
}

#[inline(always)]
fn gelu_of<M: MultiplyAdd>(x: f32) -> f32 {
    let half = 0.5 * x;
    M::multiply_add(half, error_function::<M>(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

#[inline(always)]
fn gelu_tanh_of<M: MultiplyAdd>(x: f32) -> f32 {
    // x · (1 + tanh u) / 2 is x / (1 + e⁻²ᵘ).
    const TWICE: f32 = -1.595_769;
    let cubic = M::multiply_add(0.044_715 * x * x, x, x);
    x / (1.0 + exponential::<M>(TWICE * cubic))
}

#[inline(always)]
fn silu_of<M: MultiplyAdd>(x: f32) -> f32 {
    x / (1.0 + exponential::<M>(-x))
}

/// A nonlinear function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x), by the error function.
    Gelu,
    /// The same by its approximation with tanh.
    GeluTanh,
    /// x · σ(x).
    Silu,
    /// The greater of x and 0.
    Relu,
}

impl Activation {
    /// Replaces each number.
    pub fn apply(self, numbers: &mut [f32]) {
        match self {
            Self::Gelu => gelu(numbers),
            Self::GeluTanh => gelu_tanh(numbers),
            Self::Silu => silu(numbers),
            Self::Relu => numbers.iter_mut().for_each(|x| *x = x.max(0.0)),
        }
    }

    /// Writes act(first half) · second half of each row.
    ///
    /// # Panics
    /// If the rows are not twice as wide as what comes out, `width` numbers each.
    pub fn apply_gated(self, rows: &mut [f32], width: usize, out: &mut [f32]) {
        assert_eq!(rows.len(), 2 * out.len(), "numbers in rows of {}", 2 * width);
        for (row, out) in rows.chunks_exact_mut(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at_mut(width);
            self.apply(gate);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = *gate * *up;
            }
        }
    }
}

#[inline(always)]
fn gelu_body<M: MultiplyAdd>(numbers: &mut [f32]) {
    for x in numbers {
        *x = gelu_of::<M>(*x);
    }
}

#[inline(always)]
fn gelu_tanh_body<M: MultiplyAdd>(numbers: &mut [f32]) {
    for x in numbers {
        *x = gelu_tanh_of::<M>(*x);
    }
}

#[inline(always)]
fn silu_body<M: MultiplyAdd>(numbers: &mut [f32]) {
    for x in numbers {
        *x = silu_of::<M>(*x);
    }
}

vectorized!(fn gelu(numbers: &mut [f32]) = gelu_body);
vectorized!(fn gelu_tanh(numbers: &mut [f32]) = gelu_tanh_body);
vectorized!(fn silu(numbers: &mut [f32]) = silu_body);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::lanes::{Fused, Separate};

    fn arguments() -> impl Iterator<Item = f32> {
        (-120_000..=120_000).map(|step| step as f32 / 10_000.0)
    }

    /// By its series, in which all terms have one sign.
    fn exact_error_function(x: f64) -> f64 {
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= 2.0 * x * x / (2 * n + 1) as f64;
            sum += term;
        }
        (2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum).clamp(-1.0, 1.0)
    }

    #[test]
    fn exponentials_are_right_to_two_units() {
        for x in arguments().map(|x| x * 7.0) {
            let exact = f64::from(x).exp();
            for found in [exponential::<Fused>(x), exponential::<Separate>(x)] {
                assert!((f64::from(found) / exact - 1.0).abs() < 2.5e-7, "e^{x} is {exact}, not {found}");
            }
        }
        assert!(exponential::<Fused>(f32::NEG_INFINITY) < 1e-37);
        assert!(exponential::<Fused>(f32::INFINITY).is_finite());
    }

    #[test]
    fn activations_are_what_they_are_called() {
        for x in arguments() {
            let exact = f64::from(x);
            let tanh = (2.0 / std::f64::consts::PI).sqrt() * (exact + 0.044_715 * exact.powi(3));
            let expected = [
                (Activation::Gelu, 0.5 * exact * (1.0 + exact_error_function(exact / 2f64.sqrt()))),
                (Activation::GeluTanh, 0.5 * exact * (1.0 + tanh.tanh())),
                (Activation::Silu, exact / (1.0 + (-exact).exp())),
                (Activation::Relu, exact.max(0.0)),
            ];
            for (activation, expected) in expected {
                let mut found = [x; 3];
                activation.apply(&mut found);
                let off = (f64::from(found[2]) - expected).abs();
                assert!(off < 2e-6, "{activation:?}({x}) is {expected}, not {}", found[2]);
            }
        }
    }

    #[test]
    fn the_first_half_is_the_gate() {
        let mut out = [0.0; 2];
        Activation::Relu.apply_gated(&mut [2.0, -3.0, 5.0, 7.0], 2, &mut out);
        assert_eq!(out, [10.0, 0.0]);
    }
}
