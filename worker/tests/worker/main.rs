//! The worker through its own door: the real program on small models of random weights, and the real models against
//! llama.cpp's recorded answers.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod answers;
mod batching;
mod constraints;
mod decoder;
mod embeddings;
mod encoder_model;
mod infill;
mod lifecycle;
mod memory;
mod oracle;
mod oracle_batching;
mod perplexity;
mod process;
mod refusals;
mod sampling;
mod tiny_model;
mod tokens;
