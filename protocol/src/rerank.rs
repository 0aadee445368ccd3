//! POST /v1/rerank of the queen, in the form that clients of Jina's and Cohere's services send.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::vectors::VectorUsage;

/// Request body. Unknown fields are accepted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(example = json!({"model": "a-rerank-model", "query": "What is rust?", "documents": ["Iron oxide.", "A language."]}))]
pub struct RerankRequest {
    /// A model's name, or an alias; the server's default model, if it has one, where this is absent.
    #[serde(default)]
    pub model: String,
    /// What is looked for.
    pub query: String,
    /// Where it may be found: up to 2048 texts.
    pub documents: Vec<Document>,
    /// Documents in the answer at most; all if absent.
    pub top_n: Option<u32>,
    /// Tell each document's text again.
    pub return_documents: Option<bool>,
    /// rbee: leave out the end of what is too long for the model, instead of refusing it.
    pub truncate: Option<bool>,
}

/// A document, as text or as an object that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Document {
    /// The text.
    Text(String),
    /// An object that holds it.
    Object {
        /// The text.
        text: String,
    },
}

impl Document {
    /// The text.
    pub fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { text } => text,
        }
    }
}

/// Answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Ranking {
    /// This answer's id.
    pub id: String,
    /// The model that answered.
    pub model: String,
    /// The most relevant document first.
    pub results: Vec<RankedDocument>,
    /// What it consumed.
    pub usage: VectorUsage,
}

/// One document's rank.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RankedDocument {
    /// Its place in the request.
    pub index: u32,
    /// How relevant it is, from 0 to 1.
    pub relevance_score: f32,
    /// Its text, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<RankedText>,
}

/// A document's text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RankedText {
    /// The text.
    pub text: String,
}
