//! How fast threads read memory that no cache holds: the floor under every decode step, which reads all weights once.
//!
//! `cargo run --release -p rbee-kernels --example memory [THREADS]`

#![expect(clippy::print_stdout, reason = "a program for people to run")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernels::{Format, Matrix, PackError, Pool, Source};

const BYTES: usize = 512 << 20;
const MEASURE: Duration = Duration::from_secs(2);
/// Of independent sums, so that adding keeps up with reading.
const LANES: usize = 64;

fn main() -> Result<(), PackError> {
    let threads = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(2);
    let pool = Pool::new(threads);
    let mut numbers = vec![1u64; BYTES / size_of::<u64>()];
    numbers[0] = 2;
    let part = numbers.len() / threads;
    let read = || {
        pool.run(threads, |thread| {
            let mut sums = [0u64; LANES];
            for chunk in numbers[thread * part..(thread + 1) * part].as_chunks::<LANES>().0 {
                sums.iter_mut().zip(chunk).for_each(|(sum, number)| *sum = sum.wrapping_add(*number));
            }
            black_box(sums);
        });
    };
    let plain = rate(read) * (threads * part * size_of::<u64>()) as f64 / 1e9;
    // A product with one row, of a matrix as large.
    let (inputs, outputs) = (2048, BYTES / Format::Q8_0.bytes(2048).unwrap_or(1));
    let bytes = vec![60; Format::Q8_0.bytes(inputs * outputs).unwrap_or(0)];
    let matrix = Matrix::pack(&pool, inputs, &[Source { format: Format::Q8_0, outputs, bytes: &bytes }])?;
    let mut rows = kernels::Rows::new();
    rows.fill(&pool, 1, inputs, |_, out| out.fill(1.0));
    let mut out = vec![0.0; outputs];
    let product = rate(|| matrix.multiply(&pool, &rows, &mut out)) * matrix.bytes() as f64 / 1e9;
    println!(
        "{threads} threads: {plain:.1} GB/s by loads alone, {product:.1} GB/s by a product with one row"
    );
    Ok(())
}

/// Times a second.
fn rate(mut work: impl FnMut()) -> f64 {
    work();
    let (start, mut times) = (Instant::now(), 0);
    while start.elapsed() < MEASURE {
        work();
        times += 1;
    }
    f64::from(times) / start.elapsed().as_secs_f64()
}
