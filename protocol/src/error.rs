//! The one error envelope, and the one list of error codes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::{PartialSchema, ToSchema};

/// OpenAI's classes of errors, which official SDKs map to their exception types, then those that Anthropic's envelope has
/// instead of some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are theirs and say all there is to say")]
pub enum ErrorType {
    InvalidRequestError,
    AuthenticationError,
    PermissionError,
    NotFoundError,
    RateLimitError,
    ServerError,
    ServiceUnavailable,
    RequestTooLarge,
    ApiError,
    OverloadedError,
    TimeoutError,
}

macro_rules! error_codes {
    ($($variant:ident $wire:literal $status:literal $class:ident $retriable:literal $action:literal)*) => {
        /// Every error that an rbee process can answer with.
        ///
        /// Where OpenAI has a code its spelling is used, everywhere and not on /v1 only, so that one fault has one name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "each code's row holds its text, and docs/errors.md shows it")]
        pub enum ErrorCode { $($variant),* }

        impl ErrorCode {
            /// All codes, in the order of docs/errors.md.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as it is written on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $wire),* }
            }

            /// The HTTP status that carries the code.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),* }
            }

            /// OpenAI's class of the error.
            pub const fn error_type(self) -> ErrorType {
                match self { $(Self::$variant => ErrorType::$class),* }
            }

            /// Whether the same request may succeed later without a change.
            pub const fn is_retriable(self) -> bool {
                match self { $(Self::$variant => $retriable),* }
            }

            /// What the caller can do about it, unless the error at hand knows better.
            pub const fn suggested_action(self) -> &'static str {
                match self { $(Self::$variant => $action),* }
            }

            /// The code with this wire name.
            pub fn from_wire(wire: &str) -> Option<Self> {
                match wire { $($wire => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

error_codes! {
    InvalidRequest "INVALID_REQUEST" 400 InvalidRequestError false "Correct the field that the error names."
    InvalidJson "INVALID_JSON" 400 InvalidRequestError false "Send one JSON object, encoded as UTF-8."
    UnsupportedParameter "UNSUPPORTED_PARAMETER" 400 InvalidRequestError false "Leave the parameter out."
    ContextLengthExceeded "context_length_exceeded" 400 InvalidRequestError false "Shorten the messages or lower max_tokens."
    PreviousResponseNotFound "previous_response_not_found" 400 InvalidRequestError false "Send the whole conversation as input; responses are kept for a limited time."
    UnsupportedModel "UNSUPPORTED_MODEL" 400 InvalidRequestError false "Choose a model of a supported family and format."
    BackendNotAvailable "BACKEND_NOT_AVAILABLE" 400 InvalidRequestError false "Choose a backend that `rbee-hive detect` lists, or install a build that has it."
    InvalidApiKey "invalid_api_key" 401 AuthenticationError false "Send the server's token as `Authorization: Bearer ...`."
    ModelNotFound "model_not_found" 404 NotFoundError false "List the models with GET /v1/models, or fetch one with `rbee-keeper models pull`."
    JobNotFound "JOB_NOT_FOUND" 404 NotFoundError false "Check the job id; finished jobs are kept for a limited time."
    WorkerNotFound "WORKER_NOT_FOUND" 404 NotFoundError false "List the workers with `rbee-keeper workers list`."
    NotFound "NOT_FOUND" 404 NotFoundError false "Check the path; /docs lists every endpoint."
    MethodNotAllowed "METHOD_NOT_ALLOWED" 405 InvalidRequestError false "Use a method that the Allow header names."
    RequestTimeout "REQUEST_TIMEOUT" 408 InvalidRequestError true "Send the whole request in one go."
    IdempotencyConflict "IDEMPOTENCY_CONFLICT" 409 InvalidRequestError false "Use a new Idempotency-Key for a request that is not the same."
    WorkerMismatch "WORKER_MISMATCH" 409 InvalidRequestError true "Ask the hive for its current workers and try again."
    PayloadTooLarge "PAYLOAD_TOO_LARGE" 413 InvalidRequestError false "Send a smaller body."
    UnsupportedMediaType "UNSUPPORTED_MEDIA_TYPE" 415 InvalidRequestError false "Send the body as application/json."
    QueueFull "QUEUE_FULL" 429 RateLimitError true "Retry after the time given, or add workers."
    AdmissionRejected "ADMISSION_REJECTED" 429 RateLimitError true "Retry after the time given; the server's routing script does not admit the request now."
    Internal "INTERNAL_ERROR" 500 ServerError true "Retry; if it persists, look up the correlation id in the server's log."
    ModelCorrupted "MODEL_CORRUPTED" 500 ServerError true "The file was deleted: fetch the model again."
    ModelLoadFailed "MODEL_LOAD_FAILED" 500 ServerError false "Read the worker's log; check the file and the free memory."
    CudaDeviceFailed "CUDA_DEVICE_FAILED" 500 ServerError false "Check GPU drivers or explicitly select CPU backend."
    MetalDeviceFailed "METAL_DEVICE_FAILED" 500 ServerError false "Check the Metal device or explicitly select CPU backend."
    NotAvailable "NOT_AVAILABLE" 501 ServerError false "Use an endpoint that /docs lists as available."
    UpstreamFailed "UPSTREAM_FAILED" 502 ServerError true "Retry; the server's log tells which upstream failed."
    WorkerLost "WORKER_LOST" 502 ServerError true "Retry: the worker process ended in the middle of the answer."
    DownloadFailed "DOWNLOAD_FAILED" 502 ServerError true "Check the connection to the model's source and retry."
    NoWorkerAvailable "NO_WORKER_AVAILABLE" 503 ServiceUnavailable true "Start a worker or a hive, then retry."
    AllSlotsBusy "ALL_SLOTS_BUSY" 503 ServiceUnavailable true "Retry after the time given."
    ModelLoading "MODEL_LOADING" 503 ServiceUnavailable true "Retry after the time given; the load goes on."
    WorkerShuttingDown "WORKER_SHUTTING_DOWN" 503 ServiceUnavailable true "Retry; another worker will answer."
    ShuttingDown "SHUTTING_DOWN" 503 ServiceUnavailable true "Retry when the server is back."
    RoutingFailed "ROUTING_FAILED" 503 ServiceUnavailable true "Correct the server's routing script; GET /v2/routing/decisions tells what went wrong."
    HiveUnavailable "HIVE_UNAVAILABLE" 503 ServiceUnavailable true "Start the hive, or check the connection to it."
    DatabaseUnavailable "DATABASE_UNAVAILABLE" 503 ServiceUnavailable true "Retry after the time given; the server's log tells why."
    Timeout "TIMEOUT" 504 ServerError false "Allow more time, or ask for fewer tokens."
    InsufficientDisk "INSUFFICIENT_DISK" 507 ServerError false "Free disk space, then retry."
    InsufficientMemory "INSUFFICIENT_MEMORY" 507 ServerError false "Stop other workers or use a smaller model."
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A code that a newer peer knows and we do not is read as an internal error; its message still tells the story.
impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = String::deserialize(deserializer)?;
        Ok(Self::from_wire(&wire).unwrap_or(Self::Internal))
    }
}

impl PartialSchema for ErrorCode {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .description(Some("Machine-readable code; docs/errors.md explains each."))
            .into()
    }
}

impl ToSchema for ErrorCode {
    fn name() -> std::borrow::Cow<'static, str> {
        "ErrorCode".into()
    }
}

/// A longer message is cut.
const MESSAGE_BYTES_MAX: usize = 2000;

/// One error as a caller sees it: OpenAI's four fields and rbee's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// What went wrong, in words and numbers, free of internals.
    pub message: String,
    /// OpenAI's class of the error.
    #[serde(rename = "type")]
    pub error_type: ErrorType,
    /// The request field at fault, if one is.
    pub param: Option<String>,
    /// Machine-readable code.
    pub code: ErrorCode,
    /// Always holds `suggested_action`; more by code.
    pub details: Map<String, Value>,
    /// The id that the server's log knows this request by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Whether the same request may succeed later.
    pub retriable: bool,
    /// When to retry, in milliseconds, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl ApiError {
    /// An error of this code; class, retriability and suggested action follow from the code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut details = Map::new();
        details.insert("suggested_action".to_owned(), code.suggested_action().into());
        Self {
            message: shortened(message.into()),
            error_type: code.error_type(),
            param: None,
            code,
            details,
            correlation_id: None,
            retriable: code.is_retriable(),
            retry_after_ms: None,
        }
    }

    /// A request field that cannot be accepted.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message).with_param(param)
    }

    /// Names the request field at fault.
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Adds a machine-readable detail, or replaces one.
    pub fn with_detail(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// Replaces the code's general advice by advice for this case.
    pub fn with_action(self, action: impl Into<String>) -> Self {
        self.with_detail("suggested_action", action.into())
    }

    /// Tells when to retry.
    pub fn with_retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// What the caller can do about it.
    pub fn suggested_action(&self) -> &str {
        self.details.get("suggested_action").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A message names what is at fault, which may be as long as a caller likes; who reads it needs its beginning.
fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ApiError {}

/// The body of every answer that is an error, and the data of every `error` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorEnvelope {
    /// The error.
    pub error: ApiError,
}

impl From<ApiError> for ErrorEnvelope {
    fn from(error: ApiError) -> Self {
        Self { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_names_are_unique_and_lead_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_wire(code.as_str()), Some(*code));
            assert!(!code.suggested_action().is_empty());
        }
    }

    #[test]
    fn the_public_page_lists_exactly_these_codes() {
        let page = include_str!("../../docs/errors.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> = ErrorCode::ALL
            .iter()
            .map(|code| {
                let retry = if code.is_retriable() { "yes" } else { "no" };
                format!("| `{code}` | {} | {retry} | {} |", code.status(), code.suggested_action())
            })
            .collect();
        assert_eq!(
            rows,
            expected,
            "docs/errors.md differs from the enum; expected:\n{}",
            expected.join("\n")
        );
    }

    #[test]
    fn an_unknown_code_reads_as_internal() {
        let code: ErrorCode = serde_json::from_str("\"FROM_THE_FUTURE\"").unwrap();
        assert_eq!(code, ErrorCode::Internal);
    }
}
