//! Defaults that more than one process must agree on.

/// The queen's default port.
pub const QUEEN_PORT: u16 = 8080;
/// A hive's default port.
pub const HIVE_PORT: u16 = 9200;
/// The first port that a hive gives to a worker.
pub const FIRST_WORKER_PORT: u16 = 8001;
/// The chat model that a fresh installation fetches first.
pub const DEFAULT_CHAT_MODEL: &str = "smollm2-135m-instruct";
/// The model that makes vectors where nobody names one.
pub const DEFAULT_EMBEDDING_MODEL: &str = "all-minilm-l6-v2";
