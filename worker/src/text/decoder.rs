//! The decoder of all llama-like families: what differs between them is configuration and which tensors a file holds.
//!
//! A step takes the new tokens of several sequences as one flat batch of rows. Projections work on the whole batch;
//! attention works sequence by sequence, each on its own cache. No row's result depends on another sequence's rows.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{Device, Result, Tensor};

use crate::engine::Span;
use crate::error::LoadError;
use crate::file::ModelFile;
use crate::text::architecture::{Activation, Architecture, Family};
use crate::text::attention::Attention;
use crate::text::kv::KvPool;
use crate::text::linear::{Linear, linear, load_weight, prefill_rows};
use crate::text::rope::{Angles, Rope};

/// A model's weights, ready to compute with.
#[derive(Debug)]
pub struct Decoder {
    architecture: Architecture,
    device: Device,
    embeddings: Arc<QTensor>,
    layers: Vec<Layer>,
    norm: Norm,
    head: Box<dyn Linear>,
    rope: Rope,
    local_rope: Option<Rope>,
    prefill_rows: usize,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    after_attention_norm: Option<Norm>,
    feed_forward_norm: Norm,
    gate: Projection,
    up: Projection,
    down: Projection,
    after_feed_forward_norm: Option<Norm>,
    attention: Attention,
    is_local: bool,
}

/// A linear map with an optional bias.
#[derive(Debug)]
struct Projection {
    weight: Box<dyn Linear>,
    bias: Option<Tensor>,
}

impl Projection {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let product = self.weight.forward(rows)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

/// An RMS norm over the last dimension. GGUF files hold Gemma's weights with the 1 already added.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    eps: f32,
}

impl Norm {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        candle_nn::ops::rms_norm(rows, &self.weight, self.eps)
    }
}

/// The angles of one batch, for both kinds of layers.
struct BatchAngles {
    global: Angles,
    local: Option<Angles>,
}

/// Where the keys and values of one batch lie.
struct Memory<'a> {
    kv: &'a KvPool,
    spans: &'a [Span<'a>],
    places: &'a [Tensor],
}

impl Decoder {
    /// The numbers of the model.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The device that the weights live on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Tokens of a prompt that go into one step.
    pub fn prefill_rows(&self) -> usize {
        self.prefill_rows
    }

    /// Memory for the keys and values of at most so many blocks.
    pub fn new_kv(&self, blocks_max: usize) -> Result<KvPool> {
        let Architecture { layers, kv_heads, head_dim, .. } = self.architecture;
        KvPool::new(layers, kv_heads, head_dim, blocks_max, &self.device)
    }

    /// Runs one batch. `logits` gets the wanted rows, in the spans' order.
    pub fn step(&self, kv: &mut KvPool, spans: &[Span<'_>], logits: &mut Vec<f32>) -> Result<()> {
        kv.reserve(spans)?;
        let mut tokens = Vec::new();
        let mut positions = Vec::new();
        let mut places = Vec::new();
        let mut wanted = Vec::new();
        for span in spans {
            tokens.extend_from_slice(span.tokens);
            positions.extend(span.position..span.position + span.tokens.len());
            places.push(kv.places(span, &self.device)?);
            let end = tokens.len() as u32;
            wanted.extend(end - span.logits.rows(span.tokens.len()) as u32..end);
        }
        let angles = BatchAngles {
            global: self.rope.angles(&positions, &self.device)?,
            local: self.local_rope.as_ref().map(|rope| rope.angles(&positions, &self.device)).transpose()?,
        };
        let memory = Memory { kv, spans, places: &places };
        let mut rows = self.embed(&tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            rows = self.layer(index, layer, &rows, &angles, &memory)?;
        }
        logits.clear();
        if !wanted.is_empty() {
            logits.extend(self.logits(&rows, wanted)?);
        }
        Ok(())
    }

    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(tokens, &self.device)?;
        let rows = self.embeddings.embedding(&ids)?;
        match self.architecture.embedding_scale {
            Some(scale) => rows * f64::from(scale),
            None => Ok(rows),
        }
    }

    fn layer(
        &self,
        index: usize,
        layer: &Layer,
        rows: &Tensor,
        angles: &BatchAngles,
        memory: &Memory<'_>,
    ) -> Result<Tensor> {
        let mut attended = self.attend(index, layer, &layer.attention_norm.forward(rows)?, angles, memory)?;
        if let Some(norm) = &layer.after_attention_norm {
            attended = norm.forward(&attended)?;
        }
        let rows = (rows + attended)?;
        let normed = layer.feed_forward_norm.forward(&rows)?;
        let gate = layer.gate.forward(&normed)?;
        let gate = match self.architecture.activation {
            Activation::Silu => gate.silu()?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let mut fed = layer.down.forward(&(gate * layer.up.forward(&normed)?)?)?;
        if let Some(norm) = &layer.after_feed_forward_norm {
            fed = norm.forward(&fed)?;
        }
        rows + fed
    }

    fn attend(
        &self,
        index: usize,
        layer: &Layer,
        normed: &Tensor,
        angles: &BatchAngles,
        memory: &Memory<'_>,
    ) -> Result<Tensor> {
        let Architecture { heads, kv_heads, head_dim, .. } = self.architecture;
        let count = normed.dim(0)?;
        let (rope, angles) = match (&self.local_rope, &angles.local) {
            (Some(rope), Some(local)) if layer.is_local => (rope, local),
            _ => (&self.rope, &angles.global),
        };
        let mut queries = layer.query.forward(normed)?.reshape((count, heads, head_dim))?;
        let mut keys = layer.key.forward(normed)?.reshape((count, kv_heads, head_dim))?;
        let values = layer.value.forward(normed)?.reshape((count, kv_heads, head_dim))?;
        if let (Some(query_norm), Some(key_norm)) = (&layer.query_norm, &layer.key_norm) {
            queries = query_norm.forward(&queries)?;
            keys = key_norm.forward(&keys)?;
        }
        let queries = rope.rotate(&queries, angles)?;
        let keys = rope.rotate(&keys, angles)?.transpose(0, 1)?;
        let values = values.transpose(0, 1)?;
        let mut parts = Vec::with_capacity(memory.spans.len());
        let mut first = 0;
        for (span, places) in memory.spans.iter().zip(memory.places) {
            let count = span.tokens.len();
            let (keys, values) = (keys.narrow(1, first, count)?, values.narrow(1, first, count)?);
            let (all_keys, all_values) = memory.kv.append(index, span, places, &keys, &values)?;
            let own = queries.narrow(0, first, count)?;
            parts.push(layer.attention.attend(&own, &all_keys, &all_values, span.position)?);
            first += count;
        }
        layer.output.forward(&Tensor::cat(&parts, 0)?)
    }

    fn logits(&self, rows: &Tensor, wanted: Vec<u32>) -> Result<Vec<f32>> {
        let count = wanted.len();
        let rows = rows.index_select(&Tensor::from_vec(wanted, count, &self.device)?, 0)?;
        let mut logits = self.head.forward(&self.norm.forward(&rows)?)?;
        if let Some(cap) = self.architecture.logit_softcap {
            logits = ((logits / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        logits.flatten_all()?.to_vec1()
    }
}

/// Reads a decoder's tensors, telling `on_bytes` how many bytes of weights are in after each.
pub struct DecoderLoader<'a> {
    /// The open file.
    pub file: &'a ModelFile,
    /// What its header says.
    pub architecture: Architecture,
    /// Where the weights go.
    pub device: Device,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Is told the bytes read so far.
    pub on_bytes: &'a mut dyn FnMut(u64),
    /// Bytes read so far.
    pub bytes: u64,
    /// The fewest rows that any matrix so far wants in a step.
    pub prefill_rows: usize,
}

impl DecoderLoader<'_> {
    /// Reads everything.
    pub fn load(mut self) -> std::result::Result<Decoder, LoadError> {
        let architecture = self.architecture.clone();
        let embeddings = self.tensor("token_embd.weight", &[self.vocabulary, architecture.hidden])?;
        let layers =
            (0..architecture.layers).map(|index| self.layer(index)).collect::<std::result::Result<_, _>>()?;
        let norm = self.norm("output_norm.weight", architecture.hidden)?;
        // Without a matrix of its own the head is the embeddings' one, in its quantised form.
        let head = if self.file.has("output.weight") {
            self.tensor("output.weight", &[self.vocabulary, architecture.hidden])?
        } else {
            embeddings.clone()
        };
        let head = linear(head, &self.device)?;
        let factors = self.rope_factors()?;
        let rope = Rope::new(architecture.rope_pairs, architecture.rope, architecture.head_dim, factors);
        let local_rope = architecture
            .window
            .map(|window| Rope::new(architecture.rope_pairs, window.rope, architecture.head_dim, Vec::new()));
        let prefill_rows = self.prefill_rows;
        Ok(Decoder {
            device: self.device,
            architecture,
            embeddings,
            layers,
            norm,
            head,
            rope,
            local_rope,
            prefill_rows,
        })
    }

    fn layer(&mut self, index: usize) -> std::result::Result<Layer, LoadError> {
        let Architecture { hidden, feed_forward, heads, kv_heads, head_dim, family, .. } = self.architecture;
        let name = |part: &str| format!("blk.{index}.{part}");
        let qk_norms = matches!(family, Family::Qwen3 | Family::Gemma3);
        let post_norms = family == Family::Gemma3;
        let is_local = self.architecture.is_local(index);
        Ok(Layer {
            attention_norm: self.norm(&name("attn_norm.weight"), hidden)?,
            query: self.projection(&name("attn_q"), heads * head_dim, hidden)?,
            key: self.projection(&name("attn_k"), kv_heads * head_dim, hidden)?,
            value: self.projection(&name("attn_v"), kv_heads * head_dim, hidden)?,
            output: self.projection(&name("attn_output"), hidden, heads * head_dim)?,
            query_norm: self.norm_if(qk_norms, &name("attn_q_norm.weight"), head_dim)?,
            key_norm: self.norm_if(qk_norms, &name("attn_k_norm.weight"), head_dim)?,
            after_attention_norm: self.norm_if(post_norms, &name("post_attention_norm.weight"), hidden)?,
            feed_forward_norm: self.norm(&name("ffn_norm.weight"), hidden)?,
            gate: self.projection(&name("ffn_gate"), feed_forward, hidden)?,
            up: self.projection(&name("ffn_up"), feed_forward, hidden)?,
            down: self.projection(&name("ffn_down"), hidden, feed_forward)?,
            after_feed_forward_norm: self.norm_if(post_norms, &name("post_ffw_norm.weight"), hidden)?,
            attention: Attention {
                heads,
                scale: self.architecture.attention_scale,
                softcap: self.architecture.attention_softcap,
                window: self.architecture.window.filter(|_| is_local).map(|window| window.tokens),
            },
            is_local,
        })
    }

    fn tensor(&mut self, name: &str, dims: &[usize]) -> std::result::Result<Arc<QTensor>, LoadError> {
        let tensor = Arc::new(load_weight(&self.file.tensor(name, dims)?, &self.device)?);
        self.file.release(name);
        self.bytes += tensor.storage_size_in_bytes() as u64;
        (self.on_bytes)(self.bytes);
        Ok(tensor)
    }

    fn vector(&mut self, name: &str, len: usize) -> std::result::Result<Tensor, LoadError> {
        Ok(self.tensor(name, &[len])?.dequantize(&self.device)?)
    }

    fn norm(&mut self, name: &str, len: usize) -> std::result::Result<Norm, LoadError> {
        Ok(Norm { weight: self.vector(name, len)?, eps: self.architecture.norm_eps })
    }

    fn norm_if(
        &mut self,
        wanted: bool,
        name: &str,
        len: usize,
    ) -> std::result::Result<Option<Norm>, LoadError> {
        wanted.then(|| self.norm(name, len)).transpose()
    }

    fn projection(
        &mut self,
        name: &str,
        out: usize,
        input: usize,
    ) -> std::result::Result<Projection, LoadError> {
        let weight = self.tensor(&format!("{name}.weight"), &[out, input])?;
        self.prefill_rows = self.prefill_rows.min(prefill_rows(weight.dtype(), &self.device));
        let bias_name = format!("{name}.bias");
        let bias = if self.file.has(&bias_name) { Some(self.vector(&bias_name, out)?) } else { None };
        Ok(Projection { weight: linear(weight, &self.device)?, bias })
    }

    /// Llama 3's divisors of the angles, which its files carry as a tensor.
    fn rope_factors(&mut self) -> std::result::Result<Vec<f32>, LoadError> {
        const NAME: &str = "rope_freqs.weight";
        if !self.file.has(NAME) {
            return Ok(Vec::new());
        }
        Ok(self.vector(NAME, self.architecture.head_dim / 2)?.to_device(&Device::Cpu)?.to_vec1()?)
    }
}
