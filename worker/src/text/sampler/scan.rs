//! Loops over a whole row of logits, written so that a compiler can make vectors of them.
//!
//! Weights are relative: that of the highest logit is 1, that of any other `exp((logit - highest) * scale)`.

/// Independent lanes of a loop.
const LANES: usize = 16;
/// Logits whose weights are summed at once: few enough that sums in single precision stay exact to a part in a million.
pub const BLOCK: usize = 512;
/// Weights below exp of this are nothing.
const EXPONENT_MIN: f32 = -87.0;

/// The highest of the logits; -infinity if none is a number.
pub fn highest(logits: &[f32]) -> f32 {
    let higher = |left: f32, right: f32| if right > left { right } else { left };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = higher(*lane, *logit);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, higher)
}

/// The token of the highest logit, the lowest id of equals.
#[expect(clippy::float_cmp, reason = "the highest is one of them, to the bit")]
pub fn likeliest(logits: &[f32]) -> u32 {
    let highest = highest(logits);
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let full = chunks.iter().position(|chunk| {
        let mut found = false;
        for logit in chunk {
            found |= *logit == highest;
        }
        found
    });
    let (start, last) = match full {
        Some(index) => (index * LANES, &chunks[index][..]),
        None => (chunks.len() * LANES, rest),
    };
    last.iter().position(|logit| *logit == highest).map_or(0, |offset| start + offset) as u32
}

/// The weight of a logit that is not above the highest. 0 for what is no number.
pub fn weight(logit: f32, highest: f32, scale: f32) -> f32 {
    exp((logit - highest) * scale)
}

/// The sum of the weights of at most [`BLOCK`] logits.
pub fn block_total(block: &[f32], highest: f32, scale: f32) -> f64 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane += weight(*logit, highest, scale);
        }
    }
    let rest = rest.iter().map(|logit| f64::from(weight(*logit, highest, scale)));
    lanes.iter().map(|lane| f64::from(*lane)).chain(rest).sum()
}

/// The sum of all weights.
pub fn total(logits: &[f32], highest: f32, scale: f32) -> f64 {
    logits.chunks(BLOCK).map(|block| block_total(block, highest, scale)).sum()
}

/// Calls `found` with each logit above `floor` and its id. What `found` gives is the floor from there on.
pub fn above(logits: &[f32], mut floor: f32, mut found: impl FnMut(u32, f32) -> f32) {
    for (index, chunk) in logits.chunks(LANES).enumerate() {
        let mut any = false;
        for logit in chunk {
            any |= *logit > floor;
        }
        if !any {
            continue;
        }
        for (offset, logit) in chunk.iter().enumerate() {
            if *logit > floor {
                floor = found((index * LANES + offset) as u32, *logit);
            }
        }
    }
}

/// exp for arguments up to 0, to 2 units in the last place, without a branch: a power of two by the exponent's bits, the
/// rest by a polynomial (its coefficients are those of Cephes' expf).
#[inline]
fn exp(argument: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // A comparison with what is no number is false.
    let bounded = if argument > EXPONENT_MIN { argument } else { EXPONENT_MIN };
    let rounded = bounded * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let rest = bounded - power * LN_2_HIGH - power * LN_2_LOW;
    let mut polynomial = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        polynomial = polynomial * rest + coefficient;
    }
    let value = polynomial * rest * rest + rest + 1.0;
    let scaled = value * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if argument > EXPONENT_MIN { scaled } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exp() {
        assert_eq!(exp(0.0).to_bits(), 1f32.to_bits());
        for step in 0..8_600 {
            let argument = -0.01 * step as f32;
            let exact = f64::from(argument).exp();
            let error = (f64::from(exp(argument)) / exact - 1.0).abs();
            assert!(error < 3e-7, "exp({argument}) is off by {error}");
        }
        for nothing in [-87.0, -1e30, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp(nothing).to_bits(), 0f32.to_bits(), "{nothing}");
        }
    }

    #[test]
    fn whole_rows_and_their_ends_are_seen() {
        for len in [1, 15, 16, 17, 33, 700] {
            for at in 0..len {
                let mut logits: Vec<f32> = (0..len).map(|id| -(id as f32) - 10.0).collect();
                logits[at] = 3.0;
                assert_eq!((highest(&logits), likeliest(&logits)), (3.0, at as u32));
                let mut found = Vec::new();
                above(&logits, -10.0, |id, _| {
                    found.push(id);
                    -10.0
                });
                assert_eq!(found, [at as u32]);
            }
            assert!((total(&vec![2.5; len], 2.5, 1.0) - len as f64).abs() < 1e-9);
        }
    }
}
