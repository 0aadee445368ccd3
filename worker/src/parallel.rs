//! Work split over the threads that compute.
//!
//! Rayon's pool and not candle's: in candle's, every thread must have its turn before anyone goes on, and where the
//! processors are shared with other processes that costs most of the speed. Here, whoever has a processor takes the work.

use rayon::prelude::*;

/// Runs `work` on a thread of the pool, so that what it splits needs no hand-over at each split.
pub fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Calls `work` with the number and the stretch of each chunk of `results`, on all threads.
pub fn for_each_chunk<T: Send>(results: &mut [T], chunk: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    results.par_chunks_mut(chunk.max(1)).enumerate().for_each(|(number, chunk)| work(number, chunk));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_visited_once_with_its_number() {
        let mut results = vec![0usize; 1003];
        on_pool(|| {
            for_each_chunk(&mut results, 10, |number, chunk| {
                for value in chunk {
                    *value += number + 1;
                }
            });
        });
        assert!(results.iter().enumerate().all(|(index, value)| *value == index / 10 + 1));
    }
}
