//! Why the database did not do what was asked, and what a caller hears of it.

use std::sync::Arc;

use protocol::{ApiError, ErrorCode};

/// Why the database did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It refused, or broke.
    #[error(transparent)]
    Database(Arc<sqlx::Error>),
    /// The disk is full, which its owner can change.
    #[error("the disk is full: {0}")]
    Full(Arc<sqlx::Error>),
    /// The queen is ending.
    #[error("the writer has ended")]
    Stopped,
}

/// SQLite's code for a full disk.
const SQLITE_FULL: &str = "13";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        match code.as_deref() {
            Some(SQLITE_FULL) => Self::Full(Arc::new(error)),
            _ => Self::Database(Arc::new(error)),
        }
    }
}

impl StoreError {
    /// Whether it is one write's own fault, so that those which were committed with it may still succeed.
    pub(super) fn is_of_one_write(&self) -> bool {
        matches!(self, Self::Database(error) if error.as_database_error().is_some_and(|error| {
            error.is_unique_violation() || error.is_foreign_key_violation() || error.is_check_violation()
        }))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the queen's database cannot be used");
        match error {
            StoreError::Full(_) => {
                let message = "Nothing more can be kept: the server's disk is full.";
                Self::new(ErrorCode::InsufficientDisk, message)
            }
            StoreError::Stopped => {
                Self::new(ErrorCode::ShuttingDown, "The server is stopping.").with_retry_after_ms(5000)
            }
            StoreError::Database(_) => Self::new(
                ErrorCode::Internal,
                "The server's database cannot be used; the server's log tells why.",
            ),
        }
    }
}
