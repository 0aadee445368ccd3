//! The decoder on tiny models of all families: both homes against each other, and each row against the same row
//! elsewhere.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use protocol::worker::Backend;
use worker::config::{KvConfig, KvFormat};
use worker::engine::{BlockId, Logits, Model, Span, StepError};
use worker::file::ModelFile;
use worker::text::architecture::Architecture;
use worker::text::compute::tensors::{Card, Tensors};
use worker::text::decoder::{DecoderLoader, EMBEDDINGS, load_ropes};
use worker::text::model::{LoadOrder, TextWeights, load};

use crate::tiny_model::{FAMILIES, tiny_model, tiny_model_in};

const CONTEXT: usize = 200;
const PROMPT: usize = 150;

const KV: KvConfig = KvConfig { format: KvFormat::F16, budget_bytes: 64 << 20 };

fn on_processor(path: &Path, format: KvFormat, threads: usize) -> TextWeights {
    let kv = KvConfig { format, ..KV };
    let order = LoadOrder { path, backend: Backend::Cpu, gpu: 0, context_limit: Some(CONTEXT), kv, threads };
    load(&order, &mut |_| {}).unwrap().weights
}

/// The home that serves graphics cards, computing on the processor.
fn by_tensors(path: &Path, vocabulary: usize) -> impl Model {
    let file = Arc::new(ModelFile::open(path).unwrap());
    let architecture = Architecture::read(file.metadata()).unwrap();
    let ropes = load_ropes(&file, &architecture, CONTEXT).unwrap();
    let embeddings = file.tensor(EMBEDDINGS, &[vocabulary, architecture.hidden]).unwrap();
    let card = Card { backend: Backend::Cpu, gpu: 0 };
    let tensors = Tensors::new(architecture.clone(), (Device::Cpu, card), &embeddings, KV, ropes).unwrap();
    DecoderLoader::new(&file, &architecture, &mut |_| {}).load(tensors, vocabulary).unwrap()
}

fn prompt(seed: u32, tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|index| (index * 37 + seed * 11 + index * index) % 250).collect()
}

fn step(model: &mut impl Model, spans: &[Span<'_>]) -> Vec<f32> {
    let mut logits = vec![f32::NAN; 3];
    model.step(spans, &mut logits).unwrap();
    let rows: usize = spans.iter().map(|span| span.logits.rows(span.tokens.len())).sum();
    assert_eq!(logits.len(), rows * model.vocabulary_size());
    logits
}

/// The logits of all tokens, computed in chunks of this length.
fn all_logits(model: &mut impl Model, tokens: &[u32], first_block: usize, chunk: usize) -> Vec<f32> {
    let blocks = BlockId::run(first_block, tokens.len());
    let mut logits = Vec::new();
    for (index, chunk_tokens) in tokens.chunks(chunk).enumerate() {
        let position = index * chunk;
        logits.extend(step(
            model,
            &[Span { tokens: chunk_tokens, position, blocks: &blocks, logits: Logits::All }],
        ));
    }
    logits
}

fn furthest(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

fn spread(logits: &[f32]) -> f32 {
    logits.iter().fold(0f32, |highest, logit| highest.max(logit.abs()))
}

#[test]
fn both_homes_compute_the_same_for_every_family() {
    for family in FAMILIES {
        let model = tiny_model_in(family, GgmlDType::F32);
        let mut processor = on_processor(&model.path, KvFormat::F16, 2);
        let mut tensors = by_tensors(&model.path, processor.vocabulary_size());
        let tokens = prompt(1, PROMPT);
        let ours = all_logits(&mut processor, &tokens, 0, 64);
        let theirs = all_logits(&mut tensors, &tokens, 0, 64);
        let apart = furthest(&ours, &theirs);
        assert!(apart < 2e-3 * spread(&theirs), "{family}: {apart} of {}", spread(&theirs));
        assert!(spread(&ours) > 0.01, "{family}: logits that say something");
    }
}

#[test]
fn where_a_prompt_is_cut_changes_no_bit() {
    for family in FAMILIES {
        let model = tiny_model(family);
        for format in [KvFormat::F16, KvFormat::Q8] {
            let mut processor = on_processor(&model.path, format, 2);
            let tokens = prompt(2, PROMPT);
            let whole = all_logits(&mut processor, &tokens, 0, PROMPT);
            for chunk in [1, 13, 32, 100] {
                let cut = all_logits(&mut processor, &tokens, 7, chunk);
                assert!(whole == cut, "{family} {format}: chunks of {chunk} tokens change the logits");
            }
        }
    }
}

#[test]
fn neither_company_nor_threads_change_a_bit() {
    for family in FAMILIES {
        let model = tiny_model(family);
        let mut lonely = on_processor(&model.path, KvFormat::F16, 1);
        let prompts: Vec<Vec<u32>> = (0..5).map(|seed| prompt(seed, 60)).collect();
        let alone: Vec<Vec<f32>> =
            prompts.iter().map(|prompt| all_logits(&mut lonely, prompt, 0, 60)).collect();
        for threads in [1, 3] {
            let mut busy = on_processor(&model.path, KvFormat::F16, threads);
            let mut together = vec![Vec::new(); prompts.len()];
            let mut fed = vec![0; prompts.len()];
            while fed.iter().any(|fed| *fed < 60) {
                let members: Vec<usize> = (0..prompts.len()).filter(|index| fed[*index] < 60).collect();
                let blocks: Vec<Vec<BlockId>> =
                    members.iter().map(|index| BlockId::run(index * 2, 60)).collect();
                let spans: Vec<Span<'_>> = members
                    .iter()
                    .zip(&blocks)
                    .map(|(index, blocks)| {
                        // Some read a chunk, others a token.
                        let count = [1, 17, 1, 40, 5][*index].min(60 - fed[*index]);
                        let tokens = &prompts[*index][fed[*index]..fed[*index] + count];
                        Span { tokens, position: fed[*index], blocks, logits: Logits::All }
                    })
                    .collect();
                let logits = step(&mut busy, &spans);
                let mut rest = &logits[..];
                for (index, span) in members.iter().zip(&spans) {
                    let (own, others) = rest.split_at(span.tokens.len() * busy.vocabulary_size());
                    together[*index].extend_from_slice(own);
                    fed[*index] += span.tokens.len();
                    rest = others;
                }
            }
            assert!(together == alone, "{family}, {threads} threads: company changes the logits");
        }
    }
}

#[test]
fn a_copied_block_goes_on_like_the_first() {
    let model = tiny_model("llama");
    let mut processor = on_processor(&model.path, KvFormat::F16, 2);
    let tokens = prompt(3, 50);
    let blocks = [BlockId(4), BlockId(1)];
    let span = |tokens, position, blocks| Span { tokens, position, blocks, logits: Logits::Last };
    step(&mut processor, &[span(&tokens[..40], 0, &blocks)]);
    processor.copy_block(BlockId(1), BlockId(9), 8).unwrap();
    let first = step(&mut processor, &[span(&tokens[40..], 40, &blocks)]);
    let second = step(&mut processor, &[span(&tokens[40..], 40, &[BlockId(4), BlockId(9)])]);
    assert!(first == second);
}

#[test]
fn eight_bits_of_keys_and_values_say_nearly_the_same() {
    let model = tiny_model_in("qwen3", GgmlDType::F32);
    let tokens = prompt(4, PROMPT);
    let exact = all_logits(&mut on_processor(&model.path, KvFormat::F16, 2), &tokens, 0, PROMPT);
    let rounded = all_logits(&mut on_processor(&model.path, KvFormat::Q8, 2), &tokens, 0, PROMPT);
    let apart = furthest(&exact, &rounded);
    assert!(apart > 0.0 && apart < 0.05 * spread(&exact), "{apart} of {}", spread(&exact));
}

#[test]
fn what_cannot_be_computed_is_refused() {
    let model = tiny_model("qwen2");
    let mut processor = on_processor(&model.path, KvFormat::F16, 1);
    let blocks = BlockId::run(0, 40);
    let far = [BlockId(u32::MAX)];
    let bad = [
        (&[][..], 0, &blocks[..], "without a new one"),
        (&[1, 9999], 0, &blocks, "token 9999 is none of"),
        (&[1; 41], 32, &blocks, "2 blocks do not hold 73 tokens"),
        (&[1], 0, &far, "is none of the"),
    ];
    for (tokens, position, blocks, message) in bad {
        let span = Span { tokens, position, blocks, logits: Logits::Last };
        match processor.step(&[span], &mut Vec::new()) {
            Err(StepError::Batch(text)) => assert!(text.contains(message), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    // A refused step harms nothing.
    all_logits(&mut processor, &prompt(5, 40), 0, 40);
}
