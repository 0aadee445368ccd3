//! JSON request bodies, parsed once; a bad one is a 400 that names the field.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use protocol::{ApiError, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Failure;

/// A JSON body, as an extractor and as an answer.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        check_media_type(request.headers())?;
        let body = Bytes::from_request(request, state).await.map_err(|rejection| unreadable(&rejection))?;
        Ok(Self(parse(&body)?))
    }
}

/// A missing media type is taken for JSON, as curl's users expect of `-d`; so is curl's own default for it.
fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence =
        value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json"
        || essence.ends_with("+json")
        || essence == "application/x-www-form-urlencoded"
    {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, "The body's media type is not application/json."))
}

fn unreadable(rejection: &BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::new(ErrorCode::PayloadTooLarge, "The request body is larger than this server's limit.")
    } else {
        ApiError::new(ErrorCode::InvalidJson, "The request body could not be read to its end.")
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // To know a fault's path costs an allocation for every field, so only a body that has a fault is read that way.
    serde_json::from_slice(body).or_else(|_| parse_by_path(body))
}

fn parse_by_path<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        describe(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| describe(".", &error))?;
    Ok(value)
}

/// Tells what is wrong without repeating the payload: serde's own message quotes values of wrong type.
fn describe(path: &str, error: &serde_json::Error) -> ApiError {
    let (line, column) = (error.line(), error.column());
    if !error.is_data() {
        return ApiError::new(
            ErrorCode::InvalidJson,
            format!("The request body is not valid JSON: error at line {line}, column {column}."),
        );
    }
    let text = error.to_string();
    let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let (param, fault) = match (missing, path) {
        (Some(field), ".") => (Some(field.to_owned()), "is required".to_owned()),
        (Some(field), path) => (Some(format!("{path}.{field}")), "is required".to_owned()),
        (None, ".") => (None, expectation(&text)),
        (None, path) => (Some(path.to_owned()), expectation(&text)),
    };
    let subject =
        param.as_deref().map_or_else(|| "The request body".to_owned(), |param| format!("'{param}'"));
    let error = ApiError::new(
        ErrorCode::InvalidRequest,
        format!("{subject} {fault} (line {line}, column {column})."),
    );
    match param {
        Some(param) => error.with_param(param),
        None => error,
    }
}

/// Keeps serde's "expected …" and drops what it quotes of the input.
fn expectation(text: &str) -> String {
    let text = text.split(" at line ").next().unwrap_or(text);
    match text.rsplit_once("expected ") {
        Some((_, wanted)) => format!("is not valid: expected {wanted}"),
        None => "has a value of the wrong type".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only parsed")]
    struct Body {
        model: String,
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only parsed")]
    struct Item {
        size: u32,
    }

    fn error(body: &[u8]) -> ApiError {
        parse::<Body>(body).unwrap_err()
    }

    #[test]
    fn the_field_at_fault_is_named_and_its_value_is_not_repeated() {
        assert_eq!(error(br#"{"items":[]}"#).param.as_deref(), Some("model"));
        let wrong = error(br#"{"model":"m","items":[{"size":"secret"}]}"#);
        assert_eq!(wrong.param.as_deref(), Some("items[0].size"));
        assert!(!wrong.message.contains("secret"), "{}", wrong.message);
        assert!(wrong.message.contains("expected u32"), "{}", wrong.message);
    }

    #[test]
    fn broken_json_is_told_apart() {
        let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
        for body in [&b"{"[..], b"", b"\xff\xfe", b"{\"model\":\"m\",\"items\":[]} trailing"] {
            assert_eq!(error(body).code, ErrorCode::InvalidJson, "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(parse::<serde_json::Value>(&deep).unwrap_err().code, ErrorCode::InvalidJson);
        assert_eq!(error(b"[]").code, ErrorCode::InvalidRequest);
    }
}
