//! RMS norms: numbers divided by the root of their mean square, times a weight each.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]

use crate::lanes::{Lanes, Loop, run};

/// Writes the norm of `row` to `out`.
///
/// # Panics
/// If the three are not of one length.
pub fn rms_norm(row: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(row.len() == weight.len() && row.len() == out.len(), "numbers of a norm");
    run(Norm { row: row.as_ptr(), weight, epsilon, out });
}

/// Replaces `row` by its norm.
///
/// # Panics
/// If the two are not of one length.
pub fn rms_norm_in_place(row: &mut [f32], weight: &[f32], epsilon: f32) {
    assert_eq!(row.len(), weight.len(), "numbers of a norm");
    run(Norm { row: row.as_ptr(), weight, epsilon, out: row });
}

/// Adds `scale` times the norm of `row` to `sum`.
///
/// # Panics
/// If the three are not of one length.
pub fn add_rms_norm(row: &[f32], weight: &[f32], epsilon: f32, scale: f32, sum: &mut [f32]) {
    assert!(row.len() == weight.len() && row.len() == sum.len(), "numbers of a norm");
    run(AddNorm { row, weight, epsilon, scale, sum });
}

/// What stands at `row` may be `out` itself; each number is read before it is written.
struct Norm<'a> {
    row: *const f32,
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Loop for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let len = self.weight.len();
        let whole = len / L::COUNT * L::COUNT;
        let (row, weight, out) = (self.row, self.weight.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: all three hold `len` numbers.
        unsafe {
            let scale = inverse_root::<L>(row, len, self.epsilon);
            let scales = L::splat(scale);
            for at in (0..whole).step_by(L::COUNT) {
                L::load(row.add(at)).mul(scales).mul(L::load(weight.add(at))).store(out.add(at));
            }
            for at in whole..len {
                *out.add(at) = *row.add(at) * scale * *weight.add(at);
            }
        }
    }
}

struct AddNorm<'a> {
    row: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    scale: f32,
    sum: &'a mut [f32],
}

impl Loop for AddNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let len = self.weight.len();
        let whole = len / L::COUNT * L::COUNT;
        let (row, weight, sum) = (self.row.as_ptr(), self.weight.as_ptr(), self.sum.as_mut_ptr());
        // SAFETY: all three hold `len` numbers.
        unsafe {
            let scale = self.scale * inverse_root::<L>(row, len, self.epsilon);
            let scales = L::splat(scale);
            for at in (0..whole).step_by(L::COUNT) {
                let normed = L::load(row.add(at)).mul(scales).mul(L::load(weight.add(at)));
                L::load(sum.add(at)).add(normed).store(sum.add(at));
            }
            for at in whole..len {
                *sum.add(at) += *row.add(at) * scale * *weight.add(at);
            }
        }
    }
}

/// One divided by the root of the mean square, which is summed in two vectors, the even and the odd ones of the row.
///
/// # Safety
/// `len` numbers lie there.
#[inline(always)]
unsafe fn inverse_root<L: Lanes>(row: *const f32, len: usize, epsilon: f32) -> f32 {
    let (mut even, mut odd) = (L::splat(0.0), L::splat(0.0));
    let mut at = 0;
    // SAFETY: the loops stay below `len`.
    unsafe {
        while at + 2 * L::COUNT <= len {
            let (first, second) = (L::load(row.add(at)), L::load(row.add(at + L::COUNT)));
            even = first.mul_add(first, even);
            odd = second.mul_add(second, odd);
            at += 2 * L::COUNT;
        }
        let mut sum = even.add(odd).to_sum();
        for at in at..len {
            sum += *row.add(at) * *row.add(at);
        }
        1.0 / (sum / len as f32 + epsilon).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::run_on;
    use crate::processor::Processor;

    #[test]
    fn a_norm_is_what_its_name_says() {
        for len in [1, 8, 30, 64, 67, 576] {
            let row: Vec<f32> = (0..len).map(|index| (index as f32 * 0.7).sin() * 3.0).collect();
            let weight: Vec<f32> = (0..len).map(|index| 1.0 + index as f32 / 100.0).collect();
            let square: f64 = row.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>() / len as f64;
            for processor in Processor::available() {
                let mut out = vec![0.0; len];
                run_on(processor, Norm { row: row.as_ptr(), weight: &weight, epsilon: 1e-5, out: &mut out });
                for index in 0..len {
                    let exact = f64::from(row[index]) / (square + 1e-5).sqrt() * f64::from(weight[index]);
                    assert!((f64::from(out[index]) - exact).abs() < 1e-5, "{processor:?}, {len} numbers");
                }
            }
            let mut in_place = row.clone();
            rms_norm_in_place(&mut in_place, &weight, 1e-5);
            let mut out = vec![0.0; len];
            rms_norm(&row, &weight, 1e-5, &mut out);
            assert_eq!(in_place, out);
            let mut sum = row.clone();
            add_rms_norm(&row, &weight, 1e-5, 0.5, &mut sum);
            let halved = row.iter().zip(&out).map(|(number, normed)| number + 0.5 * normed);
            assert!(sum.iter().zip(halved).all(|(sum, exact)| (sum - exact).abs() < 1e-6));
        }
    }
}
