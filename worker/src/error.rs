//! Why a model could not be loaded, and how that is told to a caller and to the operator.
//!
//! Errors of one request are `protocol::ApiError` from the start; only the load has a type of its own, because it
//! also decides how the process ends.

use protocol::worker::Backend;
use protocol::{ApiError, ErrorCode};

/// Why the load ended. Every one of them ends the process with exit code 1; none leads to another device or model.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The file is not what its header promises, or not a GGUF file at all.
    #[error("{0}")]
    Corrupted(String),
    /// The file is sound, but this build does not know the model's family, format or tokenizer.
    #[error("{0}")]
    Unsupported(String),
    /// The backend is not part of this build.
    #[error("backend {0} is not part of this build of worker-rbee")]
    BackendNotAvailable(Backend),
    /// The device was asked for by name and does not work.
    #[error("{backend} device {gpu} failed: {message}")]
    DeviceFailed {
        /// The backend that was asked for.
        backend: Backend,
        /// The device's number.
        gpu: u32,
        /// What the driver said.
        message: String,
    },
    /// Anything else: the file cannot be read, memory ran out, a computation failed.
    #[error("{0}")]
    Failed(String),
}

impl LoadError {
    /// The error's public code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Corrupted(_) => ErrorCode::ModelCorrupted,
            Self::Unsupported(_) => ErrorCode::UnsupportedModel,
            Self::BackendNotAvailable(_) => ErrorCode::BackendNotAvailable,
            Self::DeviceFailed { backend: Backend::Cuda, .. } => ErrorCode::CudaDeviceFailed,
            Self::DeviceFailed { backend: Backend::Metal, .. } => ErrorCode::MetalDeviceFailed,
            Self::DeviceFailed { .. } | Self::Failed(_) => ErrorCode::ModelLoadFailed,
        }
    }
}

impl From<LoadError> for ApiError {
    fn from(error: LoadError) -> Self {
        let code = error.code();
        let api_error = Self::new(code, error.to_string());
        match error {
            LoadError::Corrupted(_) => api_error
                .with_action("Check the file against its published size and digest, or fetch it again."),
            LoadError::DeviceFailed { gpu, .. } => api_error.with_detail("device", gpu),
            _ => api_error,
        }
    }
}

/// A computation that failed while loading: the file passed every check, so this is neither its fault nor the caller's.
impl From<candle_core::Error> for LoadError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
