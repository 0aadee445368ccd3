//! What a GGUF header says about a decoder, for the families that we know. An unknown family is an error, never a guess.

use crate::error::LoadError;
use crate::file::gguf::Metadata;

/// A family of llama-like decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama, Mistral, SmolLM and all that GGUF files call "llama".
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3 without experts.
    Qwen3,
    /// Gemma 3, its text part.
    Gemma3,
}

impl Family {
    const ALL: [(&'static str, Self); 4] =
        [("llama", Self::Llama), ("qwen2", Self::Qwen2), ("qwen3", Self::Qwen3), ("gemma3", Self::Gemma3)];

    fn from_name(name: &str) -> Result<Self, LoadError> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, family)| *family).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(known, _)| *known).collect();
            LoadError::Unsupported(format!(
                "the model's architecture is '{name}'; this build knows {}",
                known.join(", ")
            ))
        })
    }
}

/// Which elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// Neighbours: GGUF files of the llama family permute their q and k rows for it.
    Interleaved,
    /// Element i with element i + half.
    Halves,
}

/// One set of rotation angles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeScale {
    /// The base of the geometric series of frequencies.
    pub base: f32,
    /// Positions are multiplied by it: 1, or 1 / factor under linear scaling.
    pub position_scale: f32,
}

/// Layers that see only the nearest tokens, and how they differ from the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlidingWindow {
    /// Tokens that a layer sees, the present one included.
    pub tokens: usize,
    /// Of this many layers in a row all are local but the last.
    pub pattern: usize,
    /// The angles of the local layers.
    pub rope: RopeScale,
}

/// The nonlinearity of the gated feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
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
    pub rope: RopeScale,
    /// The local layers, if there are any.
    pub window: Option<SlidingWindow>,
    /// Scores are q·k times this.
    pub attention_scale: f32,
    /// Scores s become cap · tanh(s / cap).
    pub attention_softcap: Option<f32>,
    /// Logits l become cap · tanh(l / cap).
    pub logit_softcap: Option<f32>,
    /// Token embeddings are multiplied by this.
    pub embedding_scale: Option<f32>,
    /// The feed-forward part's nonlinearity.
    pub activation: Activation,
}

impl Architecture {
    /// Reads the header's numbers and refuses what this decoder would compute wrongly.
    pub fn read(metadata: Metadata<'_>) -> Result<Self, LoadError> {
        let name = metadata.required_text("general.architecture")?;
        let family = Family::from_name(name)?;
        let key = |suffix: &str| format!("{name}.{suffix}");
        let hidden = metadata.required_count(&key("embedding_length"))?;
        let heads = metadata
            .uniform_count(&key("attention.head_count"))?
            .ok_or_else(|| LoadError::Corrupted(format!("the header lacks {name}.attention.head_count")))?;
        let kv_heads = metadata.uniform_count(&key("attention.head_count_kv"))?.unwrap_or(heads);
        let head_dim = match metadata.count(&key("attention.key_length"))? {
            Some(length) => length,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        let gemma = family == Family::Gemma3;
        let layers = metadata.required_count(&key("block_count"))?;
        // Gemma 3 of 62 layers (27B) scales by the mean head width instead of the true one.
        let scale_dim = if gemma && layers == 62 { hidden / heads.max(1) } else { head_dim };
        let architecture = Self {
            family,
            layers,
            hidden,
            feed_forward: metadata.uniform_count(&key("feed_forward_length"))?.unwrap_or(0),
            heads,
            kv_heads,
            head_dim,
            norm_eps: metadata.required_float(&key("attention.layer_norm_rms_epsilon"))?,
            context_length: metadata.required_count(&key("context_length"))?,
            rope_pairs: if family == Family::Llama { RopePairs::Interleaved } else { RopePairs::Halves },
            rope: read_rope(metadata, name)?,
            window: if gemma { read_window(metadata, name)? } else { None },
            attention_scale: 1.0 / (scale_dim as f32).sqrt(),
            attention_softcap: metadata.float(&key("attn_logit_softcapping"))?.filter(|cap| *cap > 0.0),
            logit_softcap: metadata.float(&key("final_logit_softcapping"))?.filter(|cap| *cap > 0.0),
            embedding_scale: gemma.then(|| (hidden as f32).sqrt()),
            activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
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
        if metadata
            .count(&format!("{name}.rope.dimension_count"))?
            .is_some_and(|count| count != self.head_dim)
        {
            return unlike("partial rotary embedding");
        }
        Ok(())
    }

    /// Whether a layer sees only the nearest tokens.
    pub fn is_local(&self, layer: usize) -> bool {
        self.window.is_some_and(|window| layer % window.pattern < window.pattern - 1)
    }
}

fn read_rope(metadata: Metadata<'_>, name: &str) -> Result<RopeScale, LoadError> {
    let base = metadata.float(&format!("{name}.rope.freq_base"))?.unwrap_or(10_000.0);
    let kind = metadata.text(&format!("{name}.rope.scaling.type"))?;
    let factor = match kind {
        None => metadata.float(&format!("{name}.rope.scale_linear"))?,
        Some("none") => None,
        Some("linear") => metadata.float(&format!("{name}.rope.scaling.factor"))?,
        Some(other) => return Err(LoadError::Unsupported(format!("rope scaling of type '{other}'"))),
    };
    let position_scale = factor.filter(|factor| *factor > 0.0).map_or(1.0, |factor| 1.0 / factor);
    Ok(RopeScale { base, position_scale })
}

fn read_window(metadata: Metadata<'_>, name: &str) -> Result<Option<SlidingWindow>, LoadError> {
    let Some(tokens) =
        metadata.count(&format!("{name}.attention.sliding_window"))?.filter(|tokens| *tokens > 0)
    else {
        return Ok(None);
    };
    // The files of this family carry neither number as a rule: five local layers to a global one, base 10000.
    let pattern = metadata.count(&format!("{name}.attention.sliding_window_pattern"))?.unwrap_or(6).max(1);
    let base = metadata.float(&format!("{name}.rope.freq_base_swa"))?.unwrap_or(10_000.0);
    Ok(Some(SlidingWindow { tokens, pattern, rope: RopeScale { base, position_scale: 1.0 } }))
}
