//! POST /v1/rerank and /v2/rerank of the queen, in the form that clients of Jina's and Cohere's services send.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
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
    /// Fields that are read of documents that are objects, one after the other; `text` if absent.
    pub rank_fields: Option<Vec<String>>,
    /// At least 1, and always kept: a document is read in one piece.
    pub max_chunks_per_doc: Option<u32>,
    /// Leave out what a document has beyond so many tokens, or beyond what the model can read. /v2/rerank does, beyond 4096,
    /// where this is absent; /v1/rerank refuses documents that are too long.
    pub max_tokens_per_doc: Option<u32>,
    /// Must be absent or disabled.
    pub relevant_spans: Option<RelevantSpans>,
    /// rbee: leave out the end of what is too long for the model, instead of refusing it.
    pub truncate: Option<bool>,
}

/// Whether an answer tells which parts of a document are relevant.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct RelevantSpans {
    /// disabled; nothing else is supported.
    pub mode: Option<String>,
}

/// A document, as text or as an object that holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Document {
    /// The text.
    Text(String),
    /// An object with fields that hold it.
    Object(BTreeMap<String, Value>),
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
    /// What it consumed, as Jina's clients read it.
    pub usage: VectorUsage,
    /// The same as Cohere's clients read it.
    pub meta: RankingMeta,
}

/// About an answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RankingMeta {
    /// Whose form the answer has.
    pub api_version: ApiVersion,
    /// What it consumed.
    pub tokens: RankingTokens,
}

/// A version of Cohere's interface.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ApiVersion {
    /// 1 or 2.
    pub version: &'static str,
}

/// What an answer consumed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RankingTokens {
    /// Tokens of all pairs of query and document.
    pub input_tokens: u32,
}

/// One document's rank.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RankedDocument {
    /// Its place in the request.
    pub index: u32,
    /// How relevant it is, from 0 to 1.
    pub relevance_score: f32,
    /// The document, if that was asked for: as it was sent, or an object with its `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<BTreeMap<String, Value>>,
}
