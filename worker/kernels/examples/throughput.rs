//! How fast products are: for each format, shape and number of rows the multiplications a second and the weights read.
//!
//! `cargo run --release -p rbee-kernels --example throughput [FORMAT …]`

#![expect(clippy::print_stdout, reason = "a program for people to run")]

use std::time::{Duration, Instant};

use kernels::{Format, Matrix, Pool, Processor, Rows, Source};

/// Inputs, outputs and what has such a matrix.
const SHAPES: [(usize, usize, &str); 4] = [
    (576, 3072, "SmolLM2 gate and up"),
    (1536, 576, "SmolLM2 down"),
    (768, 262_144, "a head of 262144"),
    (2048, 16_384, "1B gate and up"),
];
const ROWS: [usize; 6] = [1, 2, 4, 8, 16, 64];
const MEASURE: Duration = Duration::from_millis(60);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    println!("{:?}", Processor::detect());
    println!("format   shape                threads rows   GMAC/s    GB/s");
    for format in Format::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == format.name()) {
            continue;
        }
        for (inputs, outputs, shape) in SHAPES {
            if inputs % format.block_len() == 0 {
                measure(format, inputs, outputs, shape);
            }
        }
    }
}

fn measure(format: Format, inputs: usize, outputs: usize, shape: &str) {
    let Some(size) = format.bytes(inputs * outputs) else { return };
    // What the weights say does not change the speed, unless they are no numbers.
    let bytes: Vec<u8> = (0..size).map(|index| (index * 31 % 60) as u8).collect();
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        let Ok(matrix) = Matrix::pack(&pool, inputs, &[Source { format, outputs, bytes: &bytes }]) else {
            return;
        };
        for count in ROWS {
            let mut rows = Rows::new();
            rows.fill(&pool, count, inputs, |row, out| {
                out.iter_mut().enumerate().for_each(|(index, out)| *out = ((index + row) as f32).sin());
            });
            let mut out = vec![0.0; count * outputs];
            matrix.multiply(&pool, &rows, &mut out);
            let (start, mut times) = (Instant::now(), 0);
            while start.elapsed() < MEASURE {
                matrix.multiply(&pool, &rows, &mut out);
                times += 1;
            }
            let seconds = start.elapsed().as_secs_f64() / f64::from(times);
            let products = (inputs * outputs * count) as f64 / seconds / 1e9;
            let read = matrix.bytes() as f64 / seconds / 1e9;
            println!("{:8} {shape:20} {threads:7} {count:4} {products:8.1} {read:7.1}", format.name());
        }
    }
}
