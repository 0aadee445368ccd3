//! Why a command failed: what to tell the person, and which exit code tells a script.

use std::process::ExitCode;

use protocol::{ApiError, ErrorCode};

/// A failed command. It has the shape of every other rbee error, so that `--json` has one to print.
#[derive(Debug)]
pub(crate) struct Failure(Box<ApiError>);

impl Failure {
    /// A setting or an argument that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self(Box::new(
            ApiError::new(ErrorCode::InvalidRequest, message)
                .with_action("Correct the setting; `rbee-keeper --help` lists them all."),
        ))
    }

    /// Something on this machine went wrong.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self(Box::new(
            ApiError::new(ErrorCode::Internal, message)
                .with_action("Check the file system and its permissions."),
        ))
    }

    /// The queen, or what she started, is not as it should be.
    pub(crate) fn queen(message: impl Into<String>) -> Self {
        Self(Box::new(
            ApiError::new(ErrorCode::UpstreamFailed, message)
                .with_action("Read the queen's log, DATA_DIR/logs/queen.log."),
        ))
    }

    /// Replaces the general advice by advice for this case.
    pub(crate) fn advise(self, action: impl Into<String>) -> Self {
        Self(Box::new(self.0.with_action(action)))
    }

    /// The error as it goes out with `--json`.
    pub(crate) fn error(&self) -> &ApiError {
        &self.0
    }

    /// 124 when time ran out, as `timeout` has it; 1 for all else.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.0.code {
            ErrorCode::Timeout => ExitCode::from(124),
            _ => ExitCode::FAILURE,
        }
    }
}

impl From<daemon::config::ConfigError> for Failure {
    fn from(error: daemon::config::ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(Box::new(error))
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Api(error) => error.into(),
            client::Error::Unreachable { .. } => Self::queen(error.to_string()).advise(
                "Start rbee with `rbee-keeper up` or `rbee-keeper daemon start`, or name a running queen with --queen-url.",
            ),
            client::Error::Broken { .. } => Self::queen(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error.to_string())
    }
}
