//! Products that candle does not compute well enough for us, on the CPU.
//!
//! This is the one room where `unsafe` is allowed: to call code that was compiled for processor features which were asked
//! for at run time first.

mod q4_1;

pub use q4_1::Q4_1Matrix;
