//! Rotary position embedding of one head.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]

use crate::lanes::{Lanes, Loop, run};

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// Neighbours.
    Interleaved,
    /// Element i with element i + half.
    Halves,
}

/// Rotates the first elements of a head, two for each angle; the rest stays.
///
/// # Panics
/// If there are not as many sines as cosines, or more than half of the head's elements.
pub fn rotate(pairs: RopePairs, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(cos.len() == sin.len() && 2 * cos.len() <= head.len(), "angles of a head");
    match pairs {
        RopePairs::Interleaved => {
            for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                *pair = [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos];
            }
        }
        RopePairs::Halves => run(Halves { head, cos, sin }),
    }
}

struct Halves<'a> {
    head: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Loop for Halves<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let half = self.cos.len();
        let (first, second) = self.head.split_at_mut(half);
        let whole = half / L::COUNT * L::COUNT;
        for at in (0..whole).step_by(L::COUNT) {
            // SAFETY: all four hold `half` numbers.
            unsafe {
                let (x, y) = (L::load(first.as_ptr().add(at)), L::load(second.as_ptr().add(at)));
                let (cos, sin) = (L::load(self.cos.as_ptr().add(at)), L::load(self.sin.as_ptr().add(at)));
                x.mul(cos).sub(y.mul(sin)).store(first.as_mut_ptr().add(at));
                x.mul(sin).add(y.mul(cos)).store(second.as_mut_ptr().add(at));
            }
        }
        for at in whole..half {
            let (x, y, cos, sin) = (first[at], second[at], self.cos[at], self.sin[at]);
            first[at] = x * cos - y * sin;
            second[at] = x * sin + y * cos;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_turn_and_the_rest_stays() {
        for half in [1, 2, 20, 32] {
            let angles: Vec<f32> = (0..half).map(|pair| pair as f32 * 0.3).collect();
            let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
            let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
            let head: Vec<f32> = (0..2 * half + 4).map(|index| index as f32 - 7.0).collect();
            for pairs in [RopePairs::Interleaved, RopePairs::Halves] {
                let mut turned = head.clone();
                rotate(pairs, &mut turned, &cos, &sin);
                for pair in 0..half {
                    let (a, b) = match pairs {
                        RopePairs::Interleaved => (2 * pair, 2 * pair + 1),
                        RopePairs::Halves => (pair, pair + half),
                    };
                    let expected = head[a] * cos[pair] - head[b] * sin[pair];
                    assert!((turned[a] - expected).abs() < 1e-5, "{pairs:?} {half}");
                    let expected = head[a] * sin[pair] + head[b] * cos[pair];
                    assert!((turned[b] - expected).abs() < 1e-5, "{pairs:?} {half}");
                }
                assert_eq!(turned[2 * half..], head[2 * half..]);
            }
        }
    }
}
