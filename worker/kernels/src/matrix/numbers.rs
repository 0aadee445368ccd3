//! Weights that are plain numbers: products of [`crate::float`], shared out over the threads.

use super::{PackError, Source, Target};
use crate::float::{FloatMatrix, Operands, PANEL, Store};
use crate::pool::Pool;
use crate::processor::Processor;
use crate::rows::Rows;

/// Rows of one task: with their weights, they stay in the nearest caches.
const TASK_ROWS: usize = 48;
/// Tasks for each thread, so that one which comes late finds less to do.
const TASKS_PER_THREAD: usize = 4;

/// Weights, packed as they are stored.
#[derive(Debug)]
pub(super) struct Numbers(FloatMatrix);

/// How a product is cut into tasks: some rows by so many panels each, `groups` of panels for the same rows.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    panels: usize,
    groups: usize,
    pub tasks: usize,
}

impl Numbers {
    pub fn new(
        pool: &Pool,
        processor: Processor,
        inputs: usize,
        source: Source<'_>,
    ) -> Result<Self, PackError> {
        FloatMatrix::pack_for(processor, pool, inputs, &[source], None, Operands::F32).map(Self)
    }

    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// How the product with so many rows is shared out.
    pub fn cut(&self, threads: usize, rows: usize) -> Cut {
        let panels = self.0.outputs().div_ceil(PANEL);
        let parts = rows.div_ceil(TASK_ROWS);
        let panels_in_task = (panels * parts).div_ceil(threads * TASKS_PER_THREAD).clamp(1, panels.max(1));
        let groups = panels.div_ceil(panels_in_task);
        Cut { panels: panels_in_task, groups, tasks: groups * parts }
    }

    /// Puts a task's share of the products where `target` says.
    pub fn multiply(&self, cut: &Cut, task: usize, rows: &Rows, target: &Target) {
        let first = task / cut.groups * TASK_ROWS;
        let count = TASK_ROWS.min(rows.count() - first);
        let start = task % cut.groups * cut.panels;
        let end = self.0.outputs().div_ceil(PANEL).min(start + cut.panels);
        let store = if target.adds { Store::Add } else { Store::Set };
        self.0.with_operand(rows.rows(first, count), |operand| {
            // SAFETY: rows and outputs are those that `Matrix::product` has checked the size for, and each task has
            // others.
            unsafe {
                let out = target.out.get().add(first * target.stride + target.first_output);
                self.0.product(operand, start..end, out, target.stride, store);
            }
        });
    }
}
