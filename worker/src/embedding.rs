//! Embedding and rerank models: encoders of the BERT family, read from a folder of safetensors.
//!
//! A batch is flat: the tokens of all its texts stand in one row of rows, without padding, and only attention knows where a
//! text ends. What a text gets does not depend on the texts beside it, to the bit.

pub mod architecture;
mod batch;
pub mod encoder;
pub mod engine;
mod head;
pub mod model;
pub mod pooling;
pub mod tokenizer;
mod weights;
