//! Products of plain numbers, and what an encoder needs around them.
//!
//! Rows of `f32` meet weights that are packed once into panels of [`PANEL`] outputs. An output's terms are added one by one,
//! from the first input to the last, in one chain that begins at its bias: which rows share a product, how many they are and
//! who computes them changes no bit.

#![expect(
    clippy::inline_always,
    reason = "a body takes on the instructions of the function that it is inlined into, and of no other"
)]

pub mod activation;
pub mod attention;
mod lanes;
mod matrix;
pub mod norm;
mod panels;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use matrix::{FloatMatrix, Operands, Store};
pub use panels::PANEL;
