//! The memory for keys and values as sequences see it: tables of blocks that grow, fork and share what they can.
//!
//! What may happen to a block: free → held by one sequence → held by several → held by one → free, or kept in the
//! prefix cache without a holder until somebody needs it, for its content or for its place.

use crate::engine::blocks::BlockPool;
use crate::engine::prefix_cache::{Prefix, PrefixCache};
use crate::engine::{BLOCK_TOKENS, BlockId, blocks_for};

/// All blocks, and what is known of their content.
#[derive(Debug)]
pub(super) struct Memory {
    pool: BlockPool,
    cache: PrefixCache,
    /// Blocks that are kept without a holder at most.
    idle_max: usize,
}

/// The blocks of one sequence. Only [`Memory::close`] ends it.
#[derive(Debug)]
#[must_use]
pub(super) struct BlockTable {
    blocks: Vec<BlockId>,
    /// Blocks at the beginning whose content the cache knows, and where that leads to in its tree.
    known: usize,
    prefix: Prefix,
}

impl BlockTable {
    /// The blocks in the order of the sequence's tokens.
    pub(super) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }
}

/// What must be done before a token can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extended {
    /// Nothing.
    Ready,
    /// The first tokens of a block that others hold too must be copied.
    Copy {
        /// The shared block.
        from: BlockId,
        /// The block that takes its place.
        to: BlockId,
        /// Tokens to copy.
        tokens: usize,
    },
    /// A block is needed and there is none.
    NoBlock,
}

/// Whether a sequence may begin with blocks that another one computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// It may.
    Allowed,
    /// Every token must be computed, since the logits of all are wanted.
    Refused,
}

impl Memory {
    /// `total` free blocks, of which at most `idle_max` are kept for their content alone.
    pub(super) fn new(total: usize, idle_max: usize) -> Self {
        Self { pool: BlockPool::new(total), cache: PrefixCache::default(), idle_max }
    }

    /// All blocks.
    pub(super) fn total(&self) -> usize {
        self.pool.total()
    }

    /// Blocks that sequences hold.
    pub(super) fn held(&self) -> usize {
        self.pool.held()
    }

    /// Blocks kept for their content alone.
    pub(super) fn idle(&self) -> usize {
        self.cache.idle()
    }

    fn available(&self) -> usize {
        self.pool.free() + self.cache.idle()
    }

    /// A table for a sequence of these tokens, and how many of them are computed already: whole blocks, and never the
    /// last token, whose logits are wanted. None unless `spare` blocks remain after it.
    pub(super) fn open(&mut self, tokens: &[u32], reuse: Reuse, spare: usize) -> Option<(BlockTable, usize)> {
        let mut table = BlockTable { blocks: Vec::new(), known: 0, prefix: Prefix::EMPTY };
        if reuse == Reuse::Allowed {
            self.take_known(&mut table, &tokens[..tokens.len().saturating_sub(1)]);
        }
        let cached = table.blocks.len() * BLOCK_TOKENS;
        let missing = blocks_for(tokens.len()) - table.blocks.len();
        if missing + spare > self.available() {
            self.close(table);
            return None;
        }
        for _ in 0..missing {
            table.blocks.extend(self.take());
        }
        Some((table, cached))
    }

    fn take_known(&mut self, table: &mut BlockTable, tokens: &[u32]) {
        for tokens in tokens.chunks_exact(BLOCK_TOKENS) {
            let Some((prefix, block)) = self.cache.find(table.prefix, tokens) else { return };
            self.hold(block);
            table.blocks.push(block);
            table.known += 1;
            table.prefix = prefix;
        }
    }

    fn hold(&mut self, block: BlockId) {
        self.cache.wake(block);
        self.pool.hold(block);
    }

    /// A free block, or else the one that was kept longest.
    fn take(&mut self) -> Option<BlockId> {
        self.pool.take().or_else(|| {
            let block = self.cache.forget_oldest()?;
            self.pool.give_back(block);
            self.pool.take()
        })
    }

    /// Makes the place of the token at `position`, the next to be written, the sequence's own.
    pub(super) fn extend(&mut self, table: &mut BlockTable, position: usize) -> Extended {
        let index = position / BLOCK_TOKENS;
        let Some(&from) = table.blocks.get(index) else {
            let Some(block) = self.take() else { return Extended::NoBlock };
            table.blocks.push(block);
            return Extended::Ready;
        };
        if !self.pool.is_shared(from) {
            return Extended::Ready;
        }
        let Some(to) = self.take() else { return Extended::NoBlock };
        self.let_go(from);
        table.blocks[index] = to;
        Extended::Copy { from, to, tokens: position % BLOCK_TOKENS }
    }

    /// Makes the blocks known that the sequence's first `computed` tokens fill. A block whose content another one has
    /// already gives way to that one.
    pub(super) fn remember(&mut self, table: &mut BlockTable, tokens: &[u32], computed: usize) {
        while (table.known + 1) * BLOCK_TOKENS <= computed {
            let index = table.known;
            let content = &tokens[index * BLOCK_TOKENS..(index + 1) * BLOCK_TOKENS];
            let own = table.blocks[index];
            table.prefix = match self.cache.find(table.prefix, content) {
                Some((prefix, block)) => {
                    self.hold(block);
                    self.let_go(own);
                    table.blocks[index] = block;
                    prefix
                }
                None => self.cache.insert(table.prefix, content, own),
            };
            table.known += 1;
        }
    }

    /// A second table of the same tokens. Who first writes behind them gets a block of its own, by [`Self::extend`].
    pub(super) fn fork(&mut self, table: &BlockTable) -> BlockTable {
        for block in &table.blocks {
            self.pool.hold(*block);
        }
        BlockTable { blocks: table.blocks.clone(), known: table.known, prefix: table.prefix }
    }

    /// Ends a table. What is known of its blocks is kept while there is room.
    pub(super) fn close(&mut self, table: BlockTable) {
        for block in table.blocks.into_iter().rev() {
            self.let_go(block);
        }
    }

    fn let_go(&mut self, block: BlockId) {
        if !self.pool.let_go(block) {
            return;
        }
        if !self.cache.keep(block) {
            self.pool.give_back(block);
        } else if self.cache.idle() > self.idle_max
            && let Some(oldest) = self.cache.forget_oldest()
        {
            self.pool.give_back(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    /// A sequence as the step loop would have it.
    struct Holder {
        table: BlockTable,
        tokens: Vec<u32>,
        computed: usize,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Open { text: u32, tokens: usize, spare: usize },
        Append { who: usize, token: u32, count: usize },
        Fork { who: usize },
        Close { who: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..3, 1usize..200, 0usize..3).prop_map(|(text, tokens, spare)| Step::Open {
                text,
                tokens,
                spare
            }),
            (0usize..9, 0u32..2, 1usize..50).prop_map(|(who, token, count)| Step::Append {
                who,
                token,
                count
            }),
            (0usize..9).prop_map(|who| Step::Fork { who }),
            (0usize..9).prop_map(|who| Step::Close { who }),
        ]
    }

    fn append(memory: &mut Memory, holder: &mut Holder, token: u32) -> bool {
        match memory.extend(&mut holder.table, holder.computed) {
            Extended::NoBlock => return false,
            Extended::Copy { from, to, tokens } => {
                assert!(from != to && tokens == holder.computed % BLOCK_TOKENS && tokens > 0);
            }
            Extended::Ready => {}
        }
        holder.tokens.push(token);
        holder.computed += 1;
        memory.remember(&mut holder.table, &holder.tokens, holder.computed);
        true
    }

    /// Every block is held as often as tables name it, and every block is somewhere exactly once.
    fn check(memory: &Memory, holders: &[Holder]) {
        let mut named: HashMap<BlockId, Vec<(usize, &[u32])>> = HashMap::new();
        for holder in holders {
            let blocks = holder.table.blocks();
            assert_eq!(blocks.len(), blocks.iter().collect::<HashSet<_>>().len(), "twice in one table");
            for (index, block) in blocks.iter().enumerate() {
                let end = ((index + 1) * BLOCK_TOKENS).min(holder.computed);
                named.entry(*block).or_default().push((index, &holder.tokens[..end]));
            }
        }
        for (block, sequences) in &named {
            assert!(sequences.windows(2).all(|pair| pair[0] == pair[1]), "{block:?} is shared wrongly");
            assert_eq!(memory.pool.is_shared(*block), sequences.len() > 1);
        }
        assert_eq!(memory.held(), named.len());
        assert_eq!(memory.pool.free() + memory.held() + memory.idle(), memory.total());
        assert!(memory.idle() <= memory.idle_max);
    }

    proptest! {
        #[test]
        fn no_block_is_lost_or_given_away_twice(
            steps in prop::collection::vec(step(), 1..80), total in 1usize..30, idle_max in 0usize..30,
        ) {
            let mut memory = Memory::new(total, idle_max);
            let mut holders: Vec<Holder> = Vec::new();
            for step in steps {
                match step {
                    Step::Open { text, tokens, spare } => {
                        let tokens: Vec<u32> = (0..tokens as u32).map(|index| index % (text + 2)).collect();
                        let available = memory.available();
                        match memory.open(&tokens, Reuse::Allowed, spare) {
                            Some((mut table, cached)) => {
                                prop_assert!(cached < tokens.len() && cached % BLOCK_TOKENS == 0);
                                prop_assert!(memory.available() >= spare);
                                memory.remember(&mut table, &tokens, tokens.len());
                                let computed = tokens.len();
                                holders.push(Holder { table, tokens, computed });
                            }
                            None => prop_assert!(blocks_for(tokens.len()) + spare > available),
                        }
                    }
                    Step::Append { who, token, count } => {
                        if let Some(holder) = holders.get_mut(who) {
                            for _ in 0..count {
                                if !append(&mut memory, holder, token) {
                                    prop_assert_eq!(memory.available(), 0);
                                    break;
                                }
                            }
                        }
                    }
                    Step::Fork { who } => {
                        if let Some(holder) = holders.get(who) {
                            let fork = Holder {
                                table: memory.fork(&holder.table),
                                tokens: holder.tokens.clone(),
                                computed: holder.computed,
                            };
                            holders.push(fork);
                        }
                    }
                    Step::Close { who } if who < holders.len() => {
                        memory.close(holders.swap_remove(who).table);
                    }
                    Step::Close { .. } => {}
                }
                check(&memory, &holders);
            }
            for holder in holders {
                memory.close(holder.table);
            }
            prop_assert_eq!(memory.held(), 0);
            prop_assert_eq!(memory.pool.free() + memory.idle(), total);
            while let Some(block) = memory.cache.forget_oldest() {
                memory.pool.give_back(block);
            }
            let all: HashSet<BlockId> = std::iter::from_fn(|| memory.pool.take()).collect();
            prop_assert_eq!(all.len(), total, "each block is given out once");
        }
    }
}
