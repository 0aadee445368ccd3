//! POST /v1/embeddings.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::vectors::{EmbeddingInput, EncodingFormat, Vector, VectorUsage};

/// Request body. Unknown fields are accepted; `user` means nothing here.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(example = json!({"model": "all-minilm-l6-v2", "input": ["a first text", "a second one"]}))]
pub struct EmbeddingRequest {
    /// A model's name, or an alias; the server's default model, if it has one, where this is absent.
    #[serde(default)]
    pub model: String,
    /// One text or up to 2048, each as a string or as tokens of the model.
    pub input: EmbeddingInput,
    /// How the vectors are written; as numbers if absent.
    pub encoding_format: Option<EncodingFormat>,
    /// Numbers to keep of each vector; all if absent.
    pub dimensions: Option<u32>,
    /// rbee: leave out the end of what is too long for the model, instead of refusing it.
    pub truncate: Option<bool>,
}

/// Answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EmbeddingList {
    /// Always "list".
    pub object: &'static str,
    /// One for each text, in their order.
    pub data: Vec<Embedding>,
    /// The model that answered.
    pub model: String,
    /// What it consumed.
    pub usage: VectorUsage,
}

/// The vector of one text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Embedding {
    /// Always "embedding".
    pub object: &'static str,
    /// The text's place in the request.
    pub index: u32,
    /// The vector.
    pub embedding: Vector,
}
