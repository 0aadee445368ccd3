//! The keys and values of one sequence, kept as f16 in tensors that grow by doubling.

use candle_core::{DType, Device, Result, Tensor};

/// Tokens that a fresh cache has room for.
const FIRST_CAPACITY_TOKENS: usize = 256;

/// Keys and values of all layers for one sequence. Memory follows the sequence's length, up to the context limit.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerKv>,
    len: usize,
    capacity: usize,
    limit: usize,
}

/// Keys and values of one layer, each of shape (kv_heads, capacity, head_dim).
#[derive(Debug)]
struct LayerKv {
    keys: Tensor,
    values: Tensor,
}

impl KvCache {
    /// An empty cache for at most `limit` tokens.
    pub fn new(
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
        limit: usize,
        device: &Device,
    ) -> Result<Self> {
        let capacity = FIRST_CAPACITY_TOKENS.min(limit);
        let layers = (0..layers)
            .map(|_| {
                let zeros = || Tensor::zeros((kv_heads, capacity, head_dim), DType::F16, device);
                Ok(LayerKv { keys: zeros()?, values: zeros()? })
            })
            .collect::<Result<_>>()?;
        Ok(Self { layers, len: 0, capacity, limit })
    }

    /// Tokens whose keys and values are in every layer.
    pub fn tokens(&self) -> usize {
        self.len
    }

    /// Makes room for `more` tokens beyond those that are in.
    pub fn reserve(&mut self, more: usize) -> Result<()> {
        let needed = self.len + more;
        if needed > self.limit {
            candle_core::bail!("a sequence of {needed} tokens does not fit a context of {}", self.limit);
        }
        if needed <= self.capacity {
            return Ok(());
        }
        let mut capacity = self.capacity.max(1);
        while capacity < needed {
            capacity *= 2;
        }
        let capacity = capacity.min(self.limit);
        for layer in &mut self.layers {
            layer.keys = enlarged(&layer.keys, capacity)?;
            layer.values = enlarged(&layer.values, capacity)?;
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Writes the new tokens' keys and values, of shape (kv_heads, tokens, head_dim), behind those that are in, and
    /// hands out the layer's whole tensors. [`Self::advance`] makes the tokens count once every layer has them.
    pub fn append(&self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<(&Tensor, &Tensor)> {
        let Some(kv) = self.layers.get(layer) else { candle_core::bail!("there is no layer {layer}") };
        kv.keys.slice_set(&keys.to_dtype(DType::F16)?.contiguous()?, 1, self.len)?;
        kv.values.slice_set(&values.to_dtype(DType::F16)?.contiguous()?, 1, self.len)?;
        Ok((&kv.keys, &kv.values))
    }

    /// Counts tokens that every layer has got.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

fn enlarged(old: &Tensor, capacity: usize) -> Result<Tensor> {
    let (heads, _, head_dim) = old.dims3()?;
    let new = Tensor::zeros((heads, capacity, head_dim), old.dtype(), old.device())?;
    new.slice_set(old, 1, 0)?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_survives_growth_and_the_limit_holds() {
        let device = Device::Cpu;
        let mut cache = KvCache::new(1, 2, 4, 600, &device).unwrap();
        let first = Tensor::ones((2, 3, 4), DType::F32, &device).unwrap();
        cache.reserve(3).unwrap();
        cache.append(0, &first, &first).unwrap();
        cache.advance(3);
        cache.reserve(300).unwrap();
        assert_eq!(cache.capacity, 512);
        let next = (Tensor::ones((2, 1, 4), DType::F32, &device).unwrap() * 2.0).unwrap();
        let (keys, _) = cache.append(0, &next, &next).unwrap();
        let column = keys.to_dtype(DType::F32).unwrap().narrow(1, 0, 5).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(column[1].iter().map(|token| token[0]).collect::<Vec<_>>(), [1.0, 1.0, 1.0, 2.0, 0.0]);
        assert!(cache.reserve(598).is_err());
        cache.reserve(597).unwrap();
        assert_eq!(cache.capacity, 600);
    }
}
