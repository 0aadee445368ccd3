//! OpenAI's wire types, written by hand from the official description: what the official SDKs send and expect.

pub mod batches;
pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod files;
pub mod metadata;
pub mod models;
pub mod responses;
pub mod usage;
