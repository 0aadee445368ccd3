//! Where the time of one request goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Started with a request, and shared by all that work on it.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Marks>);

/// Times in microseconds since the start; 0 for what has not been.
#[derive(Debug)]
struct Marks {
    started: Instant,
    routed: AtomicU64,
    granted: AtomicU64,
    routing: OnceLock<String>,
}

/// Where the time went so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spans {
    /// Until it was decided who answers, or that the request waits.
    pub route: Duration,
    /// Waiting for a slot.
    pub queue: Duration,
    /// Since a worker was given the request.
    pub worker: Duration,
}

impl Clock {
    /// A clock that runs from now on.
    pub fn start() -> Self {
        Self(Arc::new(Marks {
            started: Instant::now(),
            routed: AtomicU64::new(0),
            granted: AtomicU64::new(0),
            routing: OnceLock::new(),
        }))
    }

    /// The scheduler has answered.
    pub(super) fn mark_routed(&self) {
        self.0.routed.store(self.now(), Ordering::Relaxed);
    }

    /// The routing script has decided this.
    pub(super) fn note_routing(&self, decision: String) {
        // The first decision is the one that the answer's head can tell.
        let _ = self.0.routing.set(decision);
    }

    /// What the routing script decided, in a header's words.
    pub fn routing(&self) -> Option<&str> {
        self.0.routing.get().map(String::as_str)
    }

    /// A worker has been given the request.
    pub(super) fn mark_granted(&self) {
        self.0.granted.store(self.now(), Ordering::Relaxed);
    }

    /// Where the time went until now.
    pub fn spans(&self) -> Spans {
        let routed = self.0.routed.load(Ordering::Relaxed);
        let granted = self.0.granted.load(Ordering::Relaxed);
        let micros = Duration::from_micros;
        match (routed, granted) {
            (routed, 0) => Spans { route: micros(routed), ..Spans::default() },
            (routed, granted) => Spans {
                route: micros(routed),
                queue: micros(granted.saturating_sub(routed)),
                worker: micros(self.now().saturating_sub(granted)),
            },
        }
    }

    fn now(&self) -> u64 {
        (self.0.started.elapsed().as_micros() as u64).max(1)
    }
}
