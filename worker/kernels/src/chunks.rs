//! Numbers that are changed in place, chunk by chunk, on all threads.

use crate::pool::Pool;
use crate::rows::Shared;

/// Chunks in a task at most.
const TASK_CHUNKS_MAX: usize = 32;
/// Tasks for each thread, where there is so much to do.
const TASKS_PER_THREAD: usize = 4;

impl Pool {
    /// Calls `work` with the number of each chunk of so many numbers and with the chunk. The last one may be shorter.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn for_each_chunk(&self, numbers: &mut [f32], len: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        let total = numbers.len();
        let chunks = total.div_ceil(len);
        let task_chunks = (chunks / (TASKS_PER_THREAD * self.threads())).clamp(1, TASK_CHUNKS_MAX);
        let start = Shared(numbers.as_mut_ptr());
        self.run(chunks.div_ceil(task_chunks), |task| {
            for chunk in task * task_chunks..chunks.min((task + 1) * task_chunks) {
                let first = chunk * len;
                // SAFETY: the chunk lies within the numbers, and no other task has it.
                let numbers =
                    unsafe { std::slice::from_raw_parts_mut(start.get().add(first), len.min(total - first)) };
                work(chunk, numbers);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_visited_once_with_its_number() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            for (len, total) in [(10, 1003), (1, 5), (7, 7), (8, 3), (4, 0)] {
                let mut numbers = vec![0.0; total];
                pool.for_each_chunk(&mut numbers, len, |chunk, numbers| {
                    for number in numbers {
                        *number += chunk as f32 + 1.0;
                    }
                });
                assert!(numbers.iter().enumerate().all(|(at, number)| *number == (at / len) as f32 + 1.0));
            }
        }
    }
}
