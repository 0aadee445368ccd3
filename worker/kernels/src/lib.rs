//! The arithmetic of inference on a CPU: threads that share work, weights packed for the processor at hand, products.
//!
//! This is the one crate of the workspace with unsafe code: processor instructions by name and memory shared by threads.
//! It knows numbers only. What a model, a token or a file is, others know.
//!
//! Every result is the same to the bit whatever the number of threads and whichever rows share a product: the order in
//! which an output's terms are added is fixed by its own row and its own weights.

#![expect(unsafe_code, reason = "processor instructions and memory shared by threads are this crate's trade")]
#![cfg_attr(test, expect(clippy::float_cmp, reason = "results are promised to the bit"))]

pub mod activation;
pub mod attention;
pub mod dequantize;
pub mod float;
pub mod format;
pub mod kv;
pub mod matrix;
pub mod norm;
pub mod pool;
pub mod processor;
pub mod rope;
pub mod rows;

mod blocks;
mod chunks;
mod lanes;
mod memory;

pub use dequantize::dequantize;
pub use format::Format;
pub use matrix::{Matrix, PackError, Source};
pub use pool::Pool;
pub use processor::Processor;
pub use rows::Rows;
