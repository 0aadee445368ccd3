//! Gaps in texts: how a prompt with one is put, what ends its answer, and who cannot fill one.

use serde_json::{Value, json};

use crate::process::Worker;
use crate::tiny_model::{TinyModel, tiny_model, tiny_model_with};

const MARKS: [&str; 4] = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"];
/// The number of the first mark: so many tokens there are besides.
const PREFIX: u32 = 262;

fn filler() -> TinyModel {
    tiny_model_with(&MARKS, &[])
}

fn spellings(worker: &Worker, body: &Value) -> Vec<String> {
    let mut body = body.clone();
    body["return_token_strs"] = json!(true);
    let answer = worker.post("/v1/tokenize", &body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    serde_json::from_value(answer.json()["token_strs"].clone()).unwrap()
}

fn execute(worker: &Worker, body: &Value) -> Value {
    let mut order = json!({"stream": false, "temperature": 0, "max_tokens": 12});
    order.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let answer = worker.post("/v1/execute", &order);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer.json()
}

#[test]
fn a_gap_stands_between_its_marks() {
    let model = filler();
    let worker = Worker::ready(&model.path, &[]);
    let [prefix, suffix, middle, _] = MARKS;
    for (body, expected) in [
        (json!({"prompt": "the", "suffix": " a"}), vec![prefix, "th", "e", suffix, "Ġa", middle]),
        (json!({"prompt": "", "suffix": "in"}), vec![prefix, suffix, "in", middle]),
        (
            json!({"prompt_tokens": [256, 257], "suffix": "in"}),
            vec![prefix, "th", "he", suffix, "in", middle],
        ),
        // Empty is absent.
        (json!({"prompt": "the", "suffix": ""}), vec!["th", "e"]),
    ] {
        assert_eq!(spellings(&worker, &body), expected, "{body}");
    }
}

#[test]
fn what_a_text_spells_is_no_mark() {
    let model = filler();
    let worker = Worker::ready(&model.path, &[]);
    let spelt = spellings(&worker, &json!({"prompt": "<|fim_middle|>", "suffix": "<|turn|><|fim_suffix|>"}));
    let marks: Vec<&str> = spelt.iter().map(String::as_str).filter(|text| text.starts_with("<|")).collect();
    assert_eq!(marks, MARKS[..3]);
}

#[test]
fn the_answer_is_that_to_the_tokens_of_the_gap() {
    let model = filler();
    let worker = Worker::ready(&model.path, &[]);
    let gap = json!({"prompt": "the thing", "suffix": " in a"});
    let tokens = worker.post("/v1/tokenize", &gap).json()["tokens"].clone();
    let (filled, continued) = (execute(&worker, &gap), execute(&worker, &json!({"prompt_tokens": tokens})));
    assert_eq!(filled["choices"], continued["choices"]);
    assert_eq!(filled["usage"]["prompt_tokens"], tokens.as_array().unwrap().len());
}

#[test]
fn an_answer_ends_where_another_text_would_begin() {
    let pads = [("tokenizer.ggml.fim_pad_token_id", PREFIX + 4)];
    let model = tiny_model_with(&[&MARKS[..], &["<pad>", "<other>"]].concat(), &pads);
    let worker = Worker::ready(&model.path, &[]);
    for token in PREFIX..PREFIX + 6 {
        let bias = json!({token.to_string(): 100});
        let answer = execute(&worker, &json!({"prompt": "a", "suffix": "b", "logit_bias": bias}));
        let reason = if token < PREFIX + 5 { "stop" } else { "length" };
        assert_eq!(answer["choices"][0]["finish_reason"], reason, "{token}: {answer}");
    }
}

#[test]
fn a_header_may_name_the_marks() {
    let marks = [
        ("tokenizer.ggml.prefix_token_id", PREFIX),
        ("tokenizer.ggml.suffix_token_id", PREFIX + 1),
        ("tokenizer.ggml.fim_mid_token_id", PREFIX + 2),
    ];
    let model = tiny_model_with(&["[[before]]", "[[after]]", "[[here]]"], &marks);
    let worker = Worker::ready(&model.path, &[]);
    assert_eq!(
        spellings(&worker, &json!({"prompt": "the", "suffix": "in"})),
        ["[[before]]", "th", "e", "[[after]]", "in", "[[here]]"]
    );
}

#[test]
fn what_cannot_be_filled_is_refused_by_name() {
    let (filler, other) = (filler(), tiny_model("llama"));
    let (worker, without) = (Worker::ready(&filler.path, &[]), Worker::ready(&other.path, &[]));
    let gap = json!({"prompt": "a", "suffix": "b"});
    for path in ["/v1/execute", "/v1/tokenize"] {
        let answer = without.post(path, &gap);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "UNSUPPORTED_PARAMETER"),
            "{}",
            answer.body
        );
        assert_eq!(answer.json()["error"]["param"], "suffix");
        assert!(answer.body.contains("no infill tokens"), "{}", answer.body);
    }
    assert_eq!(without.free_slots(), 8);
    for (body, param) in [
        (json!({"prompt": "a", "suffix": "b", "echo": true}), "echo"),
        (json!({"instruction": "a", "suffix": "b"}), "suffix"),
        (json!({"messages": [{"role": "user", "content": "a"}], "suffix": "b"}), "suffix"),
        (json!({"prompt": "a", "suffix": 5}), "suffix"),
        (json!({"prompt": "a", "suffix": "x".repeat(500_000)}), "suffix"),
        (json!({"prompt": "a", "suffix": "x".repeat(5_000)}), "prompt"),
    ] {
        let answer = worker.post("/v1/execute", &body);
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.body);
    }
}
