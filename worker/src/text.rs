//! Text generation: from a GGUF file and a request to tokens and back to text.
//!
//! What is not here: who runs when (`engine`), and the wire (`http`).

pub mod answer;
pub mod architecture;
pub mod compute;
pub mod constraint;
pub mod decoder;
pub mod language;
pub mod model;
pub mod reasoning;
pub mod rope;
pub mod sampler;
pub mod template;
pub mod tokenizer;
pub mod tools;
pub mod vocabulary;
