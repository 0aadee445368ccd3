//! Products of every format, by every family of instructions that works here.

use half::f16;
use proptest::prelude::*;

use super::*;
use crate::dequantize;
use crate::rows::{BLOCK, Place};

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Between -1 and 1.
    fn number(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// What the stored weights look like.
#[derive(Clone, Copy, Debug)]
enum Look {
    Random,
    /// All bits of all codes and fractions set, and the largest scales.
    Highest,
    /// The smallest numbers that are not zero.
    Tiny,
    Zero,
}

const LOOKS: [Look; 4] = [Look::Random, Look::Highest, Look::Tiny, Look::Zero];

/// Where a format's blocks have numbers of 16 bits.
fn number_places(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q6K => &[208],
        _ => &[0],
    }
}

fn stored(format: Format, elements: usize, look: Look, random: &mut Random) -> Vec<u8> {
    let byte = |random: &mut Random| match look {
        Look::Highest => 255,
        _ => random.next() as u8,
    };
    let mut bytes: Vec<u8> = (0..format.bytes(elements).unwrap()).map(|_| byte(random)).collect();
    if !format.is_quantized() {
        for number in bytes.chunks_exact_mut(format.block_bytes()) {
            let value = random.number();
            match format {
                Format::F32 => number.copy_from_slice(&value.to_le_bytes()),
                Format::F16 => number.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                _ => number.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
            }
        }
        return bytes;
    }
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for at in number_places(format) {
            let value = match look {
                Look::Random => f16::from_f32(random.number() / 16.0),
                Look::Highest => f16::MAX,
                Look::Tiny => f16::MIN_POSITIVE_SUBNORMAL,
                Look::Zero => f16::ZERO,
            };
            block[*at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

fn rows(pool: &Pool, numbers: &[f32], width: usize) -> Rows {
    let mut rows = Rows::new();
    rows.fill(pool, numbers.len() / width, width, |row, out| {
        out.copy_from_slice(&numbers[row * width..(row + 1) * width]);
    });
    rows
}

fn product(processor: Processor, pool: &Pool, inputs: usize, source: &Source<'_>, rows: &Rows) -> Vec<f32> {
    let matrix = Matrix::pack_for(processor, pool, inputs, std::slice::from_ref(source)).unwrap();
    let mut out = vec![f32::NAN; rows.count() * matrix.outputs()];
    matrix.multiply(pool, rows, &mut out);
    out
}

/// The quantised rows as plain numbers again.
fn restored(rows: &Rows) -> Vec<f64> {
    let (count, width) = (rows.count(), rows.width());
    let mut numbers = vec![0.0; count * width];
    for place in Place::all(count) {
        let panel = rows.panel(place);
        for (at, quants) in panel.quants.as_chunks::<BLOCK>().0.iter().enumerate() {
            let (block, row) = (at / place.count, place.first + at % place.count);
            let out = &mut numbers[row * width + block * BLOCK..][..BLOCK];
            for (out, quant) in out.iter_mut().zip(quants) {
                *out = f64::from(*quant) * f64::from(panel.scales[at]);
            }
        }
    }
    numbers
}

#[test]
fn quantised_rows_are_near_the_numbers_that_were_given() {
    let pool = Pool::new(2);
    let mut random = Random(1);
    for count in [1, 7, 16, 31, 70] {
        let width = 96;
        let numbers: Vec<f32> = (0..count * width).map(|_| random.number() * 8.0).collect();
        let rows = rows(&pool, &numbers, width);
        for (row, restored) in restored(&rows).chunks_exact(width).enumerate() {
            assert_eq!(rows.row(row), &numbers[row * width..(row + 1) * width]);
            for (restored, number) in restored.iter().zip(rows.row(row)) {
                assert!((restored - f64::from(*number)).abs() < 0.04, "{restored} for {number}");
            }
        }
    }
}

#[test]
fn rows_of_extremes_are_quantised_without_harm() {
    let pool = Pool::new(1);
    let numbers: Vec<f32> = [0.0f32, f32::MAX, f32::MIN_POSITIVE, -1e-30].repeat(BLOCK).into_iter().collect();
    let mut by_block = vec![0.0; 4 * BLOCK];
    for (index, number) in by_block.iter_mut().enumerate() {
        *number = numbers[index / BLOCK];
    }
    let restored = restored(&rows(&pool, &by_block, 4 * BLOCK));
    for (restored, number) in restored.iter().zip(&by_block) {
        let error = (restored - f64::from(*number)).abs();
        assert!(error <= f64::from(number.abs()) * 0.01, "{restored} for {number}");
    }
}

proptest! {
    #[test]
    fn panels_hold_every_row_once(count in 0usize..200) {
        let mut next = 0;
        for place in Place::all(count) {
            prop_assert_eq!(place.first, next);
            prop_assert!(place.count.is_power_of_two() && place.count <= 16);
            next += place.count;
        }
        prop_assert_eq!(next, count);
    }
}

#[test]
fn products_are_those_of_the_dequantised_weights() {
    let pool = Pool::new(2);
    let (inputs, outputs, count) = (512, 37, 5);
    let mut random = Random(2);
    for format in Format::ALL {
        for look in LOOKS {
            let bytes = stored(format, inputs * outputs, look, &mut random);
            let numbers: Vec<f32> = (0..count * inputs).map(|_| random.number()).collect();
            let rows = rows(&pool, &numbers, inputs);
            let source = Source { format, outputs, bytes: &bytes };
            let found = product(Processor::Plain, &pool, inputs, &source, &rows);
            let mut weights = vec![0.0; inputs * outputs];
            dequantize(format, &bytes, &mut weights);
            let inputs_used = if format.is_quantized() {
                restored(&rows)
            } else {
                numbers.iter().map(|number| f64::from(*number)).collect()
            };
            for (at, found) in found.iter().enumerate() {
                let row = &inputs_used[at / outputs * inputs..][..inputs];
                let weights = &weights[at % outputs * inputs..][..inputs];
                let products = row.iter().zip(weights).map(|(value, weight)| value * f64::from(*weight));
                let (sum, size) =
                    products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()));
                // The rounding of a block's sum is the largest error, and only where a minimum is stored.
                let bound = size * 2e-3 + 1e-9;
                assert!(
                    (f64::from(*found) - sum).abs() <= bound,
                    "{format} {look:?} {at}: {found} for {sum} ± {bound}"
                );
            }
        }
    }
}

#[test]
fn every_processor_gives_the_same_bits() {
    let pool = Pool::new(2);
    let mut random = Random(3);
    let best = Processor::available();
    for format in Format::ALL.into_iter().filter(|format| format.is_quantized()) {
        for look in LOOKS {
            for (inputs, outputs) in [(256, 16), (768, 33), (format.block_len() * 3, 5)] {
                let bytes = stored(format, inputs * outputs, look, &mut random);
                let source = Source { format, outputs, bytes: &bytes };
                for count in [1, 2, 3, 4, 8, 16, 33] {
                    let numbers: Vec<f32> = (0..count * inputs).map(|_| random.number() * 100.0).collect();
                    let rows = rows(&pool, &numbers, inputs);
                    let expected = product(Processor::Plain, &pool, inputs, &source, &rows);
                    for processor in &best {
                        let found = product(*processor, &pool, inputs, &source, &rows);
                        assert_eq!(found, expected, "{processor:?}, {format}, {look:?}, {count} rows");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_company_or_the_threads() {
    let (inputs, outputs) = (256, 50);
    let mut random = Random(4);
    for format in Format::ALL {
        let bytes = stored(format, inputs * outputs, Look::Random, &mut random);
        let source = Source { format, outputs, bytes: &bytes };
        let numbers: Vec<f32> = (0..33 * inputs).map(|_| random.number()).collect();
        let one = Pool::new(1);
        let alone: Vec<f32> = numbers
            .chunks_exact(inputs)
            .flat_map(|row| product(Processor::detect(), &one, inputs, &source, &rows(&one, row, inputs)))
            .collect();
        let pool = Pool::new(3);
        for count in 1..=33 {
            let rows = rows(&pool, &numbers[..count * inputs], inputs);
            let found = product(Processor::detect(), &pool, inputs, &source, &rows);
            assert_eq!(found, alone[..count * outputs], "{format}, {count} rows");
        }
    }
}

#[test]
fn stacked_sources_lie_side_by_side() {
    let pool = Pool::new(2);
    let mut random = Random(5);
    let inputs = 256;
    let parts = [(Format::Q4K, 20), (Format::F32, 3), (Format::Q6K, 16)];
    let bytes = parts.map(|(format, outputs)| stored(format, inputs * outputs, Look::Random, &mut random));
    let sources: Vec<Source<'_>> = parts
        .iter()
        .zip(&bytes)
        .map(|((format, outputs), bytes)| Source { format: *format, outputs: *outputs, bytes })
        .collect();
    let numbers: Vec<f32> = (0..3 * inputs).map(|_| random.number()).collect();
    let rows = rows(&pool, &numbers, inputs);
    let matrix = Matrix::pack(&pool, inputs, &sources).unwrap();
    assert_eq!((matrix.inputs(), matrix.outputs()), (inputs, 39));
    let mut out = vec![1.0; 3 * 39];
    matrix.multiply(&pool, &rows, &mut out);
    let mut first = 0;
    for source in &sources {
        let expected = product(Processor::detect(), &pool, inputs, source, &rows);
        for row in 0..3 {
            assert_eq!(
                &out[row * 39 + first..][..source.outputs],
                &expected[row * source.outputs..][..source.outputs]
            );
        }
        first += source.outputs;
    }
    let once = out.clone();
    matrix.multiply_add(&pool, &rows, &mut out);
    assert!(out.iter().zip(&once).all(|(twice, once)| *twice == once + once));
}

#[test]
fn packing_takes_hardly_more_room_than_the_file() {
    let pool = Pool::new(1);
    for format in Format::ALL {
        let bytes = vec![0; format.bytes(1024 * 64).unwrap()];
        let matrix = Matrix::pack(&pool, 1024, &[Source { format, outputs: 64, bytes: &bytes }]).unwrap();
        assert!(matrix.bytes() * 100 <= bytes.len() * 104, "{format}: {} of {}", matrix.bytes(), bytes.len());
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let pool = Pool::new(1);
    let error = |inputs, format, outputs, bytes: usize| {
        let bytes = vec![0; bytes];
        Matrix::pack(&pool, inputs, &[Source { format, outputs, bytes: &bytes }]).unwrap_err().to_string()
    };
    assert_eq!(
        error(100, Format::Q4K, 2, 288),
        "rows of 100 weights are no whole number of Q4_K blocks (256 weights each)"
    );
    assert_eq!(error(64, Format::Q4_0, 2, 71), "2 rows of 64 weights in Q4_0 have 71 bytes");
}
