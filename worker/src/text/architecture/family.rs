//! The families of decoders, and what each of them does that its header does not say.

use kernels::rope::RopePairs;

use crate::error::LoadError;

/// A family of llama-like decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama, Mistral, SmolLM and all that GGUF files call "llama".
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3 without experts.
    Qwen3,
    /// The first Gemma.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, its text part.
    Gemma3,
    /// Phi 3, 3.5 and 4 mini.
    Phi3,
    /// Granite without experts.
    Granite,
    /// SmolLM 3.
    SmolLm3,
    /// OLMo 2.
    Olmo2,
}

/// Where the norms of attention and feed-forward stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlace {
    /// Before each part.
    Before,
    /// Before each part, and before its result joins the stream.
    BeforeAndAfter,
    /// Before each part's result joins the stream.
    After,
}

impl Family {
    const ALL: [(&'static str, Self); 10] = [
        ("llama", Self::Llama),
        ("qwen2", Self::Qwen2),
        ("qwen3", Self::Qwen3),
        ("gemma", Self::Gemma),
        ("gemma2", Self::Gemma2),
        ("gemma3", Self::Gemma3),
        ("phi3", Self::Phi3),
        ("granite", Self::Granite),
        ("smollm3", Self::SmolLm3),
        ("olmo2", Self::Olmo2),
    ];

    /// The family that a header names.
    pub fn from_name(name: &str) -> Result<Self, LoadError> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, family)| *family).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(known, _)| *known).collect();
            LoadError::Unsupported(format!(
                "the model's architecture is '{name}'; this build knows {}",
                known.join(", ")
            ))
        })
    }

    /// Whether it is one of the Gemmas, which scale their embeddings and gate by GELU.
    pub fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }

    /// Where its norms stand.
    pub fn norms(self) -> NormPlace {
        match self {
            Self::Gemma2 | Self::Gemma3 => NormPlace::BeforeAndAfter,
            Self::Olmo2 => NormPlace::After,
            _ => NormPlace::Before,
        }
    }

    /// Whether queries and keys are normed before they are rotated: each head by itself, but in OLMo 2.
    pub fn norms_queries(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Gemma3 | Self::Olmo2)
    }

    /// Whether one norm covers all heads of a row.
    pub fn norms_heads_together(self) -> bool {
        self == Self::Olmo2
    }

    /// GGUF files of the llama family permute their query and key rows so that neighbours are rotated together.
    pub(super) fn rope_pairs(self) -> RopePairs {
        match self {
            Self::Llama | Self::Granite | Self::SmolLm3 => RopePairs::Interleaved,
            _ => RopePairs::Halves,
        }
    }

    /// Of this many layers in a row the last does not rotate.
    pub(super) fn unrotated_every(self) -> Option<usize> {
        (self == Self::SmolLm3).then_some(4)
    }

    /// The number of layers of the family's member that scales its scores otherwise than the others.
    pub(super) fn largest_layers(self) -> Option<usize> {
        match self {
            Self::Gemma2 => Some(46),
            Self::Gemma3 => Some(62),
            _ => None,
        }
    }
}
