//! The nonlinearities of gated feed-forward parts, and soft caps.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]

use crate::lanes::{Lanes, Loop, exp, run, tanh};

/// A nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// GELU by its approximation with the hyperbolic tangent.
    GeluTanh,
}

impl Activation {
    /// Writes the activated `gate` times `up` to `out`, number by number.
    ///
    /// # Panics
    /// If the three are not of one length.
    pub fn gate(self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len(), "numbers of a gate");
        match self {
            Self::Silu => run(Gate::<SiluOf> { input: gate, up, out, of: SiluOf }),
            Self::GeluTanh => run(Gate::<GeluOf> { input: gate, up, out, of: GeluOf }),
        }
    }
}

/// Replaces each number x by cap · tanh(x / cap).
pub fn soft_cap(numbers: &mut [f32], cap: f32) {
    run(Cap { numbers, cap });
}

trait Nonlinear: Copy {
    fn of<L: Lanes>(self, number: L) -> L;
}

#[derive(Clone, Copy)]
struct SiluOf;

impl Nonlinear for SiluOf {
    #[inline(always)]
    fn of<L: Lanes>(self, number: L) -> L {
        number.div(L::splat(1.0).add(exp(L::splat(0.0).sub(number))))
    }
}

#[derive(Clone, Copy)]
struct GeluOf;

impl Nonlinear for GeluOf {
    /// x · (1 + tanh u) / 2 is x · sigmoid(2 u).
    #[inline(always)]
    fn of<L: Lanes>(self, number: L) -> L {
        const ROOT_OF_8_BY_PI: f32 = 1.595_769;
        const CUBIC: f32 = 0.044_715;
        let bent = number.mul(number).mul_add(L::splat(CUBIC), L::splat(1.0));
        let twice = number.mul(bent).mul(L::splat(-ROOT_OF_8_BY_PI));
        number.div(L::splat(1.0).add(exp(twice)))
    }
}

struct Gate<'a, N> {
    input: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
    of: N,
}

impl<N: Nonlinear> Loop for Gate<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mut at = 0;
        while at + L::COUNT <= self.out.len() {
            // SAFETY: all three hold as many numbers from here on.
            unsafe {
                let gate = self.of.of(L::load(self.input.as_ptr().add(at)));
                gate.mul(L::load(self.up.as_ptr().add(at))).store(self.out.as_mut_ptr().add(at));
            }
            at += L::COUNT;
        }
        for at in at..self.out.len() {
            self.out[at] = self.of.of(L::splat(self.input[at])).first() * self.up[at];
        }
    }
}

struct Cap<'a> {
    numbers: &'a mut [f32],
    cap: f32,
}

impl Loop for Cap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (cap, inverse) = (L::splat(self.cap), L::splat(1.0 / self.cap));
        let mut chunks = self.numbers.chunks_exact_mut(L::COUNT);
        for chunk in &mut chunks {
            // SAFETY: a chunk holds so many numbers.
            unsafe { tanh(L::load(chunk.as_ptr()).mul(inverse)).mul(cap).store(chunk.as_mut_ptr()) };
        }
        for number in chunks.into_remainder() {
            *number = tanh(L::splat(*number).mul(inverse)).mul(cap).first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::run_on;
    use crate::processor::Processor;

    fn numbers() -> Vec<f32> {
        (0..3_003).map(|index| (index as f32 - 1_500.0) / 60.0).chain([-300.0, 300.0]).collect()
    }

    fn assert_near(result: f32, exact: f64, what: &str) {
        let bound = 4e-6 * exact.abs() + 1e-10;
        assert!((f64::from(result) - exact).abs() <= bound, "{what}: {result} is not {exact}");
    }

    #[test]
    fn gates_are_near_the_true_ones_on_every_processor() {
        let gate = numbers();
        let up = vec![1.5; gate.len()];
        for processor in Processor::available() {
            let mut silu = vec![0.0; gate.len()];
            run_on(processor, Gate { input: &gate, up: &up, out: &mut silu, of: SiluOf });
            let mut gelu = vec![0.0; gate.len()];
            run_on(processor, Gate { input: &gate, up: &up, out: &mut gelu, of: GeluOf });
            for (index, number) in gate.iter().enumerate() {
                let x = f64::from(*number);
                // Far below, both are smaller than any number that counts.
                if x > -80.0 {
                    assert_near(silu[index], 1.5 * x / (1.0 + (-x).exp()), "silu");
                }
                if x > -8.0 {
                    let bent = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                    // tanh u = 1 - 2 / (e^2u + 1) loses its digits far below; this form does not.
                    assert_near(gelu[index], 1.5 * x / (1.0 + (-2.0 * bent).exp()), "gelu");
                }
                assert!(silu[index].is_finite() && gelu[index].is_finite());
            }
        }
    }

    #[test]
    fn caps_bend_and_hold() {
        for processor in Processor::available() {
            let mut capped = numbers();
            run_on(processor, Cap { numbers: &mut capped, cap: 5.0 });
            for (number, result) in numbers().iter().zip(&capped) {
                let exact = 5.0 * (f64::from(*number) / 5.0).tanh();
                assert!((f64::from(*result) - exact).abs() < 2e-6, "{number}: {result} is not {exact}");
            }
        }
    }
}
