//! A matrix of weights times a batch of rows: the one operation that takes nearly all the time.
//!
//! The trait is the seam between the decoder and whoever multiplies: candle's quantised tensors on every device, but for
//! formats of which the CPU has a kernel of our own. Each row's result must depend on that row alone, however many stand in the batch: the same request
//! then gives the same tokens, whoever else is being served.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Module, Result, Shape, Tensor};
use kernels::Format;

use crate::error::LoadError;
use crate::file::StoredTensor;
use crate::kernels::Q4_1Matrix;

/// Rows that go into one product on the CPU. Above 31, candle takes another road for one format, with other rounding.
const CPU_ROWS_MAX: usize = 16;

/// y = x · Wᵀ for x of shape (rows, in) and y of shape (rows, out), all in f32.
pub trait Linear: Debug + Send + Sync {
    /// Multiplies.
    fn forward(&self, rows: &Tensor) -> Result<Tensor>;
}

/// Tokens of a prompt that may go into one step with weights of this format, so that a step stays well below 100 ms on
/// two ordinary cores with a model of 100 million weights: a cancel waits for the end of a step.
pub fn prefill_rows(format: GgmlDType, device: &Device) -> usize {
    match format {
        _ if !device.is_cpu() => 256,
        GgmlDType::Q4_1 => 8,
        _ => 2,
    }
}

/// A stored tensor as candle holds it, on this device.
pub fn load_weight(stored: &StoredTensor<'_>, device: &Device) -> std::result::Result<QTensor, LoadError> {
    let dtype = match stored.format {
        Format::F32 => GgmlDType::F32,
        Format::F16 => GgmlDType::F16,
        Format::Bf16 => GgmlDType::BF16,
        Format::Q4_0 => GgmlDType::Q4_0,
        Format::Q4_1 => GgmlDType::Q4_1,
        Format::Q5_0 => GgmlDType::Q5_0,
        Format::Q5_1 => GgmlDType::Q5_1,
        Format::Q8_0 => GgmlDType::Q8_0,
        Format::Q4K => GgmlDType::Q4K,
        Format::Q5K => GgmlDType::Q5K,
        Format::Q6K => GgmlDType::Q6K,
        Format::Iq4Nl | Format::Iq4Xs => {
            return Err(LoadError::Unsupported(format!(
                "weights stored as {} on this device",
                stored.format
            )));
        }
    };
    Ok(qtensor_from_ggml(dtype, stored.bytes, stored.dims.clone(), device)?)
}

/// The home of a weight matrix on this device.
pub fn linear(weight: Arc<QTensor>, device: &Device) -> Result<Box<dyn Linear>> {
    if !device.is_cpu() {
        return Ok(Box::new(GpuLinear::new(weight)?));
    }
    if weight.dtype() == GgmlDType::Q4_1 {
        return Ok(Box::new(KernelLinear(Q4_1Matrix::new(&weight)?)));
    }
    Ok(Box::new(CpuLinear::new(weight)))
}

/// A product by a kernel of our own.
#[derive(Debug)]
struct KernelLinear(Q4_1Matrix);

impl Linear for KernelLinear {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        rows.contiguous()?.apply_op1_no_bwd(self)
    }
}

impl CustomOp1 for KernelLinear {
    fn name(&self) -> &'static str {
        "q4-1-product"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, inputs) = layout.shape().dims2()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a product needs contiguous rows");
        };
        if inputs != self.0.inputs() {
            candle_core::bail!("rows of {inputs} values do not fit {:?}", self.0);
        }
        let product = self.0.multiply(&rows.as_slice::<f32>()?[start..end]);
        Ok((CpuStorage::F32(product), Shape::from((count, self.0.outputs()))))
    }
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
        for dtype in
            [GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q6K, GgmlDType::F16, GgmlDType::F32]
        {
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
