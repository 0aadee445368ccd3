use super::*;
use crate::kv::{HeadRows, KvFormat, KvLayout, KvSpan};

/// A sequence of random queries, keys and values, one row a token.
struct Sequence {
    rows: Vec<f32>,
    width: usize,
    layout: KvLayout,
    attention: Attention,
}

const LAYER: usize = 1;

impl Sequence {
    fn new(seed: u64, tokens: usize, layout: KvLayout, attention: Attention) -> Self {
        let width = (attention.heads + 2 * layout.kv_heads) * layout.head_dim;
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let rows = (0..tokens * width).map(|_| next()).collect();
        Self { rows, width, layout, attention }
    }

    fn tokens(&self) -> usize {
        self.rows.len() / self.width
    }

    fn part(&self, row: usize, at: usize) -> &[f32] {
        &self.rows[row * self.width + at * self.layout.head_dim..][..self.layout.head_dim]
    }

    /// What attention is, written plainly.
    fn expected(&self) -> Vec<f32> {
        let Attention { heads, soft_cap, .. } = self.attention;
        let kv_heads = self.layout.kv_heads;
        let mut out = Vec::new();
        for row in 0..self.tokens() {
            for head in 0..heads {
                let key_head = head / (heads / kv_heads);
                let seen = self.attention.first_seen(row)..=row;
                let weights: Vec<f64> = seen
                    .clone()
                    .map(|token| {
                        let pairs = self.part(row, head).iter().zip(self.part(token, heads + key_head));
                        let score: f64 = pairs.map(|(query, key)| f64::from(query * key)).sum();
                        soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()).exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                for element in 0..self.layout.head_dim {
                    let values = seen.clone().zip(&weights).map(|(token, weight)| {
                        weight * f64::from(self.part(token, heads + kv_heads + key_head)[element])
                    });
                    out.push((values.sum::<f64>() / sum) as f32);
                }
            }
        }
        out
    }
}

/// Runs sequences in steps; each step takes so many tokens of each of them.
fn attend(sequences: &[&Sequence], steps: &[Vec<usize>], threads: usize) -> Vec<Vec<f32>> {
    let (layout, attention) = (sequences[0].layout, sequences[0].attention);
    let pool = Pool::new(threads);
    let mut kv = KvStore::new(layout, 1000);
    let (mut places, mut plan, mut rows) = (Places::default(), AttentionPlan::default(), Rows::new());
    let mut done = vec![0; sequences.len()];
    let mut results = vec![Vec::new(); sequences.len()];
    let width = sequences[0].width;
    for step in steps {
        let spans: Vec<KvSpan> =
            (0..step.len()).map(|index| KvSpan { position: done[index], tokens: step[index] }).collect();
        // Blocks of different sequences lie in between each other, and not in order.
        let blocks = |index: usize| (0..30).map(move |block| (index + 7 * block) as u32);
        kv.place(&mut places, spans.iter().copied(), blocks).unwrap();
        let mut numbers = Vec::new();
        for (index, span) in spans.iter().enumerate() {
            let from = span.position * width;
            numbers.extend_from_slice(&sequences[index].rows[from..from + span.tokens * width]);
        }
        let keys_at = attention.heads * layout.head_dim;
        let values_at = keys_at + layout.kv_heads * layout.head_dim;
        let head_rows = HeadRows { numbers: &mut numbers, width, keys_at, values_at };
        kv.write(&pool, &places, LAYER, head_rows, |_, _| ());
        plan.lay(attention, &kv, &places, threads);
        plan.attend(&pool, &kv, &places, LAYER, Queries { numbers: &numbers, width }, &mut rows);
        let mut row = 0;
        for (index, count) in step.iter().enumerate() {
            for _ in 0..*count {
                results[index].extend_from_slice(rows.row(row));
                row += 1;
            }
            done[index] += count;
        }
    }
    results
}

fn layouts() -> Vec<(KvLayout, Attention)> {
    let kinds = [
        (9, 3, 64, None, None),
        (4, 1, 96, Some(50), None),
        (4, 4, 20, None, Some(2.0)),
        (40, 1, 8, Some(150), Some(5.0)),
    ];
    let formats = [KvFormat::F16, KvFormat::Q8];
    let kinds = kinds.into_iter().flat_map(|kind| formats.map(|format| (kind, format)));
    kinds
        .map(|((heads, kv_heads, head_dim, window, soft_cap), format)| {
            (KvLayout { layers: 2, kv_heads, head_dim, format }, Attention { heads, soft_cap, window })
        })
        .collect()
}

#[test]
fn attention_is_what_its_name_says() {
    for (layout, attention) in layouts() {
        let sequence = Sequence::new(1, 300, layout, attention);
        let result = &attend(&[&sequence], &[vec![300]], 2)[0];
        let bound = if layout.format == KvFormat::F16 { 2e-3 } else { 3e-2 };
        for (index, (result, expected)) in result.iter().zip(sequence.expected()).enumerate() {
            assert!(
                (result - expected).abs() < bound,
                "{attention:?} at {index}: {result} is not {expected}"
            );
        }
    }
}

#[test]
fn where_a_prompt_is_cut_changes_no_bit() {
    for (layout, attention) in layouts() {
        let sequence = Sequence::new(2, 290, layout, attention);
        let whole = attend(&[&sequence], &[vec![290]], 2);
        for chunk in [1, 7, 32, 100, 128] {
            let mut steps = vec![vec![chunk]; 290 / chunk];
            steps.extend((290 % chunk > 0).then(|| vec![290 % chunk]));
            assert!(
                attend(&[&sequence], &steps, 2) == whole,
                "{layout:?} {attention:?} in chunks of {chunk}"
            );
        }
    }
}

#[test]
fn neither_company_nor_threads_change_a_bit() {
    for (layout, attention) in layouts() {
        let sequences: Vec<Sequence> =
            (0..3).map(|seed| Sequence::new(seed, 200, layout, attention)).collect();
        let alone: Vec<Vec<f32>> =
            sequences.iter().map(|sequence| attend(&[sequence], &[vec![200]], 1).remove(0)).collect();
        let together: Vec<&Sequence> = sequences.iter().collect();
        let steps = [vec![150, 1, 60], vec![1, 198, 139], vec![49, 1, 1]];
        for threads in [1, 2, 5] {
            assert!(
                attend(&together, &steps, threads) == alone,
                "{layout:?} {attention:?}, {threads} threads"
            );
        }
    }
}
