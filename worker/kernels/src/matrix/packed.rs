//! Weights of one quantised format, packed, and how their product is split over threads.

use std::mem::MaybeUninit;

use super::layout::{Layout, TILE, pack_tile, tile_bytes, with_layout};
use super::tile::{Products, Sums, Weights, products};
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

/// How a product is cut into tasks: so many tiles by so many panels each, `run` tasks in a row for each thread.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    threads: usize,
    run: usize,
    tiles: usize,
    panels: usize,
    pub tasks: usize,
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

    /// How the product with so many rows is shared out.
    pub fn cut(&self, threads: usize, rows: usize) -> Cut {
        let tiles = self.outputs.div_ceil(TILE);
        let panels: usize = rows / PANEL + (rows % PANEL).count_ones() as usize;
        let (task_tiles, task_panels) = self.task_size(threads, rows, panels, tiles);
        // Threads take turns, so each one's tasks lie behind each other, where the processor fetches ahead.
        let run = tiles.div_ceil(task_tiles * threads);
        let columns = run * threads;
        let tasks = columns * panels.div_ceil(task_panels);
        Cut { threads, run, tiles: task_tiles, panels: task_panels, tasks }
    }

    /// Puts a task's share of the products where `target` says.
    pub fn multiply(&self, cut: &Cut, task: usize, rows: &Rows, target: &Target) {
        let columns = cut.run * cut.threads;
        let column = task % columns;
        let first_tile = (column % cut.threads * cut.run + column / cut.threads) * cut.tiles;
        let end_tile = self.outputs.div_ceil(TILE).min(first_tile + cut.tiles);
        let first_panel = task / columns * cut.panels;
        for place in Place::all(rows.count()).skip(first_panel).take(cut.panels) {
            for tile in first_tile..end_tile {
                self.multiply_tile(rows, place, tile, target);
            }
        }
    }

    /// Tiles and panels of a task.
    fn task_size(&self, threads: usize, rows: usize, panels: usize, tiles: usize) -> (usize, usize) {
        if threads == 1 {
            return ((TASK_BYTES_MAX / self.tile_bytes).max(1), panels.max(1));
        }
        let tasks = threads * TASKS_PER_THREAD;
        let tile_products = self.groups * GROUP * TILE;
        // Panels are split only if there are more of them than it takes to keep every thread busy.
        let panels_in_task = if panels >= 2 * tasks { panels.div_ceil(tasks) } else { panels.max(1) };
        let rows_in_task = rows.min(panels_in_task * PANEL).max(1);
        let worthwhile = TASK_PRODUCTS_MIN.div_ceil(tile_products * rows_in_task);
        let fair = tiles.div_ceil(tasks);
        let cached = (TASK_BYTES_MAX / self.tile_bytes).max(1);
        (fair.max(worthwhile).min(cached), panels_in_task)
    }

    fn multiply_tile(&self, rows: &Rows, place: Place, tile: usize, target: &Target) {
        let bytes = &self.tiles[tile * self.tile_bytes..(tile + 1) * self.tile_bytes];
        let weights = Weights { bytes, groups: self.groups };
        let mut sums = MaybeUninit::<Sums>::uninit();
        let product = self.products[place.count.trailing_zeros() as usize];
        let start = sums.as_mut_ptr().cast::<[f32; TILE]>();
        // SAFETY: the products are those of the processor that was detected; the panel has as many blocks as the tile
        // has groups, since the rows' width was checked; it has as many rows as are written then.
        let sums = unsafe {
            product(weights, rows.panel(place), start);
            std::slice::from_raw_parts(start, place.count)
        };
        let count = TILE.min(self.outputs - tile * TILE);
        for (row, sums) in sums.iter().enumerate() {
            target.store(place.first + row, tile * TILE, sums, count);
        }
    }
}

fn tile_bytes_of<L: Layout>() -> fn(usize) -> usize {
    tile_bytes::<L>
}

fn pack_tile_of<L: Layout>() -> fn(&Source<'_>, usize, usize, &mut [u8]) {
    pack_tile::<L>
}
