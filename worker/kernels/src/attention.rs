//! Causal attention of a step's rows over the keys and values of their own sequences.
//!
//! The tokens of a sequence are taken in stretches of 128, counted from its beginning. What a row makes of a stretch
//! depends on the row and the stretch alone, and the stretches' results are joined in their order. So a row's result is
//! the same to the bit however many rows are computed at once, by however many threads, and wherever a prompt was cut.

mod stretch;

use crate::kv::{KvStore, PlacedSpan, Places};
use crate::lanes::{Lanes, Loop, exp, run};
use crate::pool::Pool;
use crate::rows::{Rows, Shared};

/// Tokens in a stretch.
pub(crate) const STRETCH: usize = 128;
/// Queries that are computed at once, so that keys and values are read once for all of them.
const TILE_QUERIES: usize = 32;
/// Below this many multiplications the calling thread does it all: waking others costs more.
const PARALLEL_FROM: usize = 1 << 17;
/// Tasks for each thread, where there is so much to do.
const TASKS_PER_THREAD: usize = 8;

/// What the heads of one layer do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads, a multiple of the key heads.
    pub heads: usize,
    /// Scores s become cap · tanh(s / cap).
    pub soft_cap: Option<f32>,
    /// Tokens that a query sees, itself included; all if absent.
    pub window: Option<usize>,
}

impl Attention {
    /// The first position that a query at `position` sees.
    pub(crate) fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// How a step's attention is cut into work: laid once a step, used in every layer of one kind.
#[derive(Debug, Default)]
pub struct AttentionPlan {
    attention: Option<Attention>,
    units: Vec<Unit>,
    /// Of each row, where its results begin and how many each head has.
    rows: Vec<RowResults>,
    results: Vec<f32>,
    /// Numbers from one result to the next.
    stride: usize,
    units_per_task: usize,
    is_small: bool,
}

/// Rows of one sequence with one key head, over some of the sequence's stretches.
#[derive(Clone, Copy, Debug)]
struct Unit {
    span: usize,
    kv_head: usize,
    /// Counted from the span's first row.
    first_row: usize,
    rows: usize,
    first_stretch: usize,
    end_stretch: usize,
    /// Which of its results each row's stretches go into, the first of them.
    part: usize,
}

#[derive(Clone, Copy, Debug)]
struct RowResults {
    first: usize,
    parts: usize,
}

/// A result is a weighted sum of values, followed by the highest score and the sum of the weights.
const RESULT_EXTRA: usize = 2;

impl AttentionPlan {
    /// Lays the work of a step out for layers with this attention.
    pub fn lay(&mut self, attention: Attention, kv: &KvStore, places: &Places, threads: usize) {
        self.attention = Some(attention);
        self.units.clear();
        self.rows.clear();
        let mut work = 0;
        let mut results = 0;
        for (number, span) in places.spans().iter().enumerate() {
            let sees = span.position + span.rows - attention.first_seen(span.position);
            work += 2 * span.rows * attention.heads * kv.layout().head_dim * sees;
            let parts = self.lay_span(&attention, number, span, kv.layout().kv_heads);
            for _ in 0..span.rows {
                self.rows.push(RowResults { first: results, parts });
                results += attention.heads * parts;
            }
        }
        self.stride = kv.layout().value_width() + RESULT_EXTRA;
        let needed = results * self.stride;
        if self.results.len() < needed {
            self.results.resize(needed, 0.0);
        }
        self.is_small = work < PARALLEL_FROM;
        self.units_per_task = (self.units.len() / (threads * TASKS_PER_THREAD)).max(1);
    }

    /// Gives the number of results that each head of each row gets.
    fn lay_span(
        &mut self,
        attention: &Attention,
        span: usize,
        placed: &PlacedSpan,
        kv_heads: usize,
    ) -> usize {
        let group = attention.heads / kv_heads;
        let tile_rows = (TILE_QUERIES / group).max(1);
        let stretches = |first_row: usize, rows: usize| {
            let first = attention.first_seen(placed.position + first_row) / STRETCH;
            (first, (placed.position + first_row + rows - 1) / STRETCH + 1)
        };
        // A sequence with few new rows is shared out by stretches, one with many by rows.
        if placed.rows <= tile_rows {
            let (first, end) = stretches(0, placed.rows);
            for kv_head in 0..kv_heads {
                self.units.extend((first..end).map(|stretch| Unit {
                    span,
                    kv_head,
                    first_row: 0,
                    rows: placed.rows,
                    first_stretch: stretch,
                    end_stretch: stretch + 1,
                    part: stretch - first,
                }));
            }
            return end - first;
        }
        for first_row in (0..placed.rows).step_by(tile_rows) {
            let rows = tile_rows.min(placed.rows - first_row);
            let (first_stretch, end_stretch) = stretches(first_row, rows);
            self.units.extend((0..kv_heads).map(|kv_head| Unit {
                span,
                kv_head,
                first_row,
                rows,
                first_stretch,
                end_stretch,
                part: 0,
            }));
        }
        1
    }

    /// Attends with the queries of all rows, already scaled, which begin each row of `width` numbers. The results become
    /// the rows of `out`.
    ///
    /// # Panics
    /// If no plan was laid for these places in this store, or the queries do not fit it.
    pub fn attend(
        &mut self,
        pool: &Pool,
        kv: &KvStore,
        places: &Places,
        layer: usize,
        queries: Queries<'_>,
        out: &mut Rows,
    ) {
        let Some(attention) = self.attention else { return };
        let head_dim = kv.layout().head_dim;
        assert_eq!(self.rows.len(), places.rows(), "a plan for these places");
        assert!(attention.heads * head_dim <= queries.width, "rows that hold the queries");
        assert_eq!(queries.numbers.len(), places.rows() * queries.width, "queries for each place");
        let results = Shared(self.results.as_mut_ptr());
        let stride = self.stride;
        assert_eq!(stride, kv.layout().value_width() + RESULT_EXTRA, "a plan for this store");
        let rows = &self.rows;
        let work = stretch::Work { attention, kv, places, layer, queries, rows, results, stride };
        if self.is_small {
            for unit in &self.units {
                work.compute(unit);
            }
        } else {
            let count = self.units.len().div_ceil(self.units_per_task);
            pool.run(count, |task| {
                let first = task * self.units_per_task;
                let end = (first + self.units_per_task).min(self.units.len());
                // Of a prompt, the last rows have most to do; they come first, so that no thread ends with them.
                for number in first..end {
                    work.compute(&self.units[self.units.len() - 1 - number]);
                }
            });
        }
        out.fill(pool, places.rows(), attention.heads * head_dim, |row, out| {
            run(Join { results: rows[row], first: results, stride, head_dim, out });
        });
    }
}

/// Rows that begin with the queries of all heads.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// All rows.
    pub numbers: &'a [f32],
    /// Numbers in a row.
    pub width: usize,
}

/// Joins the results of a row's stretches, in their order, and divides by the sum of the weights.
struct Join<'a> {
    results: RowResults,
    first: Shared<f32>,
    stride: usize,
    head_dim: usize,
    out: &'a mut [f32],
}

impl Loop for Join<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "compiled into each caller with that caller's processor features"
    )]
    fn run<L: Lanes>(self) {
        let RowResults { first, parts } = self.results;
        for (head, out) in self.out.chunks_exact_mut(self.head_dim).enumerate() {
            // SAFETY: the results of this row are complete, and only the task that has the row uses them now.
            unsafe {
                let joined = self.first.get().add((first + head * parts) * self.stride);
                for part in 1..parts {
                    join::<L>(joined, joined.add(part * self.stride), self.stride);
                }
                let inverse = 1.0 / *joined.add(self.stride - 1);
                for (index, out) in out.iter_mut().enumerate() {
                    *out = *joined.add(index) * inverse;
                }
            }
        }
    }
}

/// Adds a result to another one.
///
/// # Safety
/// Both are complete results of this stride, of which nobody else uses the first.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled into each caller with that caller's processor features")]
unsafe fn join<L: Lanes>(to: *mut f32, from: *const f32, stride: usize) {
    let width = stride - RESULT_EXTRA;
    // SAFETY: a result holds `width` sums, which is a multiple of every vector's length, and two numbers more.
    unsafe {
        let (highest, weights) = (to.add(width), to.add(width + 1));
        let (other_highest, other_weights) = (*from.add(width), *from.add(width + 1));
        if other_highest == f32::NEG_INFINITY {
            return;
        }
        let common = highest.read().max(other_highest);
        let own = exp(L::splat(*highest - common));
        let other = exp(L::splat(other_highest - common));
        for at in (0..width).step_by(L::COUNT) {
            let sum = L::load(to.add(at)).mul(own);
            L::load(from.add(at)).mul_add(other, sum).store(to.add(at));
        }
        *weights = own.first() * *weights + other.first() * other_weights;
        *highest = common;
    }
}

#[cfg(test)]
mod tests;
