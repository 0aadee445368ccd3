//! Tokens of prompts and texts of tokens, told without an execution.

use serde_json::{Value, json};

use crate::embeddings::{encoder, minilm};
use crate::encoder_model::encoder_model;
use crate::process::Worker;
use crate::tiny_model::{slow_model, tiny_model};

fn tokenize(worker: &Worker, body: &Value) -> Value {
    let answer = worker.post("/v1/tokenize", body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer.json()
}

fn detokenize(worker: &Worker, tokens: &Value) -> String {
    let answer = worker.post("/v1/detokenize", &json!({"tokens": tokens}));
    assert_eq!(answer.status, 200, "{tokens}: {}", answer.body);
    answer.json()["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_prompt_has_the_tokens_that_its_execution_counts() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &[]);
    let messages =
        json!([{"role": "user", "content": "the thing"}, {"role": "assistant", "content": "in a"}]);
    let tool = json!({"name": "look", "description": "Looks.", "parameters": {"type": "object"}});
    for prompt in [
        json!({"prompt": "the <|turn|> in"}),
        json!({"prompt_tokens": [1, 2, 3]}),
        json!({"instruction": "the thing"}),
        json!({"messages": messages}),
        json!({"messages": messages, "tools": [tool]}),
        json!({"messages": messages, "tools": [tool], "tool_choice": "none"}),
        json!({"messages": messages, "tools": [tool], "tool_choice": {"named": "look"},
            "template_options": {"extra": 1}}),
    ] {
        let told = tokenize(&worker, &prompt);
        let mut order = prompt.clone();
        order["max_tokens"] = json!(0);
        order["stream"] = json!(false);
        let executed = worker.post("/v1/execute", &order);
        assert_eq!(executed.status, 200, "{prompt}: {}", executed.body);
        assert_eq!(told["count"], executed.json()["usage"]["prompt_tokens"], "{prompt}");
        assert_eq!(told["count"], told["tokens"].as_array().unwrap().len(), "{prompt}");
        assert_eq!(told["context_length"], 4096);
        assert_eq!(told.get("token_strs"), None);
    }
}

#[test]
fn tokens_are_told_by_their_spellings_and_make_the_text_again() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &[]);
    let told = tokenize(&worker, &json!({"prompt": "the<|turn|> a", "return_token_strs": true}));
    assert_eq!(told["token_strs"], json!(["th", "e", "<|turn|>", "Ġa"]));
    for text in ["the thing in a", "<|turn|>é 漢字\n\t🦀<|last|>", " "] {
        let told = tokenize(&worker, &json!({"prompt": text}));
        assert_eq!(detokenize(&worker, &told["tokens"]), text);
    }
    assert_eq!(detokenize(&worker, &json!([])), "");
    assert_eq!(detokenize(&worker, &json!([0xe6])), "\u{fffd}");
}

#[test]
fn a_prompt_may_be_longer_than_the_context_but_not_endless() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &["--context-limit", "64"]);
    let told = tokenize(&worker, &json!({"prompt": "x".repeat(100_000)}));
    assert_eq!((&told["count"], &told["context_length"]), (&json!(100_000), &json!(64)));
    for (prompt, says) in
        [("x".repeat((4 << 20) + 1), "4194305 bytes"), ("x".repeat(2 << 20), "2097152 tokens")]
    {
        let answer = worker.post("/v1/tokenize", &json!({"prompt": prompt}));
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert_eq!(answer.json()["error"]["param"], "prompt");
        assert!(answer.body.contains(says), "{}", answer.body);
    }
}

#[test]
fn what_makes_no_sense_is_a_400_that_names_the_field() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &[]);
    for (path, body, param) in [
        ("tokenize", json!({}), "prompt"),
        ("tokenize", json!({"prompt": ""}), "prompt"),
        ("tokenize", json!({"prompt": "a", "messages": []}), "prompt"),
        ("tokenize", json!({"prompt": 5}), "prompt"),
        ("tokenize", json!({"prompt_tokens": [1, 262]}), "prompt_tokens[1]"),
        ("tokenize", json!({"prompt": "a", "tools": [{"name": "f"}]}), "tools"),
        ("tokenize", json!({"messages": [{"role": "robot", "content": "a"}]}), "messages"),
        ("detokenize", json!({}), "tokens"),
        ("detokenize", json!({"tokens": "a"}), "tokens"),
        ("detokenize", json!({"tokens": [1, -1]}), "tokens[1]"),
        ("detokenize", json!({"tokens": [1, 2, 262]}), "tokens[2]"),
        ("detokenize", json!({"tokens": vec![1; (1 << 20) + 1]}), "tokens"),
    ] {
        let answer = worker.post(&format!("/v1/{path}"), &body);
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert_eq!(answer.json()["error"]["param"], param, "{path}: {}", answer.body);
    }
}

#[test]
fn no_slot_is_needed() {
    let model = slow_model();
    let worker = Worker::ready(&model.path, &["--slots", "1"]);
    let mut running = worker.events("/v1/execute", Some(&json!({"prompt": "a", "max_tokens": 3000})));
    running.await_named("started");
    assert_eq!(worker.free_slots(), 0);
    let told = tokenize(&worker, &json!({"prompt": "the"}));
    assert_eq!(detokenize(&worker, &told["tokens"]), "the");
    assert_eq!(worker.free_slots(), 0);
    running.leave();
}

#[test]
fn encoders_tell_tokens_of_texts() {
    let model = encoder_model(&encoder("bert"));
    let worker = Worker::ready(&model.path, &[]);
    let told = tokenize(&worker, &json!({"prompt": "t5 t299", "return_token_strs": true}));
    assert_eq!((&told["tokens"], &told["token_strs"]), (&json!([5, 299]), &json!(["t5", "t299"])));
    assert_eq!(detokenize(&worker, &told["tokens"]), "t5 t299");
    for (path, body, param) in [
        ("tokenize", json!({"messages": [{"role": "user", "content": "t5"}]}), "messages"),
        ("detokenize", json!({"tokens": [300]}), "tokens[0]"),
    ] {
        let answer = worker.post(&format!("/v1/{path}"), &body);
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!(param)),
            "{}",
            answer.body
        );
    }
}

#[test]
fn special_tokens_stand_around_a_text_unless_they_are_left_out() {
    let worker = Worker::ready(&minilm(), &[]);
    let text = "Words are cut into pieces.";
    let whole = tokenize(&worker, &json!({"prompt": text, "return_token_strs": true}));
    let strs = whole["token_strs"].as_array().unwrap();
    assert_eq!((&strs[0], &strs[strs.len() - 1]), (&json!("[CLS]"), &json!("[SEP]")));
    let embedded = worker.post("/v1/embed", &json!({"input": text})).json();
    assert_eq!(whole["count"], embedded["usage"]["prompt_tokens"]);
    let bare = tokenize(&worker, &json!({"prompt": text, "add_special_tokens": false}));
    assert_eq!(
        bare["tokens"].as_array().unwrap()[..],
        whole["tokens"].as_array().unwrap()[1..strs.len() - 1]
    );
    // Far more than the 256 that it reads.
    assert_eq!(tokenize(&worker, &json!({"prompt": "word ".repeat(1000)}))["count"], 1002);
}
