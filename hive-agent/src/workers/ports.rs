//! Ports for workers: from the first one upward, each given to one worker at a time.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::{ApiError, ErrorCode};

/// Ports tried before giving up.
const SEARCH_LENGTH: u16 = 1000;

/// The ports in use by workers.
#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    leased: Mutex<BTreeSet<u16>>,
}

/// A port that no other worker is given. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct PortLease {
    port: u16,
    ports: Arc<Ports>,
}

impl PortLease {
    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        self.ports.leased().remove(&self.port);
    }
}

impl Ports {
    pub(super) fn starting_at(first: u16) -> Self {
        Self { first, leased: Mutex::default() }
    }

    /// The wanted port, or the first above `after` that nobody listens on.
    pub(super) fn lease(
        self: &Arc<Self>,
        wanted: Option<u16>,
        after: Option<u16>,
    ) -> Result<PortLease, ApiError> {
        let mut leased = self.leased();
        let is_free =
            |port: u16| !leased.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let port = match wanted {
            Some(port) if is_free(port) => port,
            Some(port) => {
                return Err(ApiError::invalid(
                    "port",
                    format!("Port {port} of the hive's machine is taken."),
                )
                .with_action("Leave the port out to get the next free one, or name another."));
            }
            None => {
                let start = after.map_or(self.first, |after| after.saturating_add(1)).max(self.first);
                let end = self.first.saturating_add(SEARCH_LENGTH);
                (start..=end).find(|port| is_free(*port)).ok_or_else(|| {
                    let message = format!("No port from {start} to {end} of the hive's machine is free.");
                    ApiError::new(ErrorCode::NoWorkerAvailable, message).with_action(
                        "Stop what uses them, or set first_worker_port in [hive] of the settings file.",
                    )
                })?
            }
        };
        leased.insert(port);
        drop(leased);
        Ok(PortLease { port, ports: Arc::clone(self) })
    }

    fn leased(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ports_are_passed_over_and_returned_ones_come_back() {
        let foreign = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = foreign.local_addr().unwrap().port();
        let ports = Arc::new(Ports::starting_at(taken));
        let first = ports.lease(None, None).unwrap();
        let second = ports.lease(None, None).unwrap();
        assert!(first.port() > taken && second.port() > first.port());
        assert!(ports.lease(Some(first.port()), None).is_err());
        assert!(ports.lease(Some(taken), None).is_err());
        let returned = first.port();
        drop(first);
        assert_eq!(ports.lease(None, None).unwrap().port(), returned);
        assert!(ports.lease(None, Some(second.port())).unwrap().port() > second.port());
    }
}
