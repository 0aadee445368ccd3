//! Layer normalisation.

use super::lanes::{LANES, MultiplyAdd, sum_lanes, vectorized};

/// Normalises each row of `weight.len()` numbers to mean 0 and variance 1, then scales and shifts it.
///
/// # Panics
/// If the rows are not whole, or there is a bias that is not as wide.
pub fn layer_norm(rows: &mut [f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32) {
    assert!(rows.len().is_multiple_of(weight.len()), "numbers in whole rows of {}", weight.len());
    assert!(bias.is_none_or(|bias| bias.len() == weight.len()), "biases");
    for row in rows.chunks_exact_mut(weight.len()) {
        normalize(row, weight, bias, epsilon);
    }
}

/// Divides a row by its length; one of length 0 stays as it is.
pub fn unit_length(row: &mut [f32]) {
    let square: f64 = row.iter().map(|number| f64::from(*number) * f64::from(*number)).sum();
    if square > 0.0 {
        let factor = 1.0 / square.sqrt();
        for number in row {
            *number = (f64::from(*number) * factor) as f32;
        }
    }
}

#[inline(always)]
fn normalize_body<M: MultiplyAdd>(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32) {
    let count = row.len() as f32;
    let mean = sum::<M>(row, |number, sum| sum + number) / count;
    let variance = sum::<M>(row, |number, sum| M::multiply_add(number - mean, number - mean, sum)) / count;
    let factor = 1.0 / (variance + epsilon).sqrt();
    match bias {
        Some(bias) => {
            for ((number, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
                *number = M::multiply_add((*number - mean) * factor, *weight, *bias);
            }
        }
        None => {
            for (number, weight) in row.iter_mut().zip(weight) {
                *number = (*number - mean) * factor * weight;
            }
        }
    }
}

#[inline(always)]
fn sum<M: MultiplyAdd>(row: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for numbers in whole {
        for lane in 0..LANES {
            sums[lane] = add(numbers[lane], sums[lane]);
        }
    }
    for (number, sum) in rest.iter().zip(&mut sums) {
        *sum = add(*number, *sum);
    }
    sum_lanes(sums)
}

vectorized!(fn normalize(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32) = normalize_body);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_normalised_each_for_itself() {
        for width in [1usize, 5, 16, 33, 384] {
            let weight: Vec<f32> = (0..width).map(|index| 0.5 + index as f32 / width as f32).collect();
            let bias: Vec<f32> = (0..width).map(|index| index as f32 / 10.0).collect();
            let rows: Vec<f32> =
                (0..2 * width).map(|index| ((index * 37 + 11) % 101) as f32 - 20.0).collect();
            for bias in [None, Some(&bias[..])] {
                let mut found = rows.clone();
                layer_norm(&mut found, &weight, bias, 1e-5);
                for (row, found) in rows.chunks_exact(width).zip(found.chunks_exact(width)) {
                    let row: Vec<f64> = row.iter().map(|number| f64::from(*number)).collect();
                    let mean = row.iter().sum::<f64>() / width as f64;
                    let variance =
                        row.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / width as f64;
                    for (index, found) in found.iter().enumerate() {
                        let normal = (row[index] - mean) / (variance + 1e-5).sqrt();
                        let bias = bias.map_or(0.0, |bias| f64::from(bias[index]));
                        let expected = normal * f64::from(weight[index]) + bias;
                        assert!(
                            (f64::from(*found) - expected).abs() < 2e-5,
                            "{width}: {expected}, not {found}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_vector_gets_length_one_and_none_stays_none() {
        let mut row = [3.0, 0.0, -4.0];
        unit_length(&mut row);
        assert_eq!(row, [0.6, 0.0, -0.8]);
        let mut none = [0.0; 2];
        unit_length(&mut none);
        assert_eq!(none, [0.0; 2]);
    }
}
