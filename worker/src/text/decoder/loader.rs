//! Reads a decoder's tensors from its file, one after the other.

use std::sync::Arc;

use super::{Decoder, EMBEDDINGS, Layer};
use crate::error::LoadError;
use crate::file::{ModelFile, StoredTensor};
use crate::text::architecture::{Architecture, Family, NormPlace, RopeScaling};
use crate::text::compute::{Compute, Heads, StackedMatrix};
use crate::text::rope::Rope;

/// Reads a decoder's tensors, telling `on_bytes` how many bytes of weights are in after each.
pub struct DecoderLoader<'a> {
    file: &'a Arc<ModelFile>,
    architecture: &'a Architecture,
    on_bytes: &'a mut dyn FnMut(u64),
    bytes: u64,
    weights: usize,
}

/// Which norms a layer has, and of what width.
struct Norms {
    before: bool,
    after: bool,
}

impl<'a> DecoderLoader<'a> {
    /// A loader that has read nothing yet.
    pub fn new(
        file: &'a Arc<ModelFile>,
        architecture: &'a Architecture,
        on_bytes: &'a mut dyn FnMut(u64),
    ) -> Self {
        Self { file, architecture, on_bytes, bytes: 0, weights: 0 }
    }

    /// Reads everything into `compute`.
    pub fn load<C: Compute>(mut self, compute: C, vocabulary: usize) -> Result<Decoder<C>, LoadError> {
        let hidden = self.architecture.hidden;
        let layers = (0..self.architecture.layers)
            .map(|index| self.layer(&compute, index))
            .collect::<Result<Vec<_>, _>>()?;
        let prefill_tokens = compute.prefill_tokens(self.weights);
        let norm = self.vector(&compute, "output_norm.weight", hidden)?;
        // Without a matrix of its own the head is the embeddings' one, in its quantised form.
        let embeddings = self.file.tensor(EMBEDDINGS, &[vocabulary, hidden])?;
        let head = if self.file.has("output.weight") {
            self.matrix(&compute, hidden, &[("output", vocabulary)])?
        } else {
            compute.tied_head(&embeddings)?
        };
        self.count(EMBEDDINGS, embeddings.bytes.len());
        Ok(Decoder { compute, layers, norm, head, vocabulary, prefill_tokens })
    }

    fn layer<C: Compute>(&mut self, compute: &C, index: usize) -> Result<Layer<C>, LoadError> {
        let Architecture { hidden, feed_forward, family, .. } = *self.architecture;
        let (queries, keys) = (self.architecture.query_width(), self.architecture.key_width());
        let name = |part: &str| format!("blk.{index}.{part}");
        let norms = match family.norms() {
            NormPlace::Before => Norms { before: true, after: false },
            NormPlace::BeforeAndAfter => Norms { before: true, after: true },
            NormPlace::After => Norms { before: false, after: true },
        };
        let (q, k, v) = (name("attn_q"), name("attn_k"), name("attn_v"));
        let (qkv, gate, up) = (name("attn_qkv"), name("ffn_gate"), name("ffn_up"));
        // Phi 3 stores what belongs together as one tensor.
        let is_fused = family == Family::Phi3;
        let heads_parts: &[(&str, usize)] =
            if is_fused { &[(&qkv, queries + 2 * keys)] } else { &[(&q, queries), (&k, keys), (&v, keys)] };
        let gate_parts: &[(&str, usize)] =
            if is_fused { &[(&up, 2 * feed_forward)] } else { &[(&gate, feed_forward), (&up, feed_forward)] };
        Ok(Layer {
            attention_norm: self.vector_if(norms.before, compute, &name("attn_norm.weight"), hidden)?,
            queries_keys_values: self.matrix(compute, hidden, heads_parts)?,
            heads: self.heads(compute, index)?,
            output: self.matrix(compute, queries, &[(&name("attn_output"), hidden)])?,
            after_attention_norm: self.vector_if(
                norms.after,
                compute,
                &name("post_attention_norm.weight"),
                hidden,
            )?,
            feed_forward_norm: self.vector_if(norms.before, compute, &name("ffn_norm.weight"), hidden)?,
            gate_and_up: self.matrix(compute, hidden, gate_parts)?,
            down: self.matrix(compute, feed_forward, &[(&name("ffn_down"), hidden)])?,
            after_feed_forward_norm: self.vector_if(
                norms.after,
                compute,
                &name("post_ffw_norm.weight"),
                hidden,
            )?,
        })
    }

    fn heads<C: Compute>(&mut self, compute: &C, index: usize) -> Result<Heads<C::Vector>, LoadError> {
        let Architecture { head_dim, family, .. } = *self.architecture;
        let together = family.norms_heads_together();
        let width = |all: usize| if together { all } else { head_dim };
        let (queries, keys) = (width(self.architecture.query_width()), width(self.architecture.key_width()));
        let norms = family.norms_queries();
        Ok(Heads {
            query_norm: self.vector_if(
                norms,
                compute,
                &format!("blk.{index}.attn_q_norm.weight"),
                queries,
            )?,
            key_norm: self.vector_if(norms, compute, &format!("blk.{index}.attn_k_norm.weight"), keys)?,
            is_local: self.architecture.is_local(index),
            rotates: self.architecture.rotates(index),
        })
    }

    /// Counts a tensor that is in, and lets go of the file's pages.
    fn count(&mut self, name: &str, bytes: usize) {
        self.file.release(name);
        self.bytes += bytes as u64;
        (self.on_bytes)(self.bytes);
    }

    /// Stacks matrices of one width; each has a name, to which `.weight` belongs and perhaps `.bias`, and outputs.
    fn matrix<C: Compute>(
        &mut self,
        compute: &C,
        inputs: usize,
        parts: &[(&str, usize)],
    ) -> Result<C::Matrix, LoadError> {
        let file = self.file.clone();
        let mut stacked = Vec::with_capacity(parts.len());
        for (name, outputs) in parts {
            let weights = file.tensor(&format!("{name}.weight"), &[*outputs, inputs])?;
            self.weights += inputs * outputs;
            let bias_name = format!("{name}.bias");
            let bias = if file.has(&bias_name) { Some(self.numbers(&bias_name, *outputs)?) } else { None };
            stacked.push(StackedMatrix { weights, bias });
        }
        let matrix = compute.matrix(inputs, &stacked)?;
        for ((name, _), part) in parts.iter().zip(&stacked) {
            self.count(&format!("{name}.weight"), part.weights.bytes.len());
        }
        Ok(matrix)
    }

    fn numbers(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let stored = self.file.tensor(name, &[len])?;
        let numbers = dequantized(&stored, len);
        let bytes = stored.bytes.len();
        self.count(name, bytes);
        Ok(numbers)
    }

    fn vector<C: Compute>(&mut self, compute: &C, name: &str, len: usize) -> Result<C::Vector, LoadError> {
        compute.vector(self.numbers(name, len)?)
    }

    fn vector_if<C: Compute>(
        &mut self,
        wanted: bool,
        compute: &C,
        name: &str,
        len: usize,
    ) -> Result<Option<C::Vector>, LoadError> {
        wanted.then(|| self.vector(compute, name, len)).transpose()
    }
}

fn dequantized(stored: &StoredTensor<'_>, len: usize) -> Vec<f32> {
    let mut numbers = vec![0.0; len];
    kernels::dequantize(stored.format, stored.bytes, &mut numbers);
    numbers
}

/// The angles of a model's global layers, and of its local ones if they have others, for contexts up to this limit.
pub fn load_ropes(
    file: &ModelFile,
    architecture: &Architecture,
    context_limit: usize,
) -> Result<(Rope, Option<Rope>), LoadError> {
    let rotation = architecture.rotation;
    let name = match rotation.scaling {
        RopeScaling::LongRope { original_context, .. } if context_limit > original_context => {
            Some("rope_factors_long.weight")
        }
        RopeScaling::LongRope { .. } => Some("rope_factors_short.weight"),
        // Llama 3's divisors, which its files carry as a tensor.
        _ => Some("rope_freqs.weight").filter(|name| file.has(name)),
    };
    let half = rotation.dims / 2;
    let factors =
        name.map(|name| file.tensor(name, &[half]).map(|stored| dequantized(&stored, half))).transpose()?;
    let local = architecture.window.map(|window| window.rotation).filter(|local| *local != rotation);
    Ok((
        Rope::new(rotation, factors.unwrap_or_default()),
        local.map(|rotation| Rope::new(rotation, Vec::new())),
    ))
}
