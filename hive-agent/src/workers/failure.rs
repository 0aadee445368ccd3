//! What an ended worker process means: whether it is worth another try, and what to tell.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use protocol::{ApiError, ErrorCode};

/// Lines of the log that go with an error.
const TAIL_LINES: usize = 12;

/// Why a run of a worker ended by itself.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    /// Another process has the port.
    PortTaken(ApiError),
    /// The worker found that it cannot do what it was told; another try would find the same.
    Final(ApiError),
    /// It died; another try may go well.
    Crash(ApiError),
}

/// Reads an exit during the load.
pub(super) fn during_load(status: Option<ExitStatus>, tail: &str) -> Failure {
    let line = last_error_line(tail);
    if tail.contains("Address already in use") {
        let message = "The worker's port was taken by another process.";
        return Failure::PortTaken(with_log(ApiError::new(ErrorCode::NoWorkerAvailable, message), tail));
    }
    // 1 is the worker's own word; 2 is its word that the hive's command line is wrong for it.
    match status.and_then(|status| status.code()) {
        Some(1 | 2) => Failure::Final(with_log(worker_error(line), tail)),
        _ => Failure::Crash(lost(status, tail)),
    }
}

/// Reads an exit after the load: whatever it was, the worker worked before.
pub(super) fn while_running(status: Option<ExitStatus>, tail: &str) -> ApiError {
    lost(status, tail)
}

fn lost(status: Option<ExitStatus>, tail: &str) -> ApiError {
    let how = match status.map(|status| (status.signal(), status.code())) {
        Some((Some(9), _)) => "was killed (signal 9); the system may have run out of memory".to_owned(),
        Some((Some(signal), _)) => format!("was ended by signal {signal}"),
        Some((None, Some(code))) => format!("ended with exit code {code}"),
        _ => "is gone".to_owned(),
    };
    with_log(ApiError::new(ErrorCode::WorkerLost, format!("The worker process {how}.")), tail)
}

/// Adds the end of the worker's log.
pub(super) fn with_log(error: ApiError, tail: &str) -> ApiError {
    let lines: Vec<&str> = tail.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if last.is_empty() { error } else { error.with_detail("log_tail", last.join("\n")) }
}

/// The worker's own error. It writes "CODE: message"; what is not written so is a failed load.
fn worker_error(line: &str) -> ApiError {
    let known = ErrorCode::ALL.iter().find_map(|code| {
        let (_, message) = line.split_once(&format!("{code}: "))?;
        Some(ApiError::new(*code, message))
    });
    known.unwrap_or_else(|| {
        let line = if line.is_empty() { "The worker ended without a word." } else { line };
        ApiError::new(ErrorCode::ModelLoadFailed, line)
    })
}

/// The last line that tells of an error, or the last line at all.
fn last_error_line(tail: &str) -> &str {
    let lines = || tail.lines().map(str::trim).filter(|line| !line.is_empty()).rev();
    let has_code = |line: &&str| ErrorCode::ALL.iter().any(|code| line.contains(&format!("{code}: ")));
    let says_error = |line: &&str| line.contains("ERROR") || line.to_ascii_lowercase().contains("error:");
    let line = lines().find(has_code).or_else(|| lines().find(says_error)).or_else(|| lines().next());
    line.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn the_workers_own_word_becomes_the_error() {
        let tail = "loading\nworker-rbee: CUDA_DEVICE_FAILED: cuda device 0 failed: no driver\n  Check GPU drivers\n";
        let Failure::Final(error) = during_load(Some(exit(1)), tail) else { panic!("not final") };
        assert_eq!(error.code, ErrorCode::CudaDeviceFailed);
        assert_eq!(error.message, "cuda device 0 failed: no driver");
        assert!(error.details["log_tail"].as_str().unwrap().starts_with("loading"));
    }

    #[test]
    fn an_unknown_word_is_a_failed_load() {
        let Failure::Final(error) = during_load(Some(exit(1)), "Error: cannot map the file\nbye") else {
            panic!()
        };
        assert_eq!(
            (error.code, error.message.as_str()),
            (ErrorCode::ModelLoadFailed, "Error: cannot map the file")
        );
        let Failure::Final(error) = during_load(Some(exit(1)), "") else { panic!() };
        assert_eq!(error.message, "The worker ended without a word.");
    }

    #[test]
    fn a_taken_port_and_a_signal_are_worth_another_try() {
        let taken = "worker-rbee: INTERNAL_ERROR: cannot listen on 127.0.0.1:8001: Address already in use (os error 98)";
        assert!(matches!(during_load(Some(exit(1)), taken), Failure::PortTaken(_)));
        let Failure::Crash(error) = during_load(Some(ExitStatus::from_raw(9)), "") else { panic!() };
        assert_eq!(error.code, ErrorCode::WorkerLost);
        assert!(error.message.contains("signal 9"), "{error}");
    }
}
