//! Slots: how many sequences may run at once, and how many do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The slots of one worker. Clones share them.
#[derive(Debug, Clone)]
pub struct Slots {
    total: u32,
    free: Arc<Semaphore>,
    changes: Arc<Changes>,
}

/// When a slot was last taken or freed.
#[derive(Debug)]
struct Changes {
    epoch: Instant,
    last_ms: AtomicU64,
}

impl Changes {
    fn note(&self) {
        self.last_ms.store(self.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// A taken slot; dropping it frees the slot.
#[derive(Debug)]
pub struct SlotGuard {
    changes: Arc<Changes>,
    permit: Option<OwnedSemaphorePermit>,
    freed: CancellationToken,
}

impl SlotGuard {
    /// Is cancelled when the slot is free again.
    pub fn freed(&self) -> CancellationToken {
        self.freed.clone()
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.changes.note();
        self.permit = None;
        self.freed.cancel();
    }
}

impl Slots {
    /// So many free slots.
    pub fn new(total: u32) -> Self {
        let changes = Changes { epoch: Instant::now(), last_ms: AtomicU64::new(0) };
        Self { total, free: Arc::new(Semaphore::new(total as usize)), changes: Arc::new(changes) }
    }

    /// All slots.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Free slots.
    pub fn available(&self) -> u32 {
        self.free.available_permits() as u32
    }

    /// Takes a slot if one is free.
    pub fn take(&self) -> Option<SlotGuard> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        self.changes.note();
        Some(SlotGuard {
            changes: self.changes.clone(),
            permit: Some(permit),
            freed: CancellationToken::new(),
        })
    }

    /// Takes all slots for good, if none is taken; false if one is.
    pub fn retire(&self) -> bool {
        self.free.clone().try_acquire_many_owned(self.total).map(OwnedSemaphorePermit::forget).is_ok()
    }

    /// Milliseconds since a slot was last taken or freed.
    pub fn unchanged_ms(&self) -> u64 {
        let now_ms = self.changes.epoch.elapsed().as_millis() as u64;
        now_ms.saturating_sub(self.changes.last_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_guard_frees_its_slot() {
        let slots = Slots::new(2);
        let first = slots.take().unwrap();
        let second = slots.take().unwrap();
        assert!(slots.take().is_none());
        assert_eq!(slots.available(), 0);
        let freed = first.freed();
        assert!(!freed.is_cancelled());
        drop(first);
        assert!(freed.is_cancelled());
        assert_eq!(slots.available(), 1);
        let last = slots.take().unwrap();
        assert!(!slots.retire());
        drop((second, last));
        assert!(slots.retire());
        assert!(slots.take().is_none());
    }
}
