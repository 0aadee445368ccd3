//! Q4_1 weights times rows of activations, in llama.cpp's arithmetic.
//!
//! A block is 32 weights of 4 bits: w = scale · q + minimum. Activations are quantised block by block to 8 bits, and with
//! each block goes the sum of its values, so that the minimum is multiplied once a block. llama.cpp rounds that sum
//! once, from f32; candle's own product multiplies two rounded factors, which is off by enough to change greedy answers.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Result, bail};
use half::f16;

use crate::parallel::for_each_chunk;

/// Values in a block.
const BLOCK: usize = 32;
/// Bytes of a block in a file: scale and minimum as f16, then the quants.
const BLOCK_BYTES: usize = 20;
/// Rows that share one pass over the weights.
const TILE_ROWS: usize = 4;
/// Outputs that one thread computes at a time.
const CHUNK_OUTPUTS: usize = 48;

/// A matrix of Q4_1 weights.
pub struct Q4_1Matrix {
    inputs: usize,
    outputs: usize,
    blocks: Vec<Weights>,
}

impl std::fmt::Debug for Q4_1Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Q4_1Matrix({} × {})", self.outputs, self.inputs)
    }
}

/// A block of weights.
struct Weights {
    scale: f32,
    minimum: f32,
    /// Value i in the low half of byte i, value i + 16 in its high half.
    quants: [u8; BLOCK / 2],
}

/// A block of activations.
struct Values {
    scale: f32,
    sum: f32,
    quants: [i8; BLOCK],
}

impl Q4_1Matrix {
    /// Takes the weights over from a tensor of shape (outputs, inputs) on the CPU.
    pub fn new(tensor: &QTensor) -> Result<Self> {
        let (outputs, inputs) = tensor.shape().dims2()?;
        let data = tensor.data()?;
        if tensor.dtype() != GgmlDType::Q4_1 || data.len() != outputs * inputs / BLOCK * BLOCK_BYTES {
            bail!("{tensor:?} of {} bytes is no matrix of Q4_1 weights", data.len());
        }
        let blocks = data
            .as_chunks::<BLOCK_BYTES>()
            .0
            .iter()
            .map(|bytes| {
                let mut quants = [0; BLOCK / 2];
                quants.copy_from_slice(&bytes[4..]);
                let number = |low: u8, high: u8| f16::from_le_bytes([low, high]).to_f32();
                Weights { scale: number(bytes[0], bytes[1]), minimum: number(bytes[2], bytes[3]), quants }
            })
            .collect();
        Ok(Self { inputs, outputs, blocks })
    }

    /// Values of a row that goes in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Values of a row that comes out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Multiplies rows that lie one behind the other. Each row's result depends on that row alone.
    pub fn multiply(&self, rows: &[f32]) -> Vec<f32> {
        let count = rows.len() / self.inputs;
        let kernel = Kernel::detect();
        let values: Vec<Values> =
            rows.as_chunks::<BLOCK>().0.iter().map(|block| kernel.quantize(block)).collect();
        let blocks_per_row = self.inputs / BLOCK;
        // Output by output, so that each thread has a stretch of its own to write to.
        let mut by_output = vec![0f32; self.outputs * count];
        for_each_chunk(&mut by_output, CHUNK_OUTPUTS * count, |chunk, results| {
            for (index, results) in results.chunks_exact_mut(count).enumerate() {
                let output = chunk * CHUNK_OUTPUTS + index;
                let weights = &self.blocks[output * blocks_per_row..(output + 1) * blocks_per_row];
                kernel.dots(weights, &values, results);
            }
        });
        if count == 1 {
            return by_output;
        }
        let mut by_row = Vec::with_capacity(by_output.len());
        for row in 0..count {
            by_row.extend(by_output.iter().skip(row).step_by(count));
        }
        by_row
    }
}

/// Which code computes; the results are the same to the bit but for fused multiply-adds.
#[derive(Clone, Copy)]
enum Kernel {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Kernel {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Self::Avx2;
        }
        Self::Plain
    }

    fn quantize(self, block: &[f32; BLOCK]) -> Values {
        match self {
            Self::Plain => quantize(block),
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "the features were detected")]
            // SAFETY: this variant is only made where the processor has AVX2 and FMA.
            Self::Avx2 => unsafe { avx2::quantize(block) },
        }
    }

    /// The dot products of one output's weights with every row.
    fn dots(self, weights: &[Weights], rows: &[Values], results: &mut [f32]) {
        match self {
            Self::Plain => {
                for (row, result) in rows.chunks_exact(weights.len()).zip(results) {
                    *result = dot(weights, row);
                }
            }
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "the features were detected")]
            // SAFETY: this variant is only made where the processor has AVX2 and FMA.
            Self::Avx2 => unsafe { avx2::dots(weights, rows, results) },
        }
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]
fn quantize(block: &[f32; BLOCK]) -> Values {
    let highest = block.iter().fold(0f32, |highest, value| highest.max(value.abs()));
    let scale = highest / 127.0;
    let inverse = if highest == 0.0 { 0.0 } else { 127.0 / highest };
    let quants = block.map(|value| (value * inverse).round_ties_even() as i8);
    let sum: i32 = quants.iter().map(|quant| i32::from(*quant)).sum();
    let rounded = |value: f32| f16::from_f32(value).to_f32();
    Values { scale: rounded(scale), sum: rounded(scale * sum as f32), quants }
}

/// The dot product of one output's weights with one row, in eight interleaved sums as vector registers hold them.
fn dot(weights: &[Weights], values: &[Values]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0f32; LANES];
    let mut minima = 0f32;
    for (weights, values) in weights.iter().zip(values) {
        let scale = weights.scale * values.scale;
        for (lane, sum) in sums.iter_mut().enumerate() {
            let products = (lane * 4..lane * 4 + 4).map(|index| {
                let byte = weights.quants[index % 16];
                let quant = if index < 16 { byte & 0x0f } else { byte >> 4 };
                i32::from(quant) * i32::from(values.quants[index])
            });
            *sum += scale * products.sum::<i32>() as f32;
        }
        minima += weights.minimum * values.sum;
    }
    total(sums) + minima
}

/// The order in which llama.cpp adds up the lanes of a register.
fn total(sums: [f32; 8]) -> f32 {
    let quarters: [f32; 4] = std::array::from_fn(|lane| sums[lane] + sums[lane + 4]);
    (quarters[0] + quarters[2]) + (quarters[1] + quarters[3])
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256, __m256i, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps,
        _mm_set_epi64x, _mm_srli_epi16, _mm256_and_si256, _mm256_castps256_ps128, _mm256_cvtepi32_ps,
        _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set_epi64x,
        _mm256_set_m128i, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_ps, _mm256_setzero_ps,
    };

    use super::{BLOCK, TILE_ROWS, Values, Weights};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn quantize(block: &[f32; BLOCK]) -> Values {
        super::quantize(block)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dots(weights: &[Weights], rows: &[Values], results: &mut [f32]) {
        let width = weights.len();
        let (tiles, rest) = results.as_chunks_mut::<TILE_ROWS>();
        let tiled_rows = tiles.len() * TILE_ROWS;
        for (index, tile) in tiles.iter_mut().enumerate() {
            let first = index * TILE_ROWS;
            let row = |offset: usize| &rows[(first + offset) * width..(first + offset + 1) * width];
            *tile = dot_tile(weights, [row(0), row(1), row(2), row(3)]);
        }
        for (index, result) in rest.iter_mut().enumerate() {
            let first = (tiled_rows + index) * width;
            [*result] = dot_tile(weights, [&rows[first..first + width]]);
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn dot_tile<const ROWS: usize>(weights: &[Weights], rows: [&[Values]; ROWS]) -> [f32; ROWS] {
        let rows = rows.map(|row| &row[..weights.len()]);
        let low_half = _mm256_set1_epi8(0x0f);
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_ps(); ROWS];
        let mut minima = [0f32; ROWS];
        for (index, weights) in weights.iter().enumerate() {
            let packed = load_16(&weights.quants);
            let both = _mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed);
            let quants = _mm256_and_si256(low_half, both);
            for row in 0..ROWS {
                let values = &rows[row][index];
                let pairs = _mm256_maddubs_epi16(quants, load_32(&values.quants));
                let products = _mm256_cvtepi32_ps(_mm256_madd_epi16(ones, pairs));
                let scale = _mm256_set1_ps(weights.scale * values.scale);
                sums[row] = _mm256_fmadd_ps(scale, products, sums[row]);
                minima[row] = weights.minimum.mul_add(values.sum, minima[row]);
            }
        }
        let mut totals = minima;
        for (total, sums) in totals.iter_mut().zip(sums) {
            *total += add_lanes(sums);
        }
        totals
    }

    #[target_feature(enable = "avx2,fma")]
    fn add_lanes(sums: __m256) -> f32 {
        let halves = _mm_add_ps(_mm256_extractf128_ps::<1>(sums), _mm256_castps256_ps128(sums));
        let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
        _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
    }

    #[target_feature(enable = "avx2,fma")]
    fn load_16(bytes: &[u8; 16]) -> __m128i {
        let (words, _) = bytes.as_chunks::<8>();
        _mm_set_epi64x(i64::from_le_bytes(words[1]), i64::from_le_bytes(words[0]))
    }

    #[target_feature(enable = "avx2,fma")]
    fn load_32(bytes: &[i8; 32]) -> __m256i {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| i64::from_le_bytes(words[index].map(|byte: i8| byte.cast_unsigned()));
        _mm256_set_epi64x(word(3), word(2), word(1), word(0))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn matrix(outputs: usize, inputs: usize) -> (Q4_1Matrix, Tensor) {
        let weights = Tensor::randn(0f32, 1.0, (outputs, inputs), &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&weights, GgmlDType::Q4_1).unwrap();
        (Q4_1Matrix::new(&tensor).unwrap(), tensor.dequantize(&Device::Cpu).unwrap())
    }

    #[test]
    fn the_product_is_right_up_to_the_rounding_of_activations() {
        let (matrix, weights) = matrix(100, 192);
        for count in [1, 3, 4, 9] {
            let rows = Tensor::randn(0f32, 1.0, (count, 192), &Device::Cpu).unwrap();
            let exact =
                rows.matmul(&weights.t().unwrap()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let found = matrix.multiply(&rows.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            assert_eq!(found.len(), exact.len());
            for (found, exact) in found.iter().zip(&exact) {
                assert!((found - exact).abs() < 0.6, "{found} for {exact}");
            }
        }
    }

    #[test]
    fn every_kernel_gives_what_the_plain_one_does() {
        let (matrix, _) = matrix(8, 256);
        let rows = Tensor::randn(0f32, 1.0, (7, 256), &Device::Cpu).unwrap().flatten_all().unwrap();
        let rows = rows.to_vec1::<f32>().unwrap();
        let results = |kernel: Kernel| {
            let values: Vec<Values> =
                rows.as_chunks::<BLOCK>().0.iter().map(|block| kernel.quantize(block)).collect();
            let mut results = vec![0f32; 7];
            kernel.dots(&matrix.blocks[..8], &values, &mut results);
            results
        };
        for (plain, detected) in results(Kernel::Plain).iter().zip(results(Kernel::detect())) {
            assert!((plain - detected).abs() < 1e-4, "{plain} and {detected}");
        }
    }
}
