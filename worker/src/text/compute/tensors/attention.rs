//! Causal attention of one sequence's new tokens over all its tokens so far, by tensor operations.

use candle_core::{DType, Result, Tensor};

use crate::text::architecture::Architecture;

/// Attends from `queries`, of shape (rows, heads, head_dim), which stand at positions `start`, `start + 1`, …, to keys
/// and values of shape (kv_heads, start + rows, head_dim). Gives (rows, heads · head_dim).
pub(super) fn attend(
    architecture: &Architecture,
    is_local: bool,
    queries: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    start: usize,
) -> Result<Tensor> {
    let (rows, heads, head_dim) = queries.dims3()?;
    let kv_heads = keys.dim(0)?;
    let group = heads / kv_heads;
    let read = |cache: &Tensor| cache.to_dtype(DType::F32)?.contiguous();
    // (rows, kv_heads, group, d) → (kv_heads, rows · group, d): all queries of a key head in one product.
    let grouped = queries
        .reshape((rows, kv_heads, group, head_dim))?
        .transpose(0, 1)?
        .contiguous()?
        .reshape((kv_heads, rows * group, head_dim))?;
    let scale = f64::from(architecture.attention_scale);
    let mut scores = (grouped.matmul(&read(keys)?.t()?.contiguous()?)? * scale)?;
    if let Some(cap) = architecture.attention_softcap {
        scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
    }
    let window = architecture.window.filter(|_| is_local).map(|window| window.tokens);
    let mask = mask(window, rows, group, start, queries)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores.broadcast_add(&mask)?.contiguous()?)?;
    weights
        .matmul(&read(values)?)?
        .reshape((kv_heads, rows, group, head_dim))?
        .transpose(0, 1)?
        .contiguous()?
        .reshape((rows, heads * head_dim))
}

/// 0 where a query may look and minus infinity elsewhere, of shape (1, rows · group, total).
fn mask(window: Option<usize>, rows: usize, group: usize, start: usize, like: &Tensor) -> Result<Tensor> {
    let total = start + rows;
    let mut mask = vec![f32::NEG_INFINITY; rows * group * total];
    for (index, line) in mask.chunks_exact_mut(total).enumerate() {
        let position = start + index / group;
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        line[first..=position].fill(0.0);
    }
    Tensor::from_vec(mask, (1, rows * group, total), like.device())
}
