//! A matrix of weights times a batch of rows: the one operation that takes nearly all the time.
//!
//! The trait is the seam between the decoder and whoever multiplies. Its home here is candle's quantised tensors, on
//! every device. Each row's result must depend on that row alone, however many stand in the batch: the same request
//! then gives the same tokens, whoever else is being served.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Result, Tensor};

/// Rows that go into one product on the CPU. Above 31, candle takes another road for one format, with other rounding.
const CPU_ROWS_MAX: usize = 16;

/// y = x · Wᵀ for x of shape (rows, in) and y of shape (rows, out), all in f32.
pub trait Linear: Debug + Send + Sync {
    /// Multiplies.
    fn forward(&self, rows: &Tensor) -> Result<Tensor>;
}

/// The home of a weight matrix on this device.
pub fn linear(weight: Arc<QTensor>, device: &Device) -> Result<Box<dyn Linear>> {
    if device.is_cpu() { Ok(Box::new(CpuLinear::new(weight))) } else { Ok(Box::new(GpuLinear::new(weight)?)) }
}

/// Candle's block-quantised product on the CPU: activations are quantised block by block as llama.cpp does it.
#[derive(Debug)]
struct CpuLinear {
    weight: QMatMul,
    /// A single row would be rounded otherwise than the same row among others, so it never goes alone.
    pads_single_row: bool,
}

impl CpuLinear {
    fn new(weight: Arc<QTensor>) -> Self {
        let pads_single_row = weight.dtype() == GgmlDType::Q6K;
        // Not QMatMul::from_arc: that one multiplies f16 and f32 weights by a routine whose rounding changes with
        // the number of rows, and lets an environment variable decide on the rest.
        Self { weight: QMatMul::QTensor(weight), pads_single_row }
    }

    fn product(&self, rows: &Tensor) -> Result<Tensor> {
        if self.pads_single_row && rows.dim(0)? == 1 {
            return self.weight.forward(&Tensor::cat(&[rows, rows], 0)?)?.narrow(0, 0, 1);
        }
        self.weight.forward(rows)
    }
}

impl Linear for CpuLinear {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let count = rows.dim(0)?;
        if count <= CPU_ROWS_MAX {
            return self.product(rows);
        }
        let parts = (0..count)
            .step_by(CPU_ROWS_MAX)
            .map(|start| self.product(&rows.narrow(0, start, CPU_ROWS_MAX.min(count - start))?))
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&parts, 0)
    }
}

/// Candle's product on CUDA and Metal.
#[derive(Debug)]
struct GpuLinear {
    weight: QMatMul,
}

impl GpuLinear {
    fn new(weight: Arc<QTensor>) -> Result<Self> {
        let weight = match weight.dtype() {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => QMatMul::from_arc(weight)?,
            _ => QMatMul::QTensor(weight),
        };
        Ok(Self { weight })
    }
}

impl Linear for GpuLinear {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        self.weight.forward(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_alone_and_in_company_gives_the_same_bits() {
        let device = Device::Cpu;
        for dtype in [GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q6K, GgmlDType::F16, GgmlDType::F32] {
            let weight = Tensor::randn(0f32, 1.0, (48, 512), &device).unwrap();
            let weight = Arc::new(QTensor::quantize(&weight, dtype).unwrap());
            let linear = linear(weight, &device).unwrap();
            let rows = Tensor::randn(0f32, 1.0, (37, 512), &device).unwrap();
            let together = linear.forward(&rows).unwrap().to_vec2::<f32>().unwrap();
            for (index, expected) in together.iter().enumerate() {
                let alone = linear.forward(&rows.narrow(0, index, 1).unwrap()).unwrap();
                assert_eq!(&alone.to_vec2::<f32>().unwrap()[0], expected, "{dtype:?} row {index}");
            }
        }
    }
}
