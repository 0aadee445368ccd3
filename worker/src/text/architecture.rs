//! What a GGUF header says about a decoder, for the families that we know. An unknown family is an error, never a guess.

mod family;
mod rotation;

use kernels::activation::Activation;
use kernels::rope::RopePairs;

pub use family::{Family, NormPlace};
pub use rotation::{RopeScaling, Rotation};

use crate::error::LoadError;
use crate::file::gguf::Metadata;

/// Layers that see only the nearest tokens, and how they differ from the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlidingWindow {
    /// Tokens that a layer sees, the present one included.
    pub tokens: usize,
    /// Of this many layers in a row all are local but the last; if absent, all layers are.
    pub pattern: Option<usize>,
    /// The angles of the local layers.
    pub rotation: Rotation,
}

/// Everything that tells one decoder of these families from another, bar the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The family.
    pub family: Family,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; `heads` is a multiple of it.
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// The epsilon of every RMS norm.
    pub norm_eps: f32,
    /// Tokens that the model was trained to see.
    pub context_length: usize,
    /// Which elements are rotated together.
    pub rope_pairs: RopePairs,
    /// The angles of the layers that see everything.
    pub rotation: Rotation,
    /// Of this many layers in a row the last does not rotate.
    pub unrotated_every: Option<usize>,
    /// The local layers, if there are any.
    pub window: Option<SlidingWindow>,
    /// Scores are q·k times this.
    pub attention_scale: f32,
    /// Scores s become cap · tanh(s / cap).
    pub attention_softcap: Option<f32>,
    /// Logits are multiplied by this.
    pub logit_scale: f32,
    /// Logits l become cap · tanh(l / cap).
    pub logit_softcap: Option<f32>,
    /// Token embeddings are multiplied by this.
    pub embedding_scale: f32,
    /// What attention and feed-forward add to the residual stream is multiplied by this.
    pub residual_scale: f32,
    /// The feed-forward part's nonlinearity.
    pub activation: Activation,
}

impl Architecture {
    /// Reads the header's numbers and refuses what this decoder would compute wrongly.
    pub fn read(metadata: Metadata<'_>) -> Result<Self, LoadError> {
        let name = metadata.required_text("general.architecture")?;
        let family = Family::from_name(name)?;
        let key = |suffix: &str| format!("{name}.{suffix}");
        let positive =
            |suffix: &str| Ok::<_, LoadError>(metadata.float(&key(suffix))?.filter(|number| *number > 0.0));
        let hidden = metadata.required_count(&key("embedding_length"))?;
        let heads = metadata
            .uniform_count(&key("attention.head_count"))?
            .ok_or_else(|| LoadError::Corrupted(format!("the header lacks {name}.attention.head_count")))?;
        let kv_heads = metadata.uniform_count(&key("attention.head_count_kv"))?.unwrap_or(heads);
        let mean_head_dim = hidden.checked_div(heads).unwrap_or(0);
        let head_dim = metadata.count(&key("attention.key_length"))?.unwrap_or(mean_head_dim);
        let layers = metadata.required_count(&key("block_count"))?;
        let context_length = metadata.required_count(&key("context_length"))?;
        // The largest Gemmas scale by the mean head width instead of the true one.
        let scale_dim = if family.largest_layers() == Some(layers) { mean_head_dim } else { head_dim };
        let own_scales = family == Family::Granite;
        let scale = |suffix: &str| Ok::<_, LoadError>(if own_scales { positive(suffix)? } else { None });
        let embedding_scale = match scale("embedding_scale")? {
            None if family.is_gemma() => (hidden as f32).sqrt(),
            given => given.unwrap_or(1.0),
        };
        let rotation = Rotation::read(metadata, name, head_dim, context_length)?;
        let architecture = Self {
            family,
            layers,
            hidden,
            feed_forward: metadata.uniform_count(&key("feed_forward_length"))?.unwrap_or(0),
            heads,
            kv_heads,
            head_dim,
            norm_eps: metadata.required_float(&key("attention.layer_norm_rms_epsilon"))?,
            context_length,
            rope_pairs: family.rope_pairs(),
            rotation,
            unrotated_every: family.unrotated_every(),
            window: read_window(metadata, name, family, rotation)?,
            attention_scale: scale("attention.scale")?.unwrap_or(1.0 / (scale_dim as f32).sqrt()),
            attention_softcap: positive("attn_logit_softcapping")?,
            logit_scale: scale("logit_scale")?.map_or(1.0, |divisor| 1.0 / divisor),
            logit_softcap: positive("final_logit_softcapping")?,
            embedding_scale,
            residual_scale: scale("residual_scale")?.unwrap_or(1.0),
            activation: if family.is_gemma() { Activation::GeluTanh } else { Activation::Silu },
        };
        architecture.check(metadata, name)?;
        Ok(architecture)
    }

    fn check(&self, metadata: Metadata<'_>, name: &str) -> Result<(), LoadError> {
        let counts = [self.layers, self.hidden, self.feed_forward, self.heads, self.kv_heads, self.head_dim];
        // Far above any model of these families, and low enough that no product of two of them overflows.
        if counts.iter().chain([&self.context_length]).any(|count| *count == 0 || *count > 1 << 28) {
            return Err(LoadError::Corrupted(format!("the header's sizes are impossible: {self:?}")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) || !self.head_dim.is_multiple_of(2) {
            return Err(LoadError::Corrupted(format!(
                "{} query heads of {} elements do not fit {} key heads",
                self.heads, self.head_dim, self.kv_heads
            )));
        }
        let unlike = |what: &str| Err(LoadError::Unsupported(format!("{name} model with {what}")));
        if metadata.count(&format!("{name}.expert_count"))?.unwrap_or(0) > 0 {
            return unlike("mixture of experts");
        }
        if metadata
            .count(&format!("{name}.attention.value_length"))?
            .is_some_and(|length| length != self.head_dim)
        {
            return unlike("value heads of another width than its key heads");
        }
        if self.rotation.dims > self.head_dim || !self.rotation.dims.is_multiple_of(2) {
            return Err(LoadError::Corrupted(format!(
                "{} of {} elements of a head cannot be rotated in pairs",
                self.rotation.dims, self.head_dim
            )));
        }
        Ok(())
    }

    /// Whether a layer sees only the nearest tokens.
    pub fn is_local(&self, layer: usize) -> bool {
        self.window.is_some_and(|window| window.pattern.is_none_or(|pattern| layer % pattern < pattern - 1))
    }

    /// Whether a layer rotates its queries and keys.
    pub fn rotates(&self, layer: usize) -> bool {
        self.unrotated_every.is_none_or(|every| !(layer + 1).is_multiple_of(every))
    }

    /// Elements of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of all key heads together.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

fn read_window(
    metadata: Metadata<'_>,
    name: &str,
    family: Family,
    global: Rotation,
) -> Result<Option<SlidingWindow>, LoadError> {
    let read = metadata.count(&format!("{name}.attention.sliding_window"))?;
    let (default_tokens, default_pattern) = match family {
        Family::Gemma2 => (Some(4096), Some(2)),
        Family::Gemma3 => (None, Some(6)),
        Family::Phi3 => (None, None),
        _ => return Ok(None),
    };
    let Some(tokens) = read.or(default_tokens).filter(|tokens| *tokens > 0) else { return Ok(None) };
    // The files of these families carry neither pattern nor base as a rule.
    let pattern = metadata.uniform_count(&format!("{name}.attention.sliding_window_pattern"))?;
    let pattern = pattern.filter(|pattern| *pattern > 0).or(default_pattern);
    let rotation = if family == Family::Gemma3 {
        let base = metadata.float(&format!("{name}.rope.freq_base_swa"))?.unwrap_or(10_000.0);
        Rotation { base, scaling: RopeScaling::None, ..global }
    } else {
        global
    };
    Ok(Some(SlidingWindow { tokens, pattern, rotation }))
}
