//! Plain loops that the compiler turns into vectors, once for each set of instructions.

/// How `a · b + c` is computed: in one rounding where the processor has an instruction for it.
pub trait MultiplyAdd: Copy {
    /// `a · b + c`.
    fn multiply_add(a: f32, b: f32, c: f32) -> f32;
}

/// In one instruction.
#[derive(Clone, Copy)]
pub struct Fused;

/// In two: without an instruction, the fused form would be a call into a library for each number.
#[derive(Clone, Copy)]
pub struct Separate;

impl MultiplyAdd for Fused {
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl MultiplyAdd for Separate {
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// What the target has for certain.
#[cfg(target_arch = "aarch64")]
pub type Baseline = Fused;
/// What the target has for certain.
#[cfg(not(target_arch = "aarch64"))]
pub type Baseline = Separate;

/// Defines a function from a body that is generic over [`MultiplyAdd`]: compiled for each set of instructions, and the best
/// of them chosen at each call.
macro_rules! vectorized {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $visibility fn $name($($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512($($argument: $type),*) {
                    $body::<$crate::float::lanes::Fused>($($argument),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) {
                    $body::<$crate::float::lanes::Fused>($($argument),*);
                }
                use $crate::processor::Processor;
                match Processor::detect() {
                    // SAFETY: the processor has them, or it would not be called so.
                    Processor::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    Processor::Avx2 | Processor::AvxVnni => return unsafe { avx2($($argument),*) },
                    Processor::Plain => {}
                }
            }
            $body::<$crate::float::lanes::Baseline>($($argument),*);
        }
    };
}
pub(crate) use vectorized;

/// Sums and maxima are taken in this many interleaved lanes, so that their order is the same for every vector width.
pub const LANES: usize = 16;

/// The sum of one value for each lane, by halves.
#[inline(always)]
pub fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}
