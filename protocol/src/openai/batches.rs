//! Batches: files of requests that are answered when there is time.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::metadata::Metadata;

/// Body of POST /v1/batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"input_file_id": "file-abc", "endpoint": "/v1/chat/completions", "completion_window": "24h"}))]
pub struct BatchRequest {
    /// A file of purpose `batch`: one request a line, JSON.
    pub input_file_id: String,
    /// The endpoint of its requests: /v1/chat/completions, /v1/responses, /v1/completions or /v1/embeddings.
    pub endpoint: String,
    /// Must be "24h".
    pub completion_window: String,
    /// The caller's own pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// How long what it leaves is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_expires_after: Option<ExpiresAfter>,
}

/// After which time a file goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExpiresAfter {
    /// Must be "created_at".
    pub anchor: String,
    /// 3600 to 2592000.
    pub seconds: i64,
}

/// A batch. All times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names of times are those of the states")]
pub struct BatchObject {
    /// Its id.
    pub id: String,
    /// Always "batch".
    pub object: String,
    /// The endpoint of its requests.
    pub endpoint: String,
    /// The model of its requests, if all have the same.
    pub model: Option<String>,
    /// Why it failed.
    pub errors: Option<BatchErrors>,
    /// Where its requests come from.
    pub input_file_id: String,
    /// Always "24h".
    pub completion_window: String,
    /// `validating`, `failed`, `in_progress`, `finalizing`, `completed`, `expired`, `cancelling` or `cancelled`.
    pub status: String,
    /// The answers to requests that went well; null if there are none.
    pub output_file_id: Option<String>,
    /// The answers to those that did not; null if there are none.
    pub error_file_id: Option<String>,
    pub created_at: i64,
    pub in_progress_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub finalizing_at: Option<i64>,
    pub completed_at: Option<i64>,
    pub failed_at: Option<i64>,
    pub expired_at: Option<i64>,
    pub cancelling_at: Option<i64>,
    pub cancelled_at: Option<i64>,
    /// How far it is.
    pub request_counts: BatchCounts,
    /// The caller's own pairs.
    pub metadata: Option<Metadata>,
}

/// How many requests of a batch are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchCounts {
    /// In all.
    pub total: u64,
    /// Went well.
    pub completed: u64,
    /// Did not.
    pub failed: u64,
}

/// What is wrong with a batch's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchErrors {
    /// Always "list".
    pub object: String,
    /// The first of them.
    pub data: Vec<BatchError>,
}

/// One thing that is wrong with a batch's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchError {
    /// The kind of error.
    pub code: String,
    /// What is wrong, in words.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
}

/// Answer of GET /v1/batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchList {
    /// Always "list".
    pub object: String,
    /// The batches.
    pub data: Vec<BatchObject>,
    /// The first one's id.
    pub first_id: Option<String>,
    /// The last one's id.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

/// One line of a batch's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchLine {
    /// By what the caller knows the answer; another one on each line.
    pub custom_id: String,
    /// Must be "POST".
    pub method: String,
    /// The batch's endpoint.
    pub url: String,
    /// The request.
    pub body: Value,
}

/// One line of the files that a batch leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// The id of the request's job.
    pub id: String,
    /// The request's.
    pub custom_id: String,
    /// What was answered; null if the request was not sent.
    pub response: Option<BatchResponse>,
    /// Why it was not sent; null if it was.
    pub error: Option<BatchLineError>,
}

/// What was answered to a request of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchResponse {
    /// The HTTP status.
    pub status_code: u16,
    /// By which the server's log knows the request.
    pub request_id: String,
    /// The body.
    pub body: Value,
}

/// Why a request of a batch was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchLineError {
    /// `batch_cancelled` or `batch_expired`.
    pub code: String,
    /// The same in words.
    pub message: String,
}
