//! The processes of a sandbox, as the kernel tells of them in /proc.

use std::path::{Path, PathBuf};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// A process's number.
pub type ProcessId = u32;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub id: ProcessId,
    /// The file name of its program.
    pub program: String,
}

/// All living processes whose environment held this variable and value when they started. It is inherited, so these are
/// a process that was started with it and all its descendants.
pub(crate) fn with_variable(name: &str, value: &str) -> Vec<Process> {
    let wanted = format!("{name}={value}").into_bytes();
    let ids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter_map(|id: ProcessId| {
        // The dead that nobody has waited for yet have an empty environment.
        let environment = std::fs::read(proc_path(id, "environ")).ok()?;
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted).then(|| {
            let program = std::fs::read_link(proc_path(id, "exe")).unwrap_or_default();
            let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Process { id, program }
        })
    })
    .collect()
}

/// How many file descriptors the process has open.
pub fn open_files(id: ProcessId) -> usize {
    std::fs::read_dir(proc_path(id, "fd")).map_or(0, Iterator::count)
}

/// Sends a signal; one to a process that is gone is lost.
pub fn kill(id: ProcessId, signal: Signal) {
    let _ = kill_process(pid(id), signal);
}

fn pid(id: ProcessId) -> Pid {
    Pid::from_raw(id.cast_signed()).expect("0 is nobody's number")
}

fn proc_path(id: ProcessId, file: &str) -> PathBuf {
    Path::new("/proc").join(id.to_string()).join(file)
}
