//! Causal attention of one sequence's new tokens over all its tokens so far.
//!
//! Two homes: on the CPU a loop over raw slices, which reads the f16 cache once per key head; elsewhere candle's tensor
//! operations. Both take scores and sums in f32. The CPU's rounds queries and weights to f16 where llama.cpp does.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::parallel::for_each_chunk;

/// Keys or values that are turned into f32 at once: they stay in the first cache while every query uses them.
const TILE_TOKENS: usize = 64;
/// Below this many multiplications, waking other threads costs more than it saves.
const PARALLEL_FROM: usize = 1 << 17;

/// What one layer's attention is, apart from its operands.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Query heads; the key heads are known from the cache.
    pub heads: usize,
    /// Scores are q·k times this.
    pub scale: f32,
    /// Scores s become cap · tanh(s / cap).
    pub softcap: Option<f32>,
    /// Tokens that a query sees, itself included; all if absent.
    pub window: Option<usize>,
}

impl Attention {
    /// Attends from `queries`, of shape (rows, heads, head_dim), which stand at positions `start`, `start + 1`, …, to
    /// a cache of shape (kv_heads, capacity, head_dim) that holds their own keys too. Gives (rows, heads · head_dim).
    pub fn attend(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, start: usize) -> Result<Tensor> {
        if queries.device().is_cpu() {
            let op = SliceAttention { attention: *self, start };
            return queries.contiguous()?.apply_op3_no_bwd(keys, values, &op);
        }
        self.attend_by_tensors(queries, keys, values, start)
    }

    /// The first position that a query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    fn attend_by_tensors(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        start: usize,
    ) -> Result<Tensor> {
        let (rows, heads, head_dim) = queries.dims3()?;
        let kv_heads = keys.dim(0)?;
        let group = heads / kv_heads;
        let total = start + rows;
        let read = |cache: &Tensor| cache.narrow(1, 0, total)?.to_dtype(DType::F32)?.contiguous();
        // (rows, kv_heads, group, d) → (kv_heads, rows · group, d): all queries of a key head in one product.
        let grouped = queries
            .reshape((rows, kv_heads, group, head_dim))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((kv_heads, rows * group, head_dim))?;
        let mut scores = (grouped.matmul(&read(keys)?.t()?.contiguous()?)? * f64::from(self.scale))?;
        if let Some(cap) = self.softcap {
            scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        let mask = self.mask(rows, group, start, queries)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores.broadcast_add(&mask)?.contiguous()?)?;
        weights
            .matmul(&read(values)?)?
            .reshape((kv_heads, rows, group, head_dim))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((rows, heads * head_dim))
    }

    /// 0 where a query may look and minus infinity elsewhere, of shape (1, rows · group, total).
    fn mask(&self, rows: usize, group: usize, start: usize, like: &Tensor) -> Result<Tensor> {
        let total = start + rows;
        let mut mask = vec![f32::NEG_INFINITY; rows * group * total];
        for (index, line) in mask.chunks_exact_mut(total).enumerate() {
            let position = start + index / group;
            line[self.first_seen(position)..=position].fill(0.0);
        }
        Tensor::from_vec(mask, (1, rows * group, total), like.device())
    }
}

/// The CPU's home of [`Attention`].
struct SliceAttention {
    attention: Attention,
    start: usize,
}

/// The operands of one key head.
struct KvHead<'a> {
    queries: &'a [f32],
    keys: &'a [f16],
    values: &'a [f16],
    rows: usize,
    group: usize,
    kv_heads: usize,
    index: usize,
    head_dim: usize,
}

impl CustomOp3 for SliceAttention {
    fn name(&self) -> &'static str {
        "slice-attention"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        queries_layout: &Layout,
        keys: &CpuStorage,
        keys_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, heads, head_dim) = queries_layout.shape().dims3()?;
        let (kv_heads, capacity, _) = keys_layout.shape().dims3()?;
        let queries = contiguous(queries.as_slice::<f32>()?, queries_layout)?;
        let keys = contiguous(keys.as_slice::<f16>()?, keys_layout)?;
        let values = contiguous(values.as_slice::<f16>()?, values_layout)?;
        let group = heads / kv_heads;
        let head_of = |index: usize| {
            let cache = index * capacity * head_dim..(index + 1) * capacity * head_dim;
            let (keys, values) = (&keys[cache.clone()], &values[cache]);
            self.attend_head(&KvHead { queries, keys, values, rows, group, kv_heads, index, head_dim })
        };
        let work = rows * heads * head_dim * (self.start + rows) * 2;
        let mut by_head: Vec<Vec<f32>> = vec![Vec::new(); kv_heads];
        if work >= PARALLEL_FROM {
            for_each_chunk(&mut by_head, 1, |index, result| result[0] = head_of(index));
        } else {
            by_head.iter_mut().enumerate().for_each(|(index, result)| *result = head_of(index));
        }
        // Each head's result holds its queries row by row; interleave them to (rows, heads, head_dim).
        let mut output = Vec::with_capacity(rows * heads * head_dim);
        for row in 0..rows {
            for head in &by_head {
                output.extend_from_slice(&head[row * group * head_dim..(row + 1) * group * head_dim]);
            }
        }
        Ok((CpuStorage::F32(output), Shape::from((rows, heads * head_dim))))
    }
}

impl SliceAttention {
    /// Attends with all queries that share one key head; gives (rows, group, head_dim).
    fn attend_head(&self, head: &KvHead<'_>) -> Vec<f32> {
        let KvHead { rows, group, head_dim, .. } = *head;
        let total = self.start + rows;
        let queries = rounded_queries(head);
        let mut scores = vec![0f32; rows * group * total];
        for_tiles(head.keys, head_dim, total, |first, tile| {
            for (query, line) in queries.chunks_exact(head_dim).zip(scores.chunks_exact_mut(total)) {
                for (key, score) in tile.chunks_exact(head_dim).zip(&mut line[first..]) {
                    *score = dot(query, key);
                }
            }
        });
        for (index, line) in scores.chunks_exact_mut(total).enumerate() {
            self.weigh(line, self.start + index / group);
        }
        let mut output = vec![0f32; rows * group * head_dim];
        for_tiles(head.values, head_dim, total, |first, tile| {
            for (line, sum) in scores.chunks_exact(total).zip(output.chunks_exact_mut(head_dim)) {
                for (value, weight) in tile.chunks_exact(head_dim).zip(&line[first..]) {
                    if *weight != 0.0 {
                        sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
                    }
                }
            }
        });
        output
    }

    /// Turns the scores of a query at `position` into weights that sum to 1, with 0 for what it does not see.
    fn weigh(&self, scores: &mut [f32], position: usize) {
        let first = self.attention.first_seen(position);
        let (before, rest) = scores.split_at_mut(first);
        let (seen, after) = rest.split_at_mut(position + 1 - first);
        before.fill(0.0);
        after.fill(0.0);
        let mut highest = f32::NEG_INFINITY;
        for score in seen.iter_mut() {
            *score *= self.attention.scale;
            if let Some(cap) = self.attention.softcap {
                *score = cap * (*score / cap).tanh();
            }
            highest = highest.max(*score);
        }
        let mut sum = 0f64;
        for score in seen.iter_mut() {
            *score = (*score - highest).exp();
            sum += f64::from(*score);
        }
        let inverse = (1.0 / sum) as f32;
        for score in seen {
            *score = f16::from_f32(*score * inverse).to_f32();
        }
    }
}

/// The head's queries, gathered to (rows, group, head_dim) and rounded to the precision of the keys.
fn rounded_queries(head: &KvHead<'_>) -> Vec<f32> {
    let width = head.group * head.head_dim;
    let mut half_queries = vec![f16::ZERO; head.rows * width];
    for (row, gathered) in half_queries.chunks_exact_mut(width).enumerate() {
        let from = (row * head.kv_heads + head.index) * width;
        gathered.convert_from_f32_slice(&head.queries[from..from + width]);
    }
    half_queries.to_f32_vec()
}

/// Calls `visit` with the cache's tokens in tiles of f32, each with the position of its first token.
fn for_tiles(cache: &[f16], head_dim: usize, total: usize, mut visit: impl FnMut(usize, &[f32])) {
    let mut tile = vec![0f32; TILE_TOKENS * head_dim];
    for (index, tokens) in cache[..total * head_dim].chunks(TILE_TOKENS * head_dim).enumerate() {
        let tile = &mut tile[..tokens.len()];
        tokens.convert_to_f32_slice(tile);
        visit(index * TILE_TOKENS, tile);
    }
}

/// A dot product in eight interleaved sums, which the compiler can keep in vector registers.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0f32; LANES];
    let (left_lanes, left_rest) = left.as_chunks::<LANES>();
    let (right_lanes, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left_lanes.iter().zip(right_lanes) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}

fn contiguous<'a, T>(slice: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&slice[start..end]),
        None => candle_core::bail!("attention needs contiguous operands"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn both_homes_agree() {
        let device = Device::Cpu;
        let cache = || Tensor::randn(0f32, 1.0, (2, 256, 16), &device).unwrap().to_dtype(DType::F16).unwrap();
        let (keys, values) = (cache(), cache());
        for (window, softcap) in [(None, None), (Some(7), None), (Some(70), Some(3.0))] {
            let attention = Attention { heads: 6, scale: 0.25, softcap, window };
            for (start, rows) in [(0, 1), (0, 5), (130, 4)] {
                let queries = Tensor::randn(0f32, 1.0, (rows, 6, 16), &device).unwrap();
                let by_slices = attention.attend(&queries, &keys, &values, start).unwrap();
                let by_tensors = attention.attend_by_tensors(&queries, &keys, &values, start).unwrap();
                let apart = (by_slices - by_tensors).unwrap().abs().unwrap().max_all().unwrap();
                assert!(
                    apart.to_scalar::<f32>().unwrap() < 5e-3,
                    "window {window:?}, start {start}: {apart}"
                );
            }
        }
    }
}
