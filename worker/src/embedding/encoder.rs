//! The encoder: a flat batch of tokens in, a vector for each token out.
//!
//! The rows of a batch are cut into blocks. In each layer, a block goes from attention through the feed-forward part to the
//! next layer's queries, keys and values on one thread, so that what lies between stays in that thread's cache; the threads
//! meet once a layer, because attention needs all rows of a text.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use kernels::Pool;
use kernels::float::attention::{Scratch as AttentionScratch, Sequence};
use kernels::float::norm::layer_norm;
use kernels::float::{FloatMatrix, Store};

use super::architecture::{Architecture, LayerAttention, NormPlace, Position};
use super::weights::{Norm, Packing, Weights};
use crate::error::LoadError;

/// Rows of a block: with the weights of a panel, they fit the caches of one core.
const BLOCK_ROWS: usize = 48;
/// Rows that products take at a time.
const TILE_ROWS: usize = 12;
/// Blocks for each thread, if there are rows enough.
const BLOCKS_PER_THREAD: usize = 3;

/// One text, or a pair, as the model reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Tokens, special ones included.
    pub ids: Vec<u32>,
    /// Of which part of a pair each is; empty if there is one part only.
    pub types: Vec<u32>,
}

/// An encoder's weights.
#[derive(Debug)]
pub struct Encoder {
    architecture: Architecture,
    words: Vec<f32>,
    positions: Vec<f32>,
    token_types: Vec<f32>,
    norm: Option<Norm>,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
    slopes: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    attention: LayerAttention,
    attention_in: FloatMatrix,
    attention_out: FloatMatrix,
    attention_norm: Option<Norm>,
    feed_forward_in: FloatMatrix,
    feed_forward_out: FloatMatrix,
    feed_forward_norm: Option<Norm>,
}

/// A flat batch: where its texts and its blocks begin and end.
struct Plan<'a> {
    texts: &'a [&'a Tokens],
    /// Each text's rows.
    spans: Vec<Range<usize>>,
    block_rows: usize,
    turns: Vec<Turns>,
}

/// By how much the queries and keys of each position are turned, for one base of angles.
struct Turns {
    base: f32,
    half: usize,
    /// Cosine and sine for each pair of numbers, position by position.
    angles: Vec<(f32, f32)>,
}

/// Memory of one block's work.
#[derive(Debug, Default)]
struct Scratch {
    attention: AttentionScratch,
    gathered: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
    narrow: Vec<f32>,
}

/// Memory that tasks take and give back.
#[derive(Debug, Default)]
struct Scratches(Mutex<Vec<Scratch>>);

impl Scratches {
    fn with(&self, work: impl FnOnce(&mut Scratch)) {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = free().pop();
        let mut scratch = taken.unwrap_or_default();
        work(&mut scratch);
        free().push(scratch);
    }
}

/// A block's part of what all blocks write.
struct Part<'a> {
    /// The tokens' vectors.
    hidden: &'a mut [f32],
    /// Queries, keys and values of the next layer.
    next: &'a mut [f32],
}

impl Encoder {
    /// Reads and packs the weights.
    pub fn read(
        architecture: Architecture,
        weights: &mut Weights,
        packing: Packing<'_>,
    ) -> Result<Self, LoadError> {
        let (family, hidden) = (architecture.family, architecture.hidden);
        let tables = family.tables();
        let words = weights.table(tables.words, architecture.vocabulary, hidden)?;
        let positions = match architecture.position {
            Position::Learned { rows, .. } => weights.table(tables.positions, rows, hidden)?,
            Position::Rotary | Position::Slopes => Vec::new(),
        };
        let token_types = match architecture.token_types {
            0 => Vec::new(),
            rows => weights.table(tables.token_types, rows, hidden)?,
        };
        let norm = weights.optional_norm(tables.norm, hidden)?;
        let final_norm = match architecture.norm {
            NormPlace::After => None,
            NormPlace::Before => Some(weights.norm("final_norm", hidden)?),
        };
        let layers = (0..architecture.layers)
            .map(|layer| Layer::read(&architecture, layer, weights, packing))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            words,
            positions,
            token_types,
            norm,
            layers,
            final_norm,
            slopes: architecture.slopes(),
            architecture,
        })
    }

    /// The shape.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Computes all tokens' vectors, one behind the other in the order of the texts.
    pub fn encode(&self, pool: &Pool, texts: &[&Tokens]) -> Vec<f32> {
        let plan = Plan::new(texts, pool.threads(), &self.architecture);
        let width = self.architecture.hidden;
        let mut hidden = vec![0.0; plan.rows() * width];
        let mut read = vec![0.0; plan.rows() * 3 * width];
        let mut written = vec![0.0; plan.rows() * 3 * width];
        let scratches = Scratches::default();
        self.run_stage(pool, &plan, &mut hidden, &mut read, &scratches, |rows, part, scratch| {
            self.embed(&plan, rows.clone(), part.hidden);
            self.prepare_layer(0, &plan, rows, part, scratch);
        });
        for (index, layer) in self.layers.iter().enumerate() {
            self.run_stage(pool, &plan, &mut hidden, &mut written, &scratches, |rows, part, scratch| {
                self.run_layer(layer, &plan, rows.clone(), &read, part.hidden, scratch);
                self.prepare_layer(index + 1, &plan, rows, part, scratch);
            });
            std::mem::swap(&mut read, &mut written);
        }
        hidden
    }

    /// Runs `work` for each block of rows, with the block's parts of what is written.
    fn run_stage<'a>(
        &self,
        pool: &Pool,
        plan: &Plan<'_>,
        hidden: &'a mut [f32],
        next: &'a mut [f32],
        scratches: &Scratches,
        work: impl Fn(Range<usize>, &mut Part<'a>, &mut Scratch) + Sync,
    ) {
        let size = plan.block_rows * self.architecture.hidden;
        let parts = hidden.chunks_mut(size).zip(next.chunks_mut(3 * size));
        let parts: Vec<Mutex<Part<'a>>> =
            parts.map(|(hidden, next)| Mutex::new(Part { hidden, next })).collect();
        pool.run(parts.len(), |block| {
            let first = block * plan.block_rows;
            let rows = first..plan.rows().min(first + plan.block_rows);
            // Each block is one task's alone, so nobody waits here.
            let mut part = parts[block].lock().unwrap_or_else(PoisonError::into_inner);
            scratches.with(|scratch| work(rows, &mut part, scratch));
        });
    }

    /// Looks the tokens up.
    fn embed(&self, plan: &Plan<'_>, rows: Range<usize>, hidden: &mut [f32]) {
        let width = self.architecture.hidden;
        for (text, span) in plan.texts.iter().zip(&plan.spans) {
            for row in rows.start.max(span.start)..rows.end.min(span.end) {
                let place = row - span.start;
                let out = &mut hidden[(row - rows.start) * width..][..width];
                out.copy_from_slice(table_row(&self.words, text.ids[place] as usize, width));
                if !self.token_types.is_empty() {
                    let kind = text.types.get(place).copied().unwrap_or(0) as usize;
                    add(
                        out,
                        table_row(&self.token_types, kind.min(self.architecture.token_types - 1), width),
                    );
                }
                if let Position::Learned { first, .. } = self.architecture.position {
                    add(out, table_row(&self.positions, first + place, width));
                }
            }
        }
        self.normalize(self.norm.as_ref(), hidden);
    }

    /// Computes the queries, keys and values of a layer; after the last one, what is left to do.
    fn prepare_layer(
        &self,
        index: usize,
        plan: &Plan<'_>,
        rows: Range<usize>,
        part: &mut Part<'_>,
        scratch: &mut Scratch,
    ) {
        let Some(layer) = self.layers.get(index) else {
            return self.normalize(self.final_norm.as_ref(), part.hidden);
        };
        let input = self.block_input(layer.attention_norm.as_ref(), part.hidden, &mut scratch.normed);
        layer.attention_in.multiply(input, part.next, Store::Set);
        let width = self.architecture.hidden;
        if let Some(turns) =
            plan.turns.iter().find(|turns| turns.base.to_bits() == layer.attention.rope_base.to_bits())
        {
            for span in plan.overlapping(&rows) {
                for row in rows.start.max(span.start)..rows.end.min(span.end) {
                    let row_start = (row - rows.start) * 3 * width;
                    turns.turn(row - span.start, &mut part.next[row_start..row_start + 2 * width]);
                }
            }
        }
    }

    /// What goes into a block: normalised if this is the place for it.
    fn block_input<'a>(&self, norm: Option<&Norm>, hidden: &'a [f32], normed: &'a mut Vec<f32>) -> &'a [f32] {
        if self.architecture.norm == NormPlace::After || norm.is_none() {
            return hidden;
        }
        normed.clear();
        normed.extend_from_slice(hidden);
        self.normalize(norm, normed);
        normed
    }

    fn run_layer(
        &self,
        layer: &Layer,
        plan: &Plan<'_>,
        rows: Range<usize>,
        read: &[f32],
        hidden: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Scratch { attention, gathered, normed, wide, narrow } = scratch;
        gathered.resize(hidden.len(), 0.0);
        self.attend(layer, plan, rows, read, gathered, attention);
        layer.attention_out.multiply(gathered, hidden, Store::Add);
        if self.architecture.norm == NormPlace::After {
            self.normalize(layer.attention_norm.as_ref(), hidden);
        }
        let input = self.block_input(layer.feed_forward_norm.as_ref(), hidden, normed);
        let activated = self.feed_forward(layer, input, wide, narrow);
        layer.feed_forward_out.multiply(activated, hidden, Store::Add);
        if self.architecture.norm == NormPlace::After {
            self.normalize(layer.feed_forward_norm.as_ref(), hidden);
        }
    }

    fn feed_forward<'a>(
        &self,
        layer: &Layer,
        input: &[f32],
        wide: &'a mut Vec<f32>,
        narrow: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let count = input.len() / self.architecture.hidden;
        wide.resize(count * layer.feed_forward_in.outputs(), 0.0);
        layer.feed_forward_in.multiply(input, wide, Store::Set);
        let activation = self.architecture.activation;
        if !self.architecture.gated {
            activation.apply(wide);
            return wide;
        }
        narrow.resize(count * self.architecture.feed_forward, 0.0);
        activation.apply_gated(wide, self.architecture.feed_forward, narrow);
        narrow
    }

    fn attend(
        &self,
        layer: &Layer,
        plan: &Plan<'_>,
        rows: Range<usize>,
        read: &[f32],
        gathered: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let width = self.architecture.hidden;
        for span in plan.overlapping(&rows) {
            let sequence = Sequence {
                rows: &read[span.start * 3 * width..span.end * 3 * width],
                heads: self.architecture.heads,
                head_width: self.architecture.head_width(),
                window: layer.attention.window,
                slopes: &self.slopes,
            };
            let (first, last) = (rows.start.max(span.start), rows.end.min(span.end));
            let out = &mut gathered[(first - rows.start) * width..(last - rows.start) * width];
            sequence.attend(first - span.start, out, scratch);
        }
    }

    fn normalize(&self, norm: Option<&Norm>, rows: &mut [f32]) {
        if let Some(Norm { weight, bias }) = norm {
            layer_norm(rows, weight, bias.as_deref(), self.architecture.epsilon);
        }
    }
}

impl Layer {
    fn read(
        architecture: &Architecture,
        index: usize,
        weights: &mut Weights,
        packing: Packing<'_>,
    ) -> Result<Self, LoadError> {
        let Architecture { hidden, feed_forward, gated, .. } = *architecture;
        let names = architecture.family.layer(index, gated);
        let wide = if gated { 2 * feed_forward } else { feed_forward };
        let attention_norm = match architecture.norm {
            // The first layer's input is normalised already.
            NormPlace::Before if index == 0 => weights.optional_norm(&names.attention_norm, hidden)?,
            NormPlace::Before | NormPlace::After => Some(weights.norm(&names.attention_norm, hidden)?),
        };
        Ok(Self {
            attention: architecture.attention[index],
            attention_in: weights.matrix(packing, &names.attention_in, hidden, 3 * hidden)?,
            attention_out: weights.matrix(packing, &[names.attention_out], hidden, hidden)?,
            attention_norm,
            feed_forward_in: weights.matrix(packing, &names.feed_forward_in, hidden, wide)?,
            feed_forward_out: weights.matrix(packing, &[names.feed_forward_out], feed_forward, hidden)?,
            feed_forward_norm: Some(weights.norm(&names.feed_forward_norm, hidden)?),
        })
    }
}

impl<'a> Plan<'a> {
    fn new(texts: &'a [&'a Tokens], threads: usize, architecture: &Architecture) -> Self {
        let mut rows = 0;
        let spans = texts.iter().map(|text| {
            let first = rows;
            rows += text.ids.len();
            first..rows
        });
        let spans = spans.collect();
        let fair = rows.div_ceil(threads).max(1);
        let block_rows = if fair <= TILE_ROWS {
            fair
        } else {
            rows.div_ceil(threads * BLOCKS_PER_THREAD).next_multiple_of(TILE_ROWS).min(BLOCK_ROWS)
        };
        let mut turns: Vec<Turns> = Vec::new();
        if architecture.position == Position::Rotary {
            let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
            for LayerAttention { rope_base, .. } in &architecture.attention {
                if !turns.iter().any(|known| known.base.to_bits() == rope_base.to_bits()) {
                    turns.push(Turns::new(*rope_base, architecture.head_width(), longest));
                }
            }
        }
        Self { texts, spans, block_rows, turns }
    }

    fn rows(&self) -> usize {
        self.spans.last().map_or(0, |span| span.end)
    }

    /// The texts that have any of these rows.
    fn overlapping(&self, rows: &Range<usize>) -> &[Range<usize>] {
        let first = self.spans.partition_point(|span| span.end <= rows.start);
        let last = self.spans.partition_point(|span| span.start < rows.end);
        &self.spans[first..last.max(first)]
    }
}

impl Turns {
    fn new(base: f32, head_width: usize, positions: usize) -> Self {
        let half = head_width / 2;
        let frequency = |pair: usize| base.powf(-2.0 * pair as f32 / head_width as f32);
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let angle = |position: usize, frequency: f32| (position as f32 * frequency).sin_cos();
        let angles = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |frequency| angle(position, *frequency)))
            .map(|(sine, cosine)| (cosine, sine));
        Self { base, half, angles: angles.collect() }
    }

    /// Turns the heads of a row of queries and keys: number i together with the one half a head further on.
    fn turn(&self, position: usize, heads: &mut [f32]) {
        let angles = &self.angles[position * self.half..][..self.half];
        for head in heads.chunks_exact_mut(2 * self.half) {
            let (low, high) = head.split_at_mut(self.half);
            for ((low, high), (cosine, sine)) in low.iter_mut().zip(high).zip(angles) {
                (*low, *high) = (*low * cosine - *high * sine, *high * cosine + *low * sine);
            }
        }
    }
}

fn table_row(table: &[f32], row: usize, width: usize) -> &[f32] {
    &table[row * width..][..width]
}

fn add(to: &mut [f32], numbers: &[f32]) {
    to.iter_mut().zip(numbers).for_each(|(to, number)| *to += number);
}
