//! Merging neighbours until no pair makes a token: what BPE and SentencePiece have in common.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Stands for no token, and for no neighbour.
const NONE: u32 = u32::MAX;

/// A stretch of a text between its neighbours; empty once it went into the one before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    start: u32,
    len: u32,
    token: u32,
    previous: u32,
    next: u32,
}

impl Symbol {
    /// Where it lies in the text.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }

    /// The token that it is, if it is one.
    pub(super) fn token(&self) -> Option<u32> {
        (self.token != NONE).then_some(self.token)
    }
}

/// What two neighbours become.
pub(super) struct Join {
    /// The lowest goes first, and between equals the leftmost.
    pub rank: u32,
    /// The token that they make.
    pub token: u32,
}

/// Two neighbours that make a token together, in the order in which they are merged.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    left: u32,
    right: u32,
    len: u32,
    token: u32,
}

/// The symbols of one text. It can be used again, so that a word costs no allocation.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Reverse<Pair>>,
}

impl Merger {
    /// Forgets the text before.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.pairs.clear();
    }

    /// Adds a symbol of `len` bytes behind the others.
    pub(super) fn push(&mut self, len: usize, token: Option<u32>) {
        let index = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |last| last.start + last.len);
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        let previous = index.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol {
            start,
            len: len as u32,
            token: token.unwrap_or(NONE),
            previous,
            next: NONE,
        });
    }

    /// Merges as long as `join` knows what two neighbours make.
    pub(super) fn merge(&mut self, join: impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        for right in 1..self.symbols.len() as u32 {
            self.propose(right - 1, right, &join);
        }
        while let Some(Reverse(pair)) = self.pairs.pop() {
            self.take(&pair, &join);
        }
    }

    /// What is left, from front to back.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.len > 0)
    }

    fn propose(&mut self, left: u32, right: u32, join: impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        let (first, second) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some(Join { rank, token }) = join(first, second) {
            self.pairs.push(Reverse(Pair { rank, left, right, len: first.len + second.len, token }));
        }
    }

    fn take(&mut self, pair: &Pair, join: impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        let (left, right) = (self.symbols[pair.left as usize], self.symbols[pair.right as usize]);
        // One of the two has merged with another neighbour since the pair was proposed.
        if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
            return;
        }
        self.symbols[pair.right as usize].len = 0;
        let merged = &mut self.symbols[pair.left as usize];
        (merged.len, merged.token, merged.next) = (pair.len, pair.token, right.next);
        if right.next != NONE {
            self.symbols[right.next as usize].previous = pair.left;
        }
        if left.previous != NONE {
            self.propose(left.previous, pair.left, &join);
        }
        if right.next != NONE {
            self.propose(pair.left, right.next, &join);
        }
    }
}
