//! Weights of one quantised format, packed, and how their product is split over threads.

use super::layout::{Layout, TILE, pack_tile, tile_bytes, with_layout};
use super::tile::{Ahead, Products, Sums, Weights, products};
use super::{Source, Target};
use crate::blocks::GROUP;
use crate::memory::Memory;
use crate::pool::Pool;
use crate::processor::Processor;
use crate::rows::{PANEL, Place, Rows, Shared};

/// Bytes of tiles that a task walks over again for each panel, so that they come from the second-level cache.
const TASK_BYTES_MAX: usize = 256 << 10;
/// Tasks for each thread, so that all end at about the same time.
const TASKS_PER_THREAD: usize = 6;
/// Products of bytes that make a task worth its handing over.
const TASK_PRODUCTS_MIN: usize = 32 << 10;

/// Tiles of weights.
#[derive(Debug)]
pub(super) struct Packed {
    outputs: usize,
    groups: usize,
    tile_bytes: usize,
    products: Products,
    tiles: Memory,
}

/// How a product is cut into tasks: so many tiles by so many panels each.
struct Cut {
    tiles: usize,
    panels: usize,
}

impl Packed {
    /// Packs a source, unless its format is one of plain numbers.
    pub fn new(pool: &Pool, processor: Processor, inputs: usize, source: &Source<'_>) -> Option<Self> {
        let products = products(processor, source.format)?;
        let groups = inputs / GROUP;
        let tile_bytes = with_layout!(source.format, tile_bytes_of)?(groups);
        let pack = with_layout!(source.format, pack_tile_of)?;
        let count = source.outputs.div_ceil(TILE);
        let mut tiles = Memory::new(count * tile_bytes);
        let start = Shared(tiles.as_mut_ptr());
        pool.run(count, |tile| {
            // SAFETY: within the memory, and of this task alone.
            let out =
                unsafe { std::slice::from_raw_parts_mut(start.get().add(tile * tile_bytes), tile_bytes) };
            pack(source, inputs, tile, out);
        });
        Some(Self { outputs: source.outputs, groups, tile_bytes, products, tiles })
    }

    pub fn bytes(&self) -> usize {
        self.tiles.len()
    }

    /// Puts the products of all rows where `target` says.
    pub fn multiply(&self, pool: &Pool, rows: &Rows, target: &Target) {
        let panels: usize = rows.count() / PANEL + (rows.count() % PANEL).count_ones() as usize;
        let tiles = self.outputs.div_ceil(TILE);
        if panels == 0 || tiles == 0 {
            return;
        }
        let cut = self.cut(pool.threads(), rows.count(), panels, tiles);
        // Threads take turns, so each one's tasks lie behind each other, where its fetching ahead has been.
        let threads = pool.threads();
        let run = tiles.div_ceil(cut.tiles * threads);
        let columns = run * threads;
        pool.run(columns * panels.div_ceil(cut.panels), |task| {
            let column = task % columns;
            let first_tile = (column % threads * run + column / threads) * cut.tiles;
            let first_panel = task / columns * cut.panels;
            let mut ahead = Ahead::Weights;
            for place in Place::all(rows.count()).skip(first_panel).take(cut.panels) {
                for tile in first_tile..tiles.min(first_tile + cut.tiles) {
                    self.multiply_tile(rows, place, self.tile(tile, ahead), target);
                }
                ahead = Ahead::Nothing;
            }
        });
    }

    fn cut(&self, threads: usize, rows: usize, panels: usize, tiles: usize) -> Cut {
        if threads == 1 {
            return Cut { tiles: (TASK_BYTES_MAX / self.tile_bytes).max(1), panels };
        }
        let tasks = threads * TASKS_PER_THREAD;
        let tile_products = self.groups * GROUP * TILE;
        // Panels are split only if there are more of them than it takes to keep every thread busy.
        let panels_in_task = if panels >= 2 * tasks { panels.div_ceil(tasks) } else { panels };
        let rows_in_task = rows.min(panels_in_task * PANEL);
        let worthwhile = TASK_PRODUCTS_MIN.div_ceil(tile_products * rows_in_task);
        let fair = tiles.div_ceil(tasks);
        let cached = (TASK_BYTES_MAX / self.tile_bytes).max(1);
        Cut { tiles: fair.max(worthwhile).min(cached), panels: panels_in_task }
    }

    fn tile(&self, index: usize, ahead: Ahead) -> (usize, Weights<'_>) {
        let bytes = &self.tiles[index * self.tile_bytes..(index + 1) * self.tile_bytes];
        (index, Weights { bytes, groups: self.groups, ahead })
    }

    fn multiply_tile(
        &self,
        rows: &Rows,
        place: Place,
        (tile, weights): (usize, Weights<'_>),
        target: &Target,
    ) {
        let mut sums: Sums = [[0.0; TILE]; PANEL];
        let product = self.products[place.count.trailing_zeros() as usize];
        // SAFETY: the products are those of the processor that was detected; the panel has as many blocks as the tile
        // has groups, since the rows' width was checked.
        unsafe { product(weights, rows.panel(place), &mut sums) };
        let lanes = TILE.min(self.outputs - tile * TILE);
        for (row, sums) in sums.iter().enumerate().take(place.count) {
            target.store(place.first + row, tile * TILE, &sums[..lanes]);
        }
    }
}

fn tile_bytes_of<L: Layout>() -> fn(usize) -> usize {
    tile_bytes::<L>
}

fn pack_tile_of<L: Layout>() -> fn(&Source<'_>, usize, usize, &mut [u8]) {
    pack_tile::<L>
}
