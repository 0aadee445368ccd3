//! Which worker has read what: a prompt that begins like an earlier one is computed faster where that one was.

use std::collections::{HashMap, VecDeque};

use super::roster::SeatId;

/// Beginnings that are remembered; the oldest are forgotten first.
const REMEMBERED: usize = 100_000;

/// The worker that last read a prompt with this beginning.
#[derive(Default)]
pub(super) struct Affinity {
    seats: HashMap<u64, SeatId>,
    /// In the order of their coming. One that comes again keeps its place: a conversation that goes on brings new ones.
    order: VecDeque<u64>,
}

impl Affinity {
    /// Notes that a worker reads a prompt with these beginnings.
    pub(super) fn note(&mut self, beginnings: &[u64], seat: SeatId) {
        for beginning in beginnings {
            if self.seats.insert(*beginning, seat).is_none() {
                self.order.push_back(*beginning);
            }
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.seats.remove(&oldest);
            }
        }
    }

    /// The workers that have read the most of a prompt with these beginnings, the shortest first; best first.
    pub(super) fn readers(&self, beginnings: &[u64]) -> impl Iterator<Item = SeatId> {
        self.readers_by_place(beginnings).map(|(_, seat)| seat)
    }

    /// The same with the place of the longest beginning that each has read.
    pub(super) fn readers_by_place(&self, beginnings: &[u64]) -> impl Iterator<Item = (usize, SeatId)> {
        let places = beginnings.iter().enumerate().rev();
        places.filter_map(|(place, beginning)| Some((place, *self.seats.get(beginning)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_is_found_first() {
        let mut affinity = Affinity::default();
        affinity.note(&[1, 2], 7);
        affinity.note(&[1, 3], 8);
        assert_eq!(affinity.readers(&[1, 2, 9]).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(affinity.readers(&[4]).count(), 0);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut affinity = Affinity::default();
        for beginning in 0..2 * REMEMBERED as u64 {
            affinity.note(&[beginning, 0], 1);
        }
        assert_eq!((affinity.seats.len(), affinity.order.len()), (REMEMBERED, REMEMBERED));
    }
}
