//! Signals to a child that leads its own process group, so that what it started itself is reached too.

use rustix::process::{Pid, Signal, kill_process_group};

/// Asks the group to end.
pub(crate) fn terminate(leader_pid: u32) {
    send(leader_pid, Signal::TERM);
}

/// Ends the group.
pub(crate) fn kill(leader_pid: u32) {
    send(leader_pid, Signal::KILL);
}

fn send(leader_pid: u32, signal: Signal) {
    let Some(pid) = i32::try_from(leader_pid).ok().and_then(Pid::from_raw) else { return };
    // A group that is gone already is what was wanted.
    if let Err(error) = kill_process_group(pid, signal) {
        tracing::debug!(pid = leader_pid, ?signal, %error, "the process group could not be signalled");
    }
}
