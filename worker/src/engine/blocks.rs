//! The blocks of keys and values: which are free, and how many sequences hold each.

use crate::engine::BlockId;

/// Counts the holders of each block. A block is held, free, or unheld but kept for its content by
/// [`crate::engine::prefix_cache::PrefixCache`].
#[derive(Debug)]
pub(super) struct BlockPool {
    /// Holders of each block that was ever given out.
    holders: Vec<u32>,
    /// Blocks that were given out before: they are given out again before fresh ones, so that memory follows the need.
    free: Vec<BlockId>,
    total: usize,
    held: usize,
}

impl BlockPool {
    /// So many free blocks.
    pub(super) fn new(total: usize) -> Self {
        Self { holders: Vec::new(), free: Vec::new(), total, held: 0 }
    }

    /// All blocks.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Blocks with a holder.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Blocks without holder or content.
    pub(super) fn free(&self) -> usize {
        self.free.len() + self.total - self.holders.len()
    }

    /// Gives a free block to a first holder.
    pub(super) fn take(&mut self) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None if self.holders.len() < self.total => {
                self.holders.push(0);
                BlockId(self.holders.len() as u32 - 1)
            }
            None => return None,
        };
        self.hold(block);
        Some(block)
    }

    /// Adds a holder to a block that is held or kept.
    pub(super) fn hold(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.0 as usize];
        *holders += 1;
        self.held += usize::from(*holders == 1);
    }

    /// Whether it has several holders, none of whom may write to it then.
    pub(super) fn is_shared(&self, block: BlockId) -> bool {
        self.holders[block.0 as usize] > 1
    }

    /// Takes a holder away; true if it was the last one. The block is to be freed then, or kept.
    pub(super) fn let_go(&mut self, block: BlockId) -> bool {
        let holders = &mut self.holders[block.0 as usize];
        debug_assert!(*holders > 0, "{block:?} has no holder");
        *holders -= 1;
        let unheld = *holders == 0;
        self.held -= usize::from(unheld);
        unheld
    }

    /// Frees a block that nobody holds.
    pub(super) fn give_back(&mut self, block: BlockId) {
        debug_assert!(self.holders[block.0 as usize] == 0, "{block:?} is held");
        self.free.push(block);
    }
}
