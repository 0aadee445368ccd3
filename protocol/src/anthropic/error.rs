//! Errors in Anthropic's envelope.

use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ErrorType;
use crate::{ApiError, ErrorCode};

/// The error envelope of callers who speak Anthropic's language. In a stream, an `error` event's data.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "error",
    "error": {
        "type": "not_found_error", "message": "The model 'm' does not exist on this server.", "param": "model",
        "code": "model_not_found", "details": {"suggested_action": "List the models with GET /v1/models."}, "retriable": false
    },
    "request_id": "0b9a5f7e"
}))]
pub struct AnthropicError {
    /// Always "error".
    #[serde(rename = "type")]
    kind: &'static str,
    /// What went wrong; its `type` is Anthropic's.
    error: ApiError,
    /// The id that the server's log knows this request by.
    request_id: Option<String>,
}

impl From<ApiError> for AnthropicError {
    fn from(mut error: ApiError) -> Self {
        error.error_type = match (error.code, error.error_type) {
            (ErrorCode::PayloadTooLarge, _) => ErrorType::RequestTooLarge,
            (ErrorCode::Timeout | ErrorCode::RequestTimeout, _) => ErrorType::TimeoutError,
            (_, ErrorType::ServiceUnavailable) => ErrorType::OverloadedError,
            (_, ErrorType::ServerError) => ErrorType::ApiError,
            (_, same) => same,
        };
        Self { kind: "error", request_id: error.correlation_id.clone(), error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_anthropics_and_the_rest_is_ours() {
        for (code, class) in [
            (ErrorCode::InvalidRequest, "invalid_request_error"),
            (ErrorCode::InvalidApiKey, "authentication_error"),
            (ErrorCode::ModelNotFound, "not_found_error"),
            (ErrorCode::PayloadTooLarge, "request_too_large"),
            (ErrorCode::QueueFull, "rate_limit_error"),
            (ErrorCode::Internal, "api_error"),
            (ErrorCode::ModelLoading, "overloaded_error"),
            (ErrorCode::Timeout, "timeout_error"),
        ] {
            let error = ApiError { correlation_id: Some("r1".to_owned()), ..ApiError::new(code, "no") };
            let written = serde_json::to_value(AnthropicError::from(error)).unwrap();
            assert_eq!((&written["type"], &written["request_id"]), (&"error".into(), &"r1".into()));
            assert_eq!(written["error"]["type"], class);
            assert_eq!(written["error"]["code"], code.as_str());
        }
    }
}
