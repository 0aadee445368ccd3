//! What some rows with one key head make of one stretch of their sequence's tokens.

#![expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]

use std::cell::RefCell;
use std::marker::PhantomData;

use half::f16;

use super::{Attention, Queries, RESULT_EXTRA, RowResults, STRETCH, Unit, join};
use crate::kv::{BLOCK_TOKENS, KvFormat, KvStore, PlacedSpan, Places, SCALED};
use crate::lanes::{Lanes, Loop, exp, run, tanh};
use crate::rows::Shared;

thread_local! {
    /// Scores and sums of one unit.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// All that a unit's computation refers to.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub attention: Attention,
    pub kv: &'a KvStore,
    pub places: &'a Places,
    pub layer: usize,
    pub queries: Queries<'a>,
    pub rows: &'a [RowResults],
    pub results: Shared<f32>,
    pub stride: usize,
}

impl Work<'_> {
    /// Query heads of a key head.
    fn group(&self) -> usize {
        self.attention.heads / self.kv.layout().kv_heads
    }

    /// Computes one unit. No two units have the same rows, key head and part.
    pub fn compute(&self, unit: &Unit) {
        let queries = unit.rows * self.group();
        SCRATCH.with_borrow_mut(|scratch| {
            let needed = queries * (STRETCH + self.stride);
            if scratch.len() < needed {
                scratch.resize(needed, 0.0);
            }
            match self.kv.layout().format {
                KvFormat::F16 => run(Tile::<Halves>::new(self, unit, scratch)),
                KvFormat::Q8 => run(Tile::<Bytes>::new(self, unit, scratch)),
            }
        });
    }
}

/// How numbers lie in a cell.
trait Numbers: Copy {
    /// Whether the scales of a cell count.
    const IS_SCALED: bool;
    /// # Safety
    /// The cell holds a vector of numbers from `at` on.
    unsafe fn load<L: Lanes>(cell: *const u8, at: usize) -> L;
}

#[derive(Clone, Copy)]
struct Halves;

impl Numbers for Halves {
    const IS_SCALED: bool = false;

    #[inline(always)]
    #[expect(clippy::cast_ptr_alignment, reason = "a cell begins where a cache line does")]
    unsafe fn load<L: Lanes>(cell: *const u8, at: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_halves(cell.cast::<f16>().add(at)) }
    }
}

#[derive(Clone, Copy)]
struct Bytes;

impl Numbers for Bytes {
    const IS_SCALED: bool = true;

    #[inline(always)]
    unsafe fn load<L: Lanes>(cell: *const u8, at: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_bytes(cell.cast::<i8>().add(at)) }
    }
}

/// One unit's computation.
struct Tile<'a, N> {
    work: &'a Work<'a>,
    unit: &'a Unit,
    span: &'a PlacedSpan,
    group: usize,
    /// Queries: the group's heads of each row, row by row.
    queries: usize,
    /// 128 scores and a result for each query.
    scratch: &'a mut [f32],
    numbers: PhantomData<N>,
}

/// The blocks of a stretch that the unit sees, and the tokens in them.
#[derive(Clone, Copy)]
struct Seen {
    /// The stretch's first token.
    base: usize,
    first_block: usize,
    end_block: usize,
    /// Behind the last token that any query sees.
    end: usize,
}

impl<N: Numbers> Loop for Tile<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let stride = self.work.stride;
        let scores = self.scratch.as_mut_ptr();
        // SAFETY: the scratch holds 128 scores and a result for each query; the results are this unit's own.
        unsafe {
            let sums = scores.add(self.queries * STRETCH);
            for stretch in self.unit.first_stretch..self.unit.end_stretch {
                let seen = self.seen(stretch);
                self.score::<L>(seen, scores);
                for query in 0..self.queries {
                    let extra = sums.add((query + 1) * stride - RESULT_EXTRA);
                    let (highest, weights) = self.weigh::<L>(seen, query, scores.add(query * STRETCH));
                    *extra = highest;
                    *extra.add(1) = weights;
                }
                self.sum::<L>(seen, scores, sums);
                for query in 0..self.queries {
                    self.deliver::<L>(stretch, query, sums.add(query * stride));
                }
            }
        }
    }
}

impl<'a, N: Numbers> Tile<'a, N> {
    fn new(work: &'a Work<'a>, unit: &'a Unit, scratch: &'a mut [f32]) -> Self {
        let (span, group) = (&work.places.spans()[unit.span], work.group());
        Self { work, unit, span, group, queries: unit.rows * group, scratch, numbers: PhantomData }
    }

    fn row(&self, query: usize) -> usize {
        self.unit.first_row + query / self.group
    }

    fn head(&self, query: usize) -> usize {
        self.unit.kv_head * self.group + query % self.group
    }

    fn position(&self, query: usize) -> usize {
        self.span.position + self.row(query)
    }

    fn seen(&self, stretch: usize) -> Seen {
        let base = stretch * STRETCH;
        let first = self.work.attention.first_seen(self.position(0)).max(base);
        let end = (base + STRETCH).min(self.position(self.queries - 1) + 1);
        Seen { base, first_block: first / BLOCK_TOKENS, end_block: end.div_ceil(BLOCK_TOKENS), end }
    }

    fn cell(&self, block: usize) -> *const u8 {
        self.work.kv.cell(self.work.places.block(self.span, block), self.work.layer, self.unit.kv_head)
    }

    fn query(&self, query: usize) -> *const f32 {
        let Queries { numbers, width } = self.work.queries;
        let at = (self.span.first_row + self.row(query)) * width
            + self.head(query) * self.work.kv.layout().head_dim;
        &raw const numbers[at]
    }

    /// Writes the products of all queries with the keys of all blocks that any of them sees.
    ///
    /// # Safety
    /// `scores` has room for 128 numbers a query.
    #[inline(always)]
    unsafe fn score<L: Lanes>(&self, seen: Seen, scores: *mut f32) {
        for block in seen.first_block..seen.end_block {
            let cell = self.cell(block);
            let mut query = 0;
            while query < self.queries {
                let count = (self.queries - query).min(L::ROWS);
                // SAFETY: the block's 32 scores of each of these queries lie within its 128.
                unsafe {
                    let out = scores.add(query * STRETCH + block * BLOCK_TOKENS - seen.base);
                    match count {
                        1 => self.score_rows::<L, 1>(cell, query, out),
                        2 => self.score_rows::<L, 2>(cell, query, out),
                        3 => self.score_rows::<L, 3>(cell, query, out),
                        4 => self.score_rows::<L, 4>(cell, query, out),
                        5 => self.score_rows::<L, 5>(cell, query, out),
                        6 => self.score_rows::<L, 6>(cell, query, out),
                        7 => self.score_rows::<L, 7>(cell, query, out),
                        _ => self.score_rows::<L, 8>(cell, query, out),
                    }
                }
                query += count;
            }
        }
    }

    /// # Safety
    /// As of `score`, of `ROWS` queries from `query` on.
    #[inline(always)]
    unsafe fn score_rows<L: Lanes, const ROWS: usize>(&self, cell: *const u8, query: usize, out: *mut f32) {
        let layout = self.work.kv.layout();
        let queries: [*const f32; ROWS] = std::array::from_fn(|index| self.query(query + index));
        for token in (0..BLOCK_TOKENS).step_by(2 * L::COUNT) {
            let mut sums = [[L::splat(0.0); 2]; ROWS];
            // SAFETY: a cell holds `head_dim` elements of 32 tokens, a query as many elements; `out` has room.
            unsafe {
                for element in 0..layout.head_dim {
                    let at = element * BLOCK_TOKENS + token;
                    let mut keys = [N::load::<L>(cell, at), N::load::<L>(cell, at + L::COUNT)];
                    if N::IS_SCALED {
                        let scales = layout.scales(cell).0.add(element / SCALED * BLOCK_TOKENS + token);
                        keys = [keys[0].mul(L::load(scales)), keys[1].mul(L::load(scales.add(L::COUNT)))];
                    }
                    for (sums, query) in sums.iter_mut().zip(queries) {
                        let number = L::splat(*query.add(element));
                        *sums = [number.mul_add(keys[0], sums[0]), number.mul_add(keys[1], sums[1])];
                    }
                }
                for (row, sums) in sums.into_iter().enumerate() {
                    let out = out.add(row * STRETCH + token);
                    sums[0].store(out);
                    sums[1].store(out.add(L::COUNT));
                }
            }
        }
    }

    /// Turns a query's scores into weights, 0 for what it does not see. Gives the highest score, which is minus infinity
    /// if it sees nothing of the stretch, and the sum of the weights.
    ///
    /// # Safety
    /// `scores` holds the query's 128 numbers, complete for the blocks that are seen.
    #[inline(always)]
    unsafe fn weigh<L: Lanes>(&self, seen: Seen, query: usize, scores: *mut f32) -> (f32, f32) {
        let position = self.position(query);
        let start = seen.first_block * BLOCK_TOKENS - seen.base;
        let len = (seen.end_block - seen.first_block) * BLOCK_TOKENS;
        let first = self.work.attention.first_seen(position).max(seen.base) - seen.base;
        let end = (position + 1).clamp(seen.base, seen.base + STRETCH) - seen.base;
        // SAFETY: the blocks that are seen lie within the 128 numbers.
        let scores = unsafe { std::slice::from_raw_parts_mut(scores.add(start), len) };
        let (first, end) = ((first - start.min(first)).min(len), end.saturating_sub(start).min(len));
        if first >= end {
            scores.fill(0.0);
            return (f32::NEG_INFINITY, 0.0);
        }
        // SAFETY: 32, and so `len`, is a multiple of every vector's length.
        unsafe {
            if let Some(cap) = self.work.attention.soft_cap {
                bend::<L>(scores, cap);
            }
            scores[..first].fill(f32::NEG_INFINITY);
            scores[end..].fill(f32::NEG_INFINITY);
            weights::<L>(scores)
        }
    }

    /// Writes the weighted sums of the values.
    ///
    /// # Safety
    /// `weights` holds 128 numbers a query, complete for the blocks that are seen; `sums` has room for a result each.
    #[inline(always)]
    unsafe fn sum<L: Lanes>(&self, seen: Seen, weights: *const f32, sums: *mut f32) {
        let mut query = 0;
        while query < self.queries {
            let count = (self.queries - query).min(L::ROWS);
            // SAFETY: these queries' weights and results.
            unsafe {
                let (weights, sums) = (weights.add(query * STRETCH), sums.add(query * self.work.stride));
                match count {
                    1 => self.sum_rows::<L, 1>(seen, weights, sums),
                    2 => self.sum_rows::<L, 2>(seen, weights, sums),
                    3 => self.sum_rows::<L, 3>(seen, weights, sums),
                    4 => self.sum_rows::<L, 4>(seen, weights, sums),
                    5 => self.sum_rows::<L, 5>(seen, weights, sums),
                    6 => self.sum_rows::<L, 6>(seen, weights, sums),
                    7 => self.sum_rows::<L, 7>(seen, weights, sums),
                    _ => self.sum_rows::<L, 8>(seen, weights, sums),
                }
            }
            query += count;
        }
    }

    /// # Safety
    /// As of `sum`, of the first `ROWS` queries.
    #[inline(always)]
    unsafe fn sum_rows<L: Lanes, const ROWS: usize>(&self, seen: Seen, weights: *const f32, out: *mut f32) {
        let layout = self.work.kv.layout();
        let width = layout.value_width();
        for element in (0..width).step_by(2 * L::COUNT) {
            let mut sums = [[L::splat(0.0); 2]; ROWS];
            for block in seen.first_block..seen.end_block {
                let cell = self.cell(block);
                let tokens = (seen.end - block * BLOCK_TOKENS).min(BLOCK_TOKENS);
                // SAFETY: a cell holds 32 tokens of `width` elements; there is a weight for each token.
                unsafe {
                    let weights = weights.add(block * BLOCK_TOKENS - seen.base);
                    for token in 0..tokens {
                        let at = layout.values_at() + token * width + element;
                        let mut values = [N::load::<L>(cell, at), N::load::<L>(cell, at + L::COUNT)];
                        if N::IS_SCALED {
                            let scales = layout.scales(cell).1.add(element / SCALED * BLOCK_TOKENS + token);
                            let scale = L::splat(*scales);
                            values = [values[0].mul(scale), values[1].mul(scale)];
                        }
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let weight = L::splat(*weights.add(row * STRETCH + token));
                            *sums = [weight.mul_add(values[0], sums[0]), weight.mul_add(values[1], sums[1])];
                        }
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                // SAFETY: `width` is a multiple of two vectors' length, and a result holds so many sums.
                unsafe {
                    let out = out.add(row * self.work.stride + element);
                    sums[0].store(out);
                    sums[1].store(out.add(L::COUNT));
                }
            }
        }
    }

    /// Joins a query's result for a stretch to what its row has already.
    ///
    /// # Safety
    /// `result` is complete, and nobody else uses this unit's results.
    #[inline(always)]
    unsafe fn deliver<L: Lanes>(&self, stretch: usize, query: usize, result: *const f32) {
        let RowResults { first, parts } = self.work.rows[self.span.first_row + self.row(query)];
        let at = first + self.head(query) * parts + self.unit.part;
        let is_first = stretch == self.unit.first_stretch;
        // SAFETY: every row has `parts` results for each head.
        unsafe {
            let to = self.work.results.get().add(at * self.work.stride);
            let has_nothing = || *to.add(self.work.stride - RESULT_EXTRA) == f32::NEG_INFINITY;
            if is_first || has_nothing() {
                std::ptr::copy_nonoverlapping(result, to, self.work.stride);
            } else {
                join::<L>(to, result, self.work.stride);
            }
        }
    }
}

/// Caps scores softly, in place.
///
/// # Safety
/// There are a multiple of every vector's length of them.
#[inline(always)]
unsafe fn bend<L: Lanes>(scores: &mut [f32], cap: f32) {
    let start = scores.as_mut_ptr();
    for at in (0..scores.len()).step_by(L::COUNT) {
        // SAFETY: the loop stays below the length.
        unsafe {
            let score = L::load(start.add(at)).mul(L::splat(1.0 / cap));
            tanh(score).mul(L::splat(cap)).store(start.add(at));
        }
    }
}

/// Turns scores, minus infinity for what is not seen, into weights relative to the highest, in place. Gives the highest
/// score and the sum of the weights.
///
/// # Safety
/// There are a multiple of every vector's length of them.
#[inline(always)]
unsafe fn weights<L: Lanes>(scores: &mut [f32]) -> (f32, f32) {
    let (start, len) = (scores.as_mut_ptr(), scores.len());
    let mut highest = L::splat(f32::NEG_INFINITY);
    let mut sum = L::splat(0.0);
    // SAFETY: the loops stay below `len`.
    unsafe {
        for at in (0..len).step_by(L::COUNT) {
            highest = highest.max(L::load(start.add(at)));
        }
        let highest = highest.to_highest();
        for at in (0..len).step_by(L::COUNT) {
            let weight = exp(L::load(start.add(at)).sub(L::splat(highest)));
            weight.store(start.add(at));
            sum = sum.add(weight);
        }
        (highest, sum.to_sum())
    }
}
