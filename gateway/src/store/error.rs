//! Why the database did not do what was asked, and what a caller hears of it.

use std::sync::Arc;

use protocol::{ApiError, ErrorCode};

use super::Quota;

/// Why the database did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It refused, or broke.
    #[error(transparent)]
    Database(Arc<sqlx::Error>),
    /// The disk is full, which its owner can change.
    #[error("the disk is full: {0}")]
    Full(Arc<sqlx::Error>),
    /// It is out of reach; nothing was changed.
    #[error("the database is out of reach: {0}")]
    Unavailable(String),
    /// It went out of reach while it committed; whether it did is not known.
    #[error("the database went out of reach while it committed: {0}")]
    Unknown(String),
    /// The file may not be longer.
    #[error("{0}")]
    Quota(Quota),
    /// An upload took too long, and its file is gone.
    #[error("the upload was given up")]
    Gone,
    /// The queen is ending.
    #[error("the writer has ended")]
    Stopped,
}

/// The codes for a full disk: SQLite's and PostgreSQL's.
const FULL: [&str; 2] = ["13", "53100"];
/// PostgreSQL's codes for a server that ends, or begins, has no connection left, takes no writes, or was told to give up.
const AWAY: [&str; 6] = ["57P01", "57P02", "57P03", "53300", "25006", "57014"];
/// PostgreSQL's codes for a lost connection begin so.
const LOST: &str = "08";
/// PostgreSQL's codes for two transactions that met.
const PASSING: [&str; 2] = ["40P01", "40001"];
/// PostgreSQL's code for text that it cannot hold.
const NO_TEXT: &str = "22021";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Io, PoolClosed, PoolTimedOut, Protocol};
        match code(&error).as_deref() {
            Some(code) if FULL.contains(&code) => Self::Full(Arc::new(error)),
            Some(code) if AWAY.contains(&code) || code.starts_with(LOST) => {
                Self::Unavailable(error.to_string())
            }
            None if matches!(error, Io(_) | PoolTimedOut | PoolClosed | Protocol(_)) => {
                Self::Unavailable(error.to_string())
            }
            _ => Self::Database(Arc::new(error)),
        }
    }
}

/// By what the database itself calls the fault.
fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned))
}

impl StoreError {
    /// Whether it is one write's own fault, so that those which were committed with it may still succeed.
    pub(super) fn is_of_one_write(&self) -> bool {
        matches!(self, Self::Database(error) if error.as_database_error().is_some_and(|error| {
            error.is_unique_violation()
                || error.is_foreign_key_violation()
                || error.is_check_violation()
                || error.code().as_deref() == Some(NO_TEXT)
        }))
    }

    /// Whether it met another transaction, and would succeed after it.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Database(error) if code(error).is_some_and(|code| PASSING.contains(&code.as_str())))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if !matches!(error, StoreError::Quota(_) | StoreError::Gone) {
            tracing::error!(%error, "the queen's database cannot be used");
        }
        match error {
            StoreError::Quota(quota) => {
                let message = format!("The file cannot be kept: {quota}.");
                Self::new(ErrorCode::InsufficientDisk, message).with_action(
                    "Delete files that are not needed any more, or ask the server's owner for more room.",
                )
            }
            StoreError::Gone => {
                Self::new(ErrorCode::RequestTimeout, "The upload took too long and was given up.")
            }
            StoreError::Full(_) => {
                let message = "Nothing more can be kept: the server's disk is full.";
                Self::new(ErrorCode::InsufficientDisk, message)
            }
            StoreError::Unavailable(_) => {
                let message = "The server's database is out of reach; nothing was changed.";
                Self::new(ErrorCode::DatabaseUnavailable, message).with_retry_after_ms(1000)
            }
            StoreError::Unknown(_) => {
                let message =
                    "The server's database went out of reach while it wrote; whether it did is not known.";
                Self::new(ErrorCode::DatabaseUnavailable, message)
                    .with_action("See whether it was done before you ask again; with an Idempotency-Key just ask again.")
                    .with_retry_after_ms(1000)
            }
            StoreError::Stopped => {
                Self::new(ErrorCode::ShuttingDown, "The server is stopping.").with_retry_after_ms(5000)
            }
            StoreError::Database(error) if code(&error).as_deref() == Some(NO_TEXT) => Self::new(
                ErrorCode::InvalidRequest,
                "A text of the request holds the character NUL, which cannot be kept.",
            ),
            StoreError::Database(_) => Self::new(
                ErrorCode::Internal,
                "The server's database cannot be used; the server's log tells why.",
            ),
        }
    }
}
