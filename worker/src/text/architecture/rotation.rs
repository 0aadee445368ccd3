//! What a header says about rotary position embedding.

use crate::error::LoadError;
use crate::file::gguf::Metadata;

/// One set of rotation angles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotation {
    /// Elements of a head that are rotated; the rest stays.
    pub dims: usize,
    /// The base of the geometric series of frequencies.
    pub base: f32,
    /// How positions beyond those of the first training are reached.
    pub scaling: RopeScaling,
}

/// How angles are stretched for contexts that are longer than those of the first training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all, or by divisors that the file holds as a tensor.
    None,
    /// Positions are divided by this.
    Linear(f32),
    /// Low frequencies are divided, high ones are not, and what is between is mixed.
    Yarn {
        /// The divisor.
        factor: f32,
        /// Tokens of context of the first training.
        original_context: usize,
        /// Turns within the original context from which on a frequency stays as it is.
        beta_fast: f32,
        /// Turns within the original context below which a frequency is divided whole.
        beta_slow: f32,
        /// Sines and cosines are multiplied by this, besides what follows from the factor.
        magnitude: f32,
    },
    /// One of two tensors of divisors, for contexts up to the original one and for longer ones.
    LongRope {
        /// Tokens of context up to which the short divisors hold.
        original_context: usize,
        /// Sines and cosines are multiplied by this.
        magnitude: f32,
    },
}

impl Rotation {
    pub(super) fn read(
        metadata: Metadata<'_>,
        name: &str,
        head_dim: usize,
        context_length: usize,
    ) -> Result<Self, LoadError> {
        let key = |suffix: &str| format!("{name}.rope.{suffix}");
        let scaling = |suffix: &str| metadata.float(&key(&format!("scaling.{suffix}")));
        let original_context =
            metadata.count(&key("scaling.original_context_length"))?.unwrap_or(context_length);
        let magnitude = scaling("attn_factor")?;
        let positive = |factor: Option<f32>| factor.filter(|factor| *factor > 0.0);
        let kind = metadata.text(&key("scaling.type"))?.unwrap_or(match magnitude {
            // Files of Phi 3 carry the magnitude and two tensors of divisors, and do not name the kind.
            Some(_) => "longrope",
            None => "linear",
        });
        let scaling = match kind {
            "none" => RopeScaling::None,
            "linear" => positive(scaling("factor")?.or(metadata.float(&key("scale_linear"))?))
                .map_or(RopeScaling::None, RopeScaling::Linear),
            "longrope" => RopeScaling::LongRope { original_context, magnitude: magnitude.unwrap_or(1.0) },
            "yarn" => RopeScaling::Yarn {
                factor: positive(scaling("factor")?).ok_or_else(|| {
                    LoadError::Corrupted(format!("the header lacks {}", key("scaling.factor")))
                })?,
                original_context,
                beta_fast: scaling("yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: scaling("yarn_beta_slow")?.unwrap_or(1.0),
                magnitude: magnitude.unwrap_or(1.0),
            },
            other => return Err(LoadError::Unsupported(format!("rope scaling of type '{other}'"))),
        };
        Ok(Self {
            dims: metadata.count(&key("dimension_count"))?.unwrap_or(head_dim),
            base: metadata.float(&key("freq_base"))?.unwrap_or(10_000.0),
            scaling,
        })
    }
}
