//! Keys and values of sequences, in blocks of 32 tokens that hold all layers.
//!
//! A block consists of cells, one for each layer and key head. In a cell the keys lie element by element, the 32 tokens
//! of an element side by side, so that the scores of a query with 32 tokens are sums of whole vectors; the values lie
//! token by token, so that their weighted sum is one too.

mod cell;

pub(crate) use cell::SCALED;
pub use cell::{KvFormat, KvLayout};

use crate::memory::Memory;
use crate::pool::Pool;
use crate::rows::Shared;

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 32;
/// Rows that one task writes at most: a block's tokens share cache lines.
const TASK_ROWS_MAX: usize = BLOCK_TOKENS;

/// Why keys and values have no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// A block's number is too high.
    #[error("block {block} is none of the {blocks_max} that the memory budget allows")]
    Unknown {
        /// The block.
        block: u32,
        /// How many there are.
        blocks_max: usize,
    },
    /// A sequence takes part in a step without a new token.
    #[error("a sequence of {position} tokens comes without a new one")]
    NoTokens {
        /// The tokens it has.
        position: usize,
    },
    /// A sequence's tokens do not fit its blocks.
    #[error("{blocks} blocks do not hold {tokens} tokens")]
    TooFew {
        /// Blocks of the sequence.
        blocks: usize,
        /// Its tokens, the new ones included.
        tokens: usize,
    },
    /// Earlier tokens are said to be in a block that is empty.
    #[error("block {0} was read before it was written")]
    Empty(u32),
    /// Two sequences would write to one block.
    #[error("block {0} is written by two sequences in one step")]
    Contested(u32),
    /// The system has no memory left.
    #[error("there is no memory for another block of {bytes} bytes")]
    Memory {
        /// A block's size.
        bytes: usize,
    },
}

/// New tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct KvSpan {
    /// Where the first of them stands in its sequence.
    pub position: usize,
    /// How many there are.
    pub tokens: usize,
}

/// Where the rows of a step go: made by [`KvStore::place`], which sees to it that no two have the same place.
#[derive(Debug, Default)]
pub struct Places {
    rows: Vec<Place>,
    spans: Vec<PlacedSpan>,
    blocks: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    block: u32,
    token: u32,
    position: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacedSpan {
    pub first_row: usize,
    pub rows: usize,
    /// Position of the first row.
    pub position: usize,
    first_block: usize,
}

impl Places {
    /// Rows of the step.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Where a row's token stands in its sequence.
    pub fn position(&self, row: usize) -> usize {
        self.rows[row].position
    }

    pub(crate) fn spans(&self) -> &[PlacedSpan] {
        &self.spans
    }

    /// The block of a sequence's tokens from `number` · 32 on.
    pub(crate) fn block(&self, span: &PlacedSpan, number: usize) -> u32 {
        self.blocks[span.first_block + number]
    }
}

/// The memory of all blocks. A block takes memory when it is first written to and keeps it.
#[derive(Debug)]
pub struct KvStore {
    layout: KvLayout,
    /// Nothing until it is written to.
    blocks: Vec<Option<Memory>>,
    blocks_max: usize,
    /// The step in which each block was last written to.
    written: Vec<u64>,
    step: u64,
}

impl KvStore {
    /// An empty store of at most `blocks_max` blocks.
    pub fn new(layout: KvLayout, blocks_max: usize) -> Self {
        Self { layout, blocks: Vec::new(), blocks_max, written: Vec::new(), step: 0 }
    }

    /// What a block looks like.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Blocks that it may hold.
    pub fn blocks_max(&self) -> usize {
        self.blocks_max
    }

    /// Finds the places of a step's rows, and memory for them. `blocks` gives the blocks of a span's sequence, from its
    /// first token to its last new one, by the span's number.
    pub fn place<I: Iterator<Item = u32>>(
        &mut self,
        places: &mut Places,
        spans: impl Iterator<Item = KvSpan>,
        blocks: impl Fn(usize) -> I,
    ) -> Result<(), KvError> {
        self.step += 1;
        places.rows.clear();
        places.spans.clear();
        places.blocks.clear();
        for (number, span) in spans.enumerate() {
            let first_block = places.blocks.len();
            places.blocks.extend(blocks(number));
            let (first_row, rows, position) = (places.rows.len(), span.tokens, span.position);
            places.spans.push(PlacedSpan { first_row, rows, position, first_block });
            self.place_span(span, &places.blocks[first_block..], &mut places.rows)?;
        }
        Ok(())
    }

    fn place_span(&mut self, span: KvSpan, blocks: &[u32], rows: &mut Vec<Place>) -> Result<(), KvError> {
        let end = span.position.saturating_add(span.tokens);
        if span.tokens == 0 {
            return Err(KvError::NoTokens { position: end });
        }
        if end.div_ceil(BLOCK_TOKENS) > blocks.len() {
            return Err(KvError::TooFew { blocks: blocks.len(), tokens: end });
        }
        let first_written = span.position / BLOCK_TOKENS;
        for (number, block) in blocks[..end.div_ceil(BLOCK_TOKENS)].iter().enumerate() {
            if number >= first_written {
                self.claim(*block)?;
            }
            if number * BLOCK_TOKENS < span.position && !self.is_written(*block) {
                return Err(KvError::Empty(*block));
            }
        }
        rows.extend((span.position..end).map(|position| Place {
            block: blocks[position / BLOCK_TOKENS],
            token: (position % BLOCK_TOKENS) as u32,
            position,
        }));
        Ok(())
    }

    fn is_written(&self, block: u32) -> bool {
        self.blocks.get(block as usize).is_some_and(Option::is_some)
    }

    /// Sees to it that a block has memory, and that this step writes to it once.
    fn claim(&mut self, block: u32) -> Result<(), KvError> {
        self.reserve(block)?;
        let written = &mut self.written[block as usize];
        if *written == self.step {
            return Err(KvError::Contested(block));
        }
        *written = self.step;
        Ok(())
    }

    fn reserve(&mut self, block: u32) -> Result<(), KvError> {
        let index = block as usize;
        if index >= self.blocks_max {
            return Err(KvError::Unknown { block, blocks_max: self.blocks_max });
        }
        if index >= self.blocks.len() {
            self.blocks.resize_with(index + 1, || None);
            self.written.resize(index + 1, 0);
        }
        if self.blocks[index].is_none() {
            let bytes = self.layout.block_bytes();
            self.blocks[index] = Some(Memory::try_new(bytes).ok_or(KvError::Memory { bytes })?);
        }
        Ok(())
    }

    /// Copies a block.
    pub fn copy(&mut self, from: u32, to: u32) -> Result<(), KvError> {
        if !self.is_written(from) {
            return Err(KvError::Empty(from));
        }
        self.reserve(to)?;
        // SAFETY: both have memory of one size, and it is that of two blocks or of one and the same.
        unsafe { std::ptr::copy(self.start(from), self.start(to), self.layout.block_bytes()) };
        Ok(())
    }

    fn start(&self, block: u32) -> *mut u8 {
        let memory = self.blocks[block as usize].as_ref();
        assert!(memory.is_some(), "block {block} has no memory");
        memory.map_or(std::ptr::null_mut(), Memory::start)
    }

    /// The cell of one layer and key head in a block that has memory.
    pub(crate) fn cell(&self, block: u32, layer: usize, head: usize) -> *mut u8 {
        assert!(layer < self.layout.layers && head < self.layout.kv_heads, "a cell of the layout");
        let offset = (layer * self.layout.kv_heads + head) * self.layout.cell_bytes();
        // SAFETY: a block has as many bytes as its cells together.
        unsafe { self.start(block).add(offset) }
    }

    /// Writes one layer's keys and values of a step. `prepare` gets each row's number and numbers and completes them; of
    /// the completed row, the keys of all heads begin at `keys_at` and the values at `values_at`.
    ///
    /// # Panics
    /// If the rows are not as many as the places, or not wide enough.
    pub fn write(
        &mut self,
        pool: &Pool,
        places: &Places,
        layer: usize,
        rows: HeadRows<'_>,
        prepare: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let HeadRows { numbers, width, keys_at, values_at } = rows;
        let count = places.rows();
        let kv_width = self.layout.kv_heads * self.layout.head_dim;
        assert_eq!(numbers.len(), count * width, "a row for each place");
        assert!(keys_at + kv_width <= width && values_at + kv_width <= width, "rows with keys and values");
        let numbers = Shared(numbers.as_mut_ptr());
        let store = &*self;
        let task_rows = (count / (4 * pool.threads())).clamp(1, TASK_ROWS_MAX);
        pool.run(count.div_ceil(task_rows), |task| {
            for row in task * task_rows..count.min((task + 1) * task_rows) {
                // SAFETY: the row lies within the numbers, and no other task has it.
                let row_numbers =
                    unsafe { std::slice::from_raw_parts_mut(numbers.get().add(row * width), width) };
                prepare(row, row_numbers);
                let place = places.rows[row];
                for head in 0..store.layout.kv_heads {
                    let at = head * store.layout.head_dim;
                    let keys = &row_numbers[keys_at + at..][..store.layout.head_dim];
                    let values = &row_numbers[values_at + at..][..store.layout.head_dim];
                    let cell = store.cell(place.block, layer, head);
                    // SAFETY: the cell is one of this layout. No other row has the same place, and nobody reads now,
                    // since the store is borrowed exclusively.
                    unsafe { store.layout.write(cell, place.token as usize, keys, values) };
                }
            }
        });
    }
}

/// Rows of a step that hold keys and values among other numbers.
#[derive(Debug)]
pub struct HeadRows<'a> {
    /// All rows.
    pub numbers: &'a mut [f32],
    /// Numbers in a row.
    pub width: usize,
    /// Where the keys of a row begin.
    pub keys_at: usize,
    /// Where the values of a row begin.
    pub values_at: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(blocks_max: usize) -> KvStore {
        let layout = KvLayout { layers: 2, kv_heads: 1, head_dim: 4, format: KvFormat::F16 };
        KvStore::new(layout, blocks_max)
    }

    fn place(store: &mut KvStore, spans: &[(usize, usize, &[u32])]) -> Result<Places, KvError> {
        let mut places = Places::default();
        let list = spans.iter().map(|(position, tokens, _)| KvSpan { position: *position, tokens: *tokens });
        store.place(&mut places, list, |number| spans[number].2.iter().copied())?;
        Ok(places)
    }

    #[test]
    fn rows_find_their_places() {
        let mut store = store(9);
        place(&mut store, &[(0, 33, &[4, 7]), (0, 1, &[0])]).unwrap();
        let places = place(&mut store, &[(33, 2, &[4, 7]), (1, 1, &[0])]).unwrap();
        assert_eq!(places.rows(), 3);
        let found: Vec<_> = places.rows.iter().map(|place| (place.block, place.token)).collect();
        assert_eq!(found, [(7, 1), (7, 2), (0, 1)]);
        assert_eq!(places.position(1), 34);
        assert_eq!(store.blocks.iter().filter(|block| block.is_some()).count(), 3);
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let mut store = store(9);
        let error = |store: &mut KvStore, spans: &[(usize, usize, &[u32])]| place(store, spans).unwrap_err();
        assert_eq!(error(&mut store, &[(0, 33, &[1])]), KvError::TooFew { blocks: 1, tokens: 33 });
        assert_eq!(error(&mut store, &[(0, 0, &[1])]), KvError::NoTokens { position: 0 });
        assert_eq!(error(&mut store, &[(0, 1, &[9])]), KvError::Unknown { block: 9, blocks_max: 9 });
        assert_eq!(error(&mut store, &[(32, 1, &[3, 2])]), KvError::Empty(3));
        assert_eq!(error(&mut store, &[(0, 1, &[5]), (0, 2, &[5])]), KvError::Contested(5));
        assert_eq!(store.copy(8, 1), Err(KvError::Empty(8)));
    }
}
