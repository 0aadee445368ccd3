//! How fast a whole model's products are: steps a second with one row and with eight, and rows a second of a prompt.
//!
//! `cargo run --release -p rbee-kernels --example decode [THREADS]`

#![expect(clippy::print_stdout, reason = "a program for people to run")]

use std::time::{Duration, Instant};

use kernels::{Format, Matrix, PackError, Pool, Rows, Source};

const MEASURE: Duration = Duration::from_secs(2);

/// A model's layers and its head, as (format, inputs, outputs).
struct Shape {
    name: &'static str,
    layers: usize,
    layer: &'static [(Format, usize, usize)],
    head: (Format, usize, usize),
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "SmolLM2-135M Q4_1",
        layers: 30,
        layer: &[
            (Format::Q4_1, 576, 960),
            (Format::Q4_1, 576, 576),
            (Format::Q4_1, 576, 3072),
            (Format::Q4_1, 1536, 576),
        ],
        head: (Format::Q8_0, 576, 49_152),
    },
    Shape {
        name: "Gemma-3-270M Q4_K_M",
        layers: 18,
        layer: &[
            (Format::Q5_0, 640, 1536),
            (Format::Q4K, 1024, 640),
            (Format::Q5_0, 640, 4096),
            (Format::Q6K, 2048, 640),
        ],
        head: (Format::Q8_0, 640, 262_144),
    },
    Shape {
        name: "1B Q4_K",
        layers: 16,
        layer: &[
            (Format::Q4K, 2048, 3072),
            (Format::Q4K, 2048, 2048),
            (Format::Q4K, 2048, 16_384),
            (Format::Q4K, 8192, 2048),
        ],
        head: (Format::Q6K, 2048, 128_256),
    },
];

fn main() -> Result<(), PackError> {
    let threads = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(2);
    let pool = Pool::new(threads);
    for shape in SHAPES {
        let mut matrices = Vec::new();
        for _ in 0..shape.layers {
            for part in shape.layer {
                matrices.push(matrix(&pool, *part)?);
            }
        }
        let head = matrix(&pool, shape.head)?;
        let bytes = matrices.iter().chain([&head]).map(Matrix::bytes).sum::<usize>();
        let rate = |count, with_head| measure(&pool, &matrices, with_head, &head, count);
        println!(
            "{}: {:.0} MB, {threads} threads: 1 row {:.0}/s = {:.1} GB/s, 8 rows {:.0}/s, 512 rows {:.0}/s",
            shape.name,
            bytes as f64 / 1e6,
            rate(1, true),
            rate(1, true) * bytes as f64 / 1e9,
            rate(8, true),
            rate(512, false),
        );
    }
    Ok(())
}

fn matrix(pool: &Pool, (format, inputs, outputs): (Format, usize, usize)) -> Result<Matrix, PackError> {
    let size = format.bytes(inputs * outputs).unwrap_or(0);
    let bytes: Vec<u8> = (0..size).map(|index| (index * 31 % 60) as u8).collect();
    Matrix::pack(pool, inputs, &[Source { format, outputs, bytes: &bytes }])
}

/// Rows a second.
fn measure(pool: &Pool, matrices: &[Matrix], with_head: bool, head: &Matrix, count: usize) -> f64 {
    let head = with_head.then_some(head);
    let mut rows = Rows::new();
    let mut out = Vec::new();
    let mut step = || {
        for matrix in matrices.iter().chain(head) {
            rows.fill(pool, count, matrix.inputs(), |row, out| {
                out.iter_mut().enumerate().for_each(|(index, out)| *out = (index + row) as f32);
            });
            out.resize(count * matrix.outputs(), 0.0);
            matrix.multiply(pool, &rows, &mut out);
        }
    };
    step();
    let (start, mut steps) = (Instant::now(), 0);
    while start.elapsed() < MEASURE {
        step();
        steps += 1;
    }
    (steps * count) as f64 / start.elapsed().as_secs_f64()
}
