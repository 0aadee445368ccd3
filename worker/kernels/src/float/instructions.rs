//! Which instructions the processor at hand has. Asked once; tests go through all that there are.

use std::sync::OnceLock;

/// A set of processor instructions that products are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// Whatever the target has for certain.
    Plain,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
    /// 512-bit vectors, and dot products of `bf16` pairs.
    Avx512Bf16,
}

impl Instructions {
    /// All sets that this processor has, the best last.
    pub fn available() -> Vec<Self> {
        let mut sets = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2 && is_x86_feature_detected!("avx512f");
            let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
            let found = [(avx2, Self::Avx2), (avx512, Self::Avx512), (bf16, Self::Avx512Bf16)];
            sets.extend(found.into_iter().filter(|(found, _)| *found).map(|(_, set)| set));
        }
        sets
    }

    /// The best set that this processor has.
    pub fn best() -> Self {
        static BEST: OnceLock<Instructions> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::Plain))
    }
}
