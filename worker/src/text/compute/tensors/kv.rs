//! The keys and values of all sequences: f16 tensors that are cut into blocks and grow by doubling.

use candle_core::{DType, Device, Result, Tensor};

use crate::engine::{BLOCK_TOKENS, Span};

/// Blocks that a fresh pool has room for.
const FIRST_BLOCKS: usize = 8;

/// Bytes that the keys and values of one block take in all layers, as f16.
pub(super) fn block_bytes(layers: usize, kv_heads: usize, head_dim: usize) -> usize {
    2 * size_of::<half::f16>() * layers * kv_heads * head_dim * BLOCK_TOKENS
}

/// New tokens of one sequence, and where its tokens lie.
#[derive(Debug)]
pub(super) struct Segment {
    /// Position of the first new token.
    pub position: usize,
    /// New tokens.
    pub count: usize,
    blocks: Vec<usize>,
    /// The places of all tokens, up to the last new one.
    places: Tensor,
}

impl Segment {
    pub(super) fn new(span: &Span<'_>, device: &Device) -> Result<Self> {
        let end = span.position + span.tokens.len();
        let blocks: Vec<usize> =
            span.blocks[..end.div_ceil(BLOCK_TOKENS)].iter().map(|block| block.0 as usize).collect();
        let place =
            |position: usize| blocks[position / BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS;
        let places: Vec<u32> = (0..end).map(|position| place(position) as u32).collect();
        let places = Tensor::from_vec(places, end, device)?;
        Ok(Self { position: span.position, count: span.tokens.len(), blocks, places })
    }
}

/// Keys and values of all layers. Memory follows the highest block that was written to.
#[derive(Debug)]
pub(super) struct KvPool {
    layers: Vec<LayerKv>,
    blocks: usize,
    blocks_max: usize,
}

/// Keys and values of one layer, each of shape (kv_heads, blocks · BLOCK_TOKENS, head_dim).
#[derive(Debug)]
struct LayerKv {
    keys: Tensor,
    values: Tensor,
}

impl KvPool {
    /// An empty pool of at most `blocks_max` blocks.
    pub(super) fn new(
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
        blocks_max: usize,
        device: &Device,
    ) -> Result<Self> {
        let blocks = FIRST_BLOCKS.min(blocks_max);
        let layers = (0..layers)
            .map(|_| {
                let zeros = || Tensor::zeros((kv_heads, blocks * BLOCK_TOKENS, head_dim), DType::F16, device);
                Ok(LayerKv { keys: zeros()?, values: zeros()? })
            })
            .collect::<Result<_>>()?;
        Ok(Self { layers, blocks, blocks_max })
    }

    /// Blocks that it may hold.
    pub(super) fn blocks_max(&self) -> usize {
        self.blocks_max
    }

    /// Makes room for all blocks of these sequences.
    pub(super) fn reserve(&mut self, segments: &[Segment]) -> Result<()> {
        let highest = segments.iter().flat_map(|segment| &segment.blocks).max();
        self.grow(highest.map_or(0, |block| block + 1))
    }

    fn grow(&mut self, needed: usize) -> Result<()> {
        if needed > self.blocks_max {
            candle_core::bail!("block {} is none of {}", needed - 1, self.blocks_max);
        }
        if needed <= self.blocks {
            return Ok(());
        }
        let blocks = needed.next_power_of_two().min(self.blocks_max);
        for layer in &mut self.layers {
            layer.keys = enlarged(&layer.keys, blocks * BLOCK_TOKENS)?;
            layer.values = enlarged(&layer.values, blocks * BLOCK_TOKENS)?;
        }
        self.blocks = blocks;
        Ok(())
    }

    /// Copies the first `tokens` tokens of a block.
    pub(super) fn copy(&mut self, from: usize, to: usize, tokens: usize) -> Result<()> {
        self.grow(from.max(to) + 1)?;
        for tensor in self.layers.iter().flat_map(|layer| [&layer.keys, &layer.values]) {
            let part = tensor.narrow(1, from * BLOCK_TOKENS, tokens)?.contiguous()?;
            tensor.slice_set(&part, 1, to * BLOCK_TOKENS)?;
        }
        Ok(())
    }

    /// Writes a segment's keys and values, of shape (kv_heads, tokens, head_dim), into its blocks, and gathers those of its
    /// whole sequence in their order.
    pub(super) fn append(
        &self,
        layer: usize,
        segment: &Segment,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let Some(kv) = self.layers.get(layer) else { candle_core::bail!("there is no layer {layer}") };
        let (keys, values) = (keys.to_dtype(DType::F16)?, values.to_dtype(DType::F16)?);
        let mut written = 0;
        while written < segment.count {
            let position = segment.position + written;
            let within = position % BLOCK_TOKENS;
            let count = (BLOCK_TOKENS - within).min(segment.count - written);
            let place = segment.blocks[position / BLOCK_TOKENS] * BLOCK_TOKENS + within;
            kv.keys.slice_set(&keys.narrow(1, written, count)?.contiguous()?, 1, place)?;
            kv.values.slice_set(&values.narrow(1, written, count)?.contiguous()?, 1, place)?;
            written += count;
        }
        Ok((kv.keys.index_select(&segment.places, 1)?, kv.values.index_select(&segment.places, 1)?))
    }
}

fn enlarged(old: &Tensor, tokens: usize) -> Result<Tensor> {
    let (heads, _, head_dim) = old.dims3()?;
    let new = Tensor::zeros((heads, tokens, head_dim), old.dtype(), old.device())?;
    new.slice_set(old, 1, 0)?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{BlockId, Logits};

    #[test]
    fn a_sequence_is_read_in_its_order_wherever_its_blocks_lie() {
        let device = Device::Cpu;
        let mut pool = KvPool::new(1, 2, 4, 40, &device).unwrap();
        let append = |pool: &mut KvPool, blocks: &[BlockId], position: usize, count: usize| {
            let tokens = vec![0; count];
            let span = Span { tokens: &tokens, position, blocks, logits: Logits::None };
            let segment = Segment::new(&span, &device).unwrap();
            pool.reserve(std::slice::from_ref(&segment)).unwrap();
            let numbers: Vec<f32> = (position..position + count).map(|number| number as f32).collect();
            let part = Tensor::from_vec(numbers, (1, count, 1), &device).unwrap();
            let part = part.broadcast_as((2, count, 4)).unwrap().contiguous().unwrap();
            let (keys, _) = pool.append(0, &segment, &part, &part).unwrap();
            let keys = keys.to_dtype(DType::F32).unwrap().to_vec3::<f32>().unwrap();
            keys[1].iter().map(|token| token[3]).collect::<Vec<f32>>()
        };
        let blocks = [BlockId(33), BlockId(2), BlockId(7)];
        append(&mut pool, &blocks, 0, 40);
        let read = append(&mut pool, &blocks, 40, 30);
        assert_eq!(read, (0..70).map(|number| number as f32).collect::<Vec<_>>());
        pool.copy(7, 39, 6).unwrap();
        let read = append(&mut pool, &[BlockId(33), BlockId(2), BlockId(39)], 70, 1);
        assert_eq!(read, (0..71).map(|number| number as f32).collect::<Vec<_>>());
        assert!(pool.copy(7, 40, 6).is_err());
    }
}
