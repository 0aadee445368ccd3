//! Rows of activations, as numbers and quantised.

use crate::pool::Pool;

/// Rows of activations that go into products. Reused from step to step, so that nothing is allocated once it is warm.
#[derive(Debug, Default)]
pub struct Rows {
    count: usize,
    width: usize,
    numbers: Vec<f32>,
}

impl Rows {
    /// No rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all rows by `count` rows of `width` numbers, which `produce` writes row by row, on all threads.
    pub fn fill(
        &mut self,
        pool: &Pool,
        count: usize,
        width: usize,
        produce: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        self.count = count;
        self.width = width;
        self.numbers.resize(count * width, 0.0);
        let numbers = Shared(self.numbers.as_mut_ptr());
        pool.run(count, |row| {
            // SAFETY: the row lies within the numbers, and no other task has the same one.
            let numbers = unsafe { std::slice::from_raw_parts_mut(numbers.get().add(row * width), width) };
            produce(row, numbers);
        });
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The numbers of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.numbers[row * self.width..(row + 1) * self.width]
    }
}

/// A pointer of which each task uses a part of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub *mut T);

// SAFETY: whoever shares it sees to it that no two threads use the same part.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn get(self) -> *mut T {
        self.0
    }
}
