//! What the engine tells of itself while it runs: numbers that its thread writes and that anyone may read.

use std::sync::atomic::{AtomicU64, Ordering};

use protocol::worker::KvHealth;

use crate::engine::BLOCK_TOKENS;
use crate::engine::memory::Memory;

/// The numbers. Each is true by itself; together they may be a step apart.
#[derive(Debug, Default)]
pub struct Board {
    blocks_total: AtomicU64,
    blocks_used: AtomicU64,
    blocks_cached: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    preemptions: AtomicU64,
}

impl Board {
    pub(super) fn publish(&self, memory: &Memory) {
        self.blocks_total.store(memory.total() as u64, Ordering::Relaxed);
        self.blocks_used.store(memory.held() as u64, Ordering::Relaxed);
        self.blocks_cached.store(memory.idle() as u64, Ordering::Relaxed);
    }

    pub(super) fn note_prompt(&self, tokens: usize, cached: usize) {
        self.prompt_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        self.cached_tokens.fetch_add(cached as u64, Ordering::Relaxed);
    }

    pub(super) fn note_preemption(&self) {
        self.preemptions.fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers on the wire.
    pub fn health(&self) -> KvHealth {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        KvHealth {
            block_tokens: BLOCK_TOKENS as u32,
            blocks_total: read(&self.blocks_total),
            blocks_used: read(&self.blocks_used),
            blocks_cached: read(&self.blocks_cached),
            prompt_tokens: read(&self.prompt_tokens),
            cached_tokens: read(&self.cached_tokens),
            preemptions: read(&self.preemptions),
        }
    }
}
