//! Which blocks hold which tokens, so that a prompt which begins as another did need not be computed again.
//!
//! Full blocks are nodes of a tree: a node is known by its parent and its own tokens, so that it stands for everything
//! before it too. Tokens are compared themselves; there is no hash to trust. The cache lives and dies with its model.

use std::collections::{BTreeMap, HashMap};

use crate::engine::{BLOCK_TOKENS, BlockId};

/// A place in the tree: everything up to the end of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Prefix(u64);

impl Prefix {
    /// No tokens at all.
    pub(super) const EMPTY: Self = Self(0);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    parent: Prefix,
    tokens: [u32; BLOCK_TOKENS],
}

/// The tree, and the blocks in it that no sequence holds, the longest unused first.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    nodes: HashMap<Key, (Prefix, BlockId)>,
    /// What each block in the tree is known by.
    known: HashMap<BlockId, Known>,
    /// Unheld blocks by when they were let go.
    idle: BTreeMap<u64, BlockId>,
    prefixes: u64,
    clock: u64,
}

#[derive(Debug)]
struct Known {
    key: Key,
    /// Since when nobody holds it, if nobody does.
    idle_since: Option<u64>,
}

impl PrefixCache {
    /// The block that continues a prefix by one block's tokens.
    pub(super) fn find(&self, parent: Prefix, tokens: &[u32]) -> Option<(Prefix, BlockId)> {
        self.nodes.get(&key(parent, tokens)?).copied()
    }

    /// Makes a block, held and computed, known as the continuation of a prefix that had none with these tokens.
    pub(super) fn insert(&mut self, parent: Prefix, tokens: &[u32], block: BlockId) -> Prefix {
        let Some(key) = key(parent, tokens) else { return parent };
        self.prefixes += 1;
        let prefix = Prefix(self.prefixes);
        self.nodes.insert(key, (prefix, block));
        self.known.insert(block, Known { key, idle_since: None });
        prefix
    }

    /// Keeps a block that has lost its last holder; false if its content is not known.
    pub(super) fn keep(&mut self, block: BlockId) -> bool {
        let Some(known) = self.known.get_mut(&block) else { return false };
        self.clock += 1;
        known.idle_since = Some(self.clock);
        self.idle.insert(self.clock, block);
        true
    }

    /// Notes that a block is held again, or still.
    pub(super) fn wake(&mut self, block: BlockId) {
        if let Some(since) = self.known.get_mut(&block).and_then(|known| known.idle_since.take()) {
            self.idle.remove(&since);
        }
    }

    /// Blocks that are kept though nobody holds them.
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Forgets the block that nobody has held for the longest time. Whoever lets go of a sequence's blocks begins with
    /// the last one, so that no block is forgotten before those that continue it.
    pub(super) fn forget_oldest(&mut self) -> Option<BlockId> {
        let (_, block) = self.idle.pop_first()?;
        if let Some(known) = self.known.remove(&block) {
            self.nodes.remove(&known.key);
        }
        Some(block)
    }
}

/// None unless the tokens fill a block.
fn key(parent: Prefix, tokens: &[u32]) -> Option<Key> {
    tokens.try_into().ok().map(|tokens| Key { parent, tokens })
}
