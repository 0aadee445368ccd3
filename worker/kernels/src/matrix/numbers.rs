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

    /// Puts the products of all rows where `target` says.
    pub fn multiply(&self, pool: &Pool, rows: &Rows, target: &Target) {
        let panels = self.0.outputs().div_ceil(PANEL);
        let parts = rows.count().div_ceil(TASK_ROWS);
        let wanted = pool.threads() * TASKS_PER_THREAD;
        let group = (panels * parts).div_ceil(wanted).clamp(1, panels.max(1));
        let groups = panels.div_ceil(group);
        let store = if target.adds { Store::Add } else { Store::Set };
        pool.run(groups * parts, |task| {
            let first = task / groups * TASK_ROWS;
            let count = TASK_ROWS.min(rows.count() - first);
            let start = task % groups * group;
            self.0.with_operand(rows.rows(first, count), |operand| {
                // SAFETY: rows and outputs are those that `Matrix::product` has checked the size for, and each task has
                // others.
                unsafe {
                    let out = target.out.get().add(first * target.stride + target.first_output);
                    self.0.product(operand, start..panels.min(start + group), out, target.stride, store);
                }
            });
        });
    }
}
