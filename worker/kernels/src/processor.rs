//! What the processor at hand can do.

use std::sync::OnceLock;

/// A family of instructions that products are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// No instructions by name. What the others are tested against.
    Plain,
    /// 256-bit vectors with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same with products of bytes in one instruction.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// 512-bit vectors with products of bytes in one instruction.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 128-bit vectors with products of bytes in one instruction.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Processor {
    /// The best family that works here.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Processor> = OnceLock::new();
        *DETECTED.get_or_init(|| Self::available().last().copied().unwrap_or(Self::Plain))
    }

    /// Every family that works here, the best one last.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if has_avx2 {
                found.push(Self::Avx2);
            }
            if has_avx2 && is_x86_feature_detected!("avxvnni") {
                found.push(Self::AvxVnni);
            }
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if has_avx2 && has_avx512 {
                found.push(Self::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod")
            && std::arch::is_aarch64_feature_detected!("fp16")
        {
            found.push(Self::Neon);
        }
        found
    }
}
