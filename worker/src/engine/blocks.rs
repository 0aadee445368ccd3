//! The blocks of the keys and values: which are free, and how many sequences hold each.

use crate::engine::BlockId;

/// Counts who holds each block. Blocks that were written before are given out before fresh ones, so that memory follows
/// the need.
#[derive(Debug)]
pub struct BlockPool {
    /// Holders of each block that was ever given out.
    holders: Vec<u32>,
    free: Vec<BlockId>,
    total: usize,
}

impl BlockPool {
    /// So many free blocks.
    pub fn new(total: usize) -> Self {
        Self { holders: Vec::new(), free: Vec::new(), total }
    }

    /// All blocks.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Blocks that nobody holds.
    pub fn available(&self) -> usize {
        self.free.len() + self.total - self.holders.len()
    }

    /// Gives a block to one holder, if one is free.
    pub fn take(&mut self) -> Option<BlockId> {
        if let Some(block) = self.free.pop() {
            self.holders[block.0 as usize] = 1;
            return Some(block);
        }
        if self.holders.len() == self.total {
            return None;
        }
        self.holders.push(1);
        Some(BlockId(self.holders.len() as u32 - 1))
    }

    /// One holder lets go.
    pub fn release(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.0 as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(block);
        }
    }
}
