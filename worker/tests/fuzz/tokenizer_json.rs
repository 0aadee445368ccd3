//! Tokenizers as tokenizer.json describes them.

use std::time::Duration;

use serde_json::{Value, json};
use worker::text::tokenizer::json::read;

use crate::driver::{Input, Limits, alone, fuzz};
use crate::mutate::Json;

fn bpe() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 6, "content": "<|x|>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|x|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|x|>": {"id": "<|x|>", "ids": [6], "tokens": ["<|x|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "abab": 3, "Ġ": 4, "Ġa": 5}, "merges": [["a", "b"], ["ab", "ab"], ["Ġ", "a"]]}
    })
}

fn word_piece() -> Value {
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 128, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [{"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "##b": 5, "hello": 6}}
    })
}

fn unigram() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": true, "strip_right": true}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [["<unk>", 0.0], ["▁", -1.0], ["a", -2.5], ["ab", -3.0], ["▁ab", -1.5]]}
    })
}

#[test]
fn tokenizer_json() {
    let alone = alone();
    let seeds: Vec<Json> = [bpe(), word_piece(), unigram()].map(|value| Json { value, noise: None }).to_vec();
    let texts =
        ["Hello ab abab 12345 <|x|>  \n é日本", "", &"ab ".repeat(500), &" ".repeat(500)].map(str::to_owned);
    for seed in &seeds {
        read(&seed.bytes()).unwrap();
    }
    let limits = Limits { memory_factor: 300, memory_bytes: 16 << 20, time: Duration::from_millis(300) };
    fuzz(&alone, "tokenizer-json", seeds, &limits, |bytes| {
        let tokenizer = read(bytes).map_err(|error| error.to_string())?;
        for text in &texts {
            tokenizer.encode_fast(text.as_str(), false).map_err(|error| error.to_string())?;
        }
        Ok(())
    });
}
