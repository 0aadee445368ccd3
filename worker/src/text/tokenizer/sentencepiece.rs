//! SentencePiece's encoding as llama.cpp does it: neighbours merge, the best-scored pair first, until none is a token;
//! what is no token in the end is spelt in bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use crate::text::vocabulary::Vocabulary;

/// A stretch of the text in a list of neighbours; empty once it went into the one before.
struct Symbol {
    start: usize,
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that make a token together.
struct Pair {
    left: usize,
    right: usize,
    score: f32,
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

struct Merger<'a> {
    vocabulary: &'a Vocabulary,
    text: &'a str,
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
    /// For each text that a pair could make: the two texts it was made of.
    origins: HashMap<&'a str, (&'a str, &'a str)>,
}

/// Appends the tokens of a text whose spaces are already ▁.
pub(super) fn encode(vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) {
    let count = text.chars().count();
    let symbols = text
        .char_indices()
        .enumerate()
        .map(|(index, (start, sign))| Symbol {
            start,
            len: sign.len_utf8(),
            previous: index.checked_sub(1),
            next: Some(index + 1).filter(|next| *next < count),
        })
        .collect();
    let mut merger = Merger { vocabulary, text, symbols, pairs: BinaryHeap::new(), origins: HashMap::new() };
    for right in 1..count {
        merger.propose(right - 1, right);
    }
    while let Some(pair) = merger.pairs.pop() {
        merger.merge(&pair);
    }
    let mut index = (count > 0).then_some(0);
    while let Some(at) = index {
        let symbol = &merger.symbols[at];
        index = symbol.next;
        merger.emit(&text[symbol.start..symbol.start + symbol.len], ids);
    }
}

impl<'a> Merger<'a> {
    fn text_of(&self, index: usize) -> &'a str {
        let symbol = &self.symbols[index];
        &self.text[symbol.start..symbol.start + symbol.len]
    }

    fn propose(&mut self, left: usize, right: usize) {
        let start = self.symbols[left].start;
        let len = self.symbols[left].len + self.symbols[right].len;
        let together = &self.text[start..start + len];
        if let Some(id) = self.vocabulary.id(together) {
            self.pairs.push(Pair { left, right, score: self.vocabulary.score(id), len });
            self.origins.insert(together, (self.text_of(left), self.text_of(right)));
        }
    }

    fn merge(&mut self, pair: &Pair) {
        let (left_len, right_len) = (self.symbols[pair.left].len, self.symbols[pair.right].len);
        // One of the two has merged with another neighbour since the pair was proposed.
        if left_len == 0 || right_len == 0 || left_len + right_len != pair.len {
            return;
        }
        let after = self.symbols[pair.right].next;
        self.symbols[pair.right].len = 0;
        self.symbols[pair.left].len = pair.len;
        self.symbols[pair.left].next = after;
        if let Some(after) = after {
            self.symbols[after].previous = Some(pair.left);
        }
        if let Some(before) = self.symbols[pair.left].previous {
            self.propose(before, pair.left);
        }
        if let Some(after) = after {
            self.propose(pair.left, after);
        }
    }

    fn emit(&self, text: &'a str, ids: &mut Vec<u32>) {
        if let Some(id) = self.vocabulary.id(text) {
            ids.push(id);
        } else if let Some((left, right)) = self.origins.get(text) {
            self.emit(left, ids);
            self.emit(right, ids);
        } else {
            for byte in text.bytes() {
                let id = self.vocabulary.id(&format!("<0x{byte:02X}>")).or(self.vocabulary.unknown());
                ids.extend(id);
            }
        }
    }
}
