//! Parts of a path, as an extractor.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use protocol::{ApiError, ErrorCode};
use serde::de::DeserializeOwned;

use super::Failure;

/// What stands in a path's places; what can be no name of anything is the name of nothing.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let read = axum::extract::Path::from_request_parts(parts, state).await;
        read.map(|axum::extract::Path(value)| Self(value))
            .map_err(|_| Failure(ApiError::new(ErrorCode::NotFound, "The path names nothing.")))
    }
}
