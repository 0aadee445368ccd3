//! How well the real models foresee a text, beside how well they do in llama.cpp: a mistake too small to change an answer
//! shows here. oracle/perplexity.py tells the method.

use serde::Deserialize;
use worker::engine::{BlockId, Logits, Model, Span, blocks_for};
use worker::text::model::TextWeights;
use worker::text::tokenizer::Ends;

use crate::oracle::{model_path, open, recorded};

/// As far as this from llama.cpp's; its own moves by 0.015 % when only its way of computing attention changes.
const TOLERANCE: f64 = 0.005;
/// As in the recording.
const SCORED_FROM: usize = 256;

#[derive(Deserialize)]
struct Case {
    model: String,
    flash_attention: bool,
    tokens: usize,
    perplexity: f64,
}

#[test]
fn smollm2_foresees_a_text_as_well_as_in_llama_cpp() {
    let apart = apart_from_llama_cpp("smollm2-135m-instruct.gguf");
    println!("{apart:+.5}");
    assert!(apart.abs() <= TOLERANCE, "{apart:+.5} of llama.cpp's perplexity");
}

#[test]
fn gemma3_foresees_a_text_as_well_as_in_llama_cpp() {
    let apart = apart_from_llama_cpp("gemma-3-270m.gguf");
    println!("{apart:+.5}");
    assert!(apart.abs() <= TOLERANCE, "{apart:+.5} of llama.cpp's perplexity");
}

/// Our perplexity's distance from llama.cpp's, as a share of it.
fn apart_from_llama_cpp(name: &str) -> f64 {
    let cases: Vec<Case> = recorded("perplexity.json");
    let theirs = cases.iter().find(|case| case.model == name && !case.flash_attention).unwrap();
    assert!(theirs.tokens >= 4096, "{} tokens", theirs.tokens);
    let mut model = open(&model_path(name), 8192);
    let text = include_str!("../oracle/perplexity.txt");
    let tokens = model.language.tokenizer.encode_prompt(text, Ends::Added).unwrap();
    assert_eq!(tokens.len(), theirs.tokens);
    mean_surprise(&mut model.weights, &tokens).exp() / theirs.perplexity - 1.0
}

/// The mean of the negative logarithms of the probabilities that tokens have after those before them.
fn mean_surprise(weights: &mut TextWeights, tokens: &[u32]) -> f64 {
    let (vocabulary, chunk) = (weights.vocabulary_size(), weights.prefill_tokens());
    let blocks = BlockId::run(0, tokens.len());
    let mut logits = Vec::new();
    let mut total = 0.0;
    let mut position = 0;
    for fed in tokens.chunks(chunk) {
        let until = position + fed.len();
        let blocks = &blocks[..blocks_for(until)];
        weights.step(&[Span { tokens: fed, position, blocks, logits: Logits::All }], &mut logits).unwrap();
        // A row foresees the token after its own.
        let foreseen = logits.chunks_exact(vocabulary).zip(&tokens[position + 1..]).enumerate();
        let scored = foreseen.filter(|(index, _)| position + index + 1 >= SCORED_FROM);
        total += scored.map(|(_, (row, token))| surprise(row, *token)).sum::<f64>();
        position = until;
    }
    total / (tokens.len() - SCORED_FROM) as f64
}

fn surprise(logits: &[f32], token: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Sums of a thousand are short enough for f32; sums of those are not.
    let sum: f64 = logits
        .chunks(1024)
        .map(|part| f64::from(part.iter().map(|logit| (logit - highest).exp()).sum::<f32>()))
        .sum();
    f64::from(highest) + sum.ln() - f64::from(logits[token as usize])
}
