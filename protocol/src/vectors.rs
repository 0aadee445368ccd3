//! What a worker with an embedding or a rerank model is asked and what it answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Texts to make vectors of: one or several, each as text or as tokens of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingInput {
    /// One text.
    Text(String),
    /// One text as tokens, taken as they are.
    Tokens(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several texts as tokens.
    TokenLists(Vec<Vec<u32>>),
}

impl EmbeddingInput {
    /// How many texts there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(_) => 1,
            Self::Tokens(tokens) => usize::from(!tokens.is_empty()),
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }

    /// How much they take in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => size_of_val(&**tokens),
            Self::Texts(texts) => texts.iter().map(String::len).sum(),
            Self::TokenLists(lists) => lists.iter().map(|tokens| size_of_val(&**tokens)).sum(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How numbers are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodingFormat {
    /// As JSON numbers.
    #[default]
    Float,
    /// As the base64 of their bytes, four each, the lowest first.
    Base64,
}

/// A vector in either form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Vector {
    /// JSON numbers.
    Float(Vec<f32>),
    /// The base64 of their bytes.
    Base64(String),
}

/// Body of a worker's POST /v1/embed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EmbedRequest {
    /// The name by which POST /v1/cancel finds this execution; chosen by the worker if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The texts.
    pub input: EmbeddingInput,
    /// Numbers to keep of each vector, whose length is then made 1 again; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// Leave out the end of what is too long for the model, instead of refusing it.
    #[serde(default)]
    pub truncate: bool,
    /// How the vectors are written.
    #[serde(default)]
    pub encoding_format: EncodingFormat,
}

/// What a request for vectors consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VectorUsage {
    /// Tokens of all texts, special ones included.
    pub prompt_tokens: u32,
    /// The same.
    pub total_tokens: u32,
}

impl VectorUsage {
    /// The usage of so many tokens.
    pub fn of(tokens: u32) -> Self {
        Self { prompt_tokens: tokens, total_tokens: tokens }
    }
}

/// Answer of a worker's POST /v1/embed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbedResponse {
    /// One vector for each text, in their order.
    pub embeddings: Vec<Vector>,
    /// The model's name.
    pub model: String,
    /// What it consumed.
    pub usage: VectorUsage,
}

/// Body of a worker's POST /v1/rerank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScoreRequest {
    /// The name by which POST /v1/cancel finds this execution; chosen by the worker if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What is looked for.
    pub query: String,
    /// Where it may be found.
    pub documents: Vec<String>,
    /// Leave out what a document has beyond so many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_tokens: Option<u32>,
    /// Leave out the end of what is too long for the model, instead of refusing it.
    #[serde(default)]
    pub truncate: bool,
}

/// Answer of a worker's POST /v1/rerank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScoreResponse {
    /// How relevant each document is, from 0 to 1, in their order.
    pub scores: Vec<f32>,
    /// The model's name.
    pub model: String,
    /// What it consumed.
    pub usage: VectorUsage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_told_apart_by_their_form() {
        let read = |json: &str| serde_json::from_str::<EmbeddingInput>(json).unwrap();
        assert_eq!(read(r#""a""#), EmbeddingInput::Text("a".into()));
        assert_eq!(read("[1, 2]"), EmbeddingInput::Tokens(vec![1, 2]));
        assert_eq!(read(r#"["a"]"#), EmbeddingInput::Texts(vec!["a".into()]));
        assert_eq!(read("[[1], []]"), EmbeddingInput::TokenLists(vec![vec![1], vec![]]));
        assert!(read("[]").is_empty());
        for wrong in ["[-1]", "[1, \"a\"]", "3", "null", "[[\"a\"]]"] {
            assert!(serde_json::from_str::<EmbeddingInput>(wrong).is_err(), "{wrong}");
        }
    }
}
