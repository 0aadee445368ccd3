//! What a caller gets: the shape of the stream, sampling that repeats, company that does not matter.

use serde_json::{Value, json};

use crate::process::Worker;
use crate::tiny_model::tiny_model;

const FAMILIES: [&str; 4] = ["llama", "qwen2", "qwen3", "gemma3"];

fn sampled(prompt: &str, seed: u64) -> Value {
    json!({"prompt": prompt, "max_tokens": 24, "temperature": 1.0, "top_p": 0.9, "seed": seed})
}

#[test]
fn a_stream_has_one_start_numbered_tokens_and_one_end() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &["--worker-id", "w1"]);
    let body = json!({"prompt": "the thin hat", "max_tokens": 12, "temperature": 0});
    let mut events = worker.events("/v1/execute", Some(&body));
    let (name, started) = events.next().unwrap();
    assert_eq!((name.as_str(), &started["worker_id"]), ("started", &json!("w1")));
    let mut index = 0;
    let end = loop {
        let (name, data) = events.next().unwrap();
        if name != "token" {
            assert_eq!(name, "end");
            break data;
        }
        assert_eq!(data["index"], index);
        assert!(!data["token"].as_str().unwrap().is_empty());
        index += 1;
    };
    assert!(events.next().is_none(), "nothing comes after the end");
    assert_eq!(end["done"], true);
    assert_eq!(end["usage"]["prompt_tokens"], started["prompt_tokens"]);
    assert_eq!(end["usage"]["completion_tokens"], end["total_tokens"]);
    assert!(end["timings"]["prefill_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_plain_body_holds_what_the_stream_tells() {
    let model = tiny_model("qwen3");
    let worker = Worker::ready(&model.path, &[]);
    let mut body = sampled("a hat", 3);
    let (text, end) = worker.generate(&body);
    body["stream"] = json!(false);
    let answer = worker.post("/v1/execute", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    assert_eq!(answer["choices"][0]["text"], json!(text));
    assert_eq!(answer["choices"][0]["finish_reason"], end["finish_reason"]);
    assert_eq!(answer["usage"], end["usage"]);
    assert_eq!(answer["seed"], 3);
}

#[test]
fn company_in_the_batch_changes_nothing_in_any_family() {
    for family in FAMILIES {
        let model = tiny_model(family);
        let worker = Worker::ready(&model.path, &["--slots", "4"]);
        // Of different lengths, so that prefill and decode of several sequences meet in one step.
        let prompts = [
            "a",
            "the thin hat in the inn",
            "Hello there, 1234 hats!",
            "\u{e9}t\u{e9} \u{1f680} and more of it",
        ];
        let alone: Vec<String> =
            prompts.iter().map(|prompt| worker.generate(&sampled(prompt, 11)).0).collect();
        let together: Vec<String> = std::thread::scope(|scope| {
            let running: Vec<_> = prompts
                .iter()
                .map(|prompt| scope.spawn(|| worker.generate(&sampled(prompt, 11)).0))
                .collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(alone, together, "{family}");
    }
}

#[test]
fn seeds_differ_and_an_absent_one_is_told() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &[]);
    let first = worker.generate(&sampled("a hat", 1)).0;
    assert_eq!(first, worker.generate(&sampled("a hat", 1)).0);
    assert_ne!(first, worker.generate(&sampled("a hat", 2)).0);
    let unseeded =
        json!({"prompt": "a hat", "max_tokens": 24, "temperature": 1.0, "top_p": 0.9, "stream": false});
    let answer = worker.post("/v1/execute", &unseeded).json();
    let again = worker.generate(&sampled("a hat", answer["seed"].as_u64().unwrap())).0;
    assert_eq!(answer["choices"][0]["text"], json!(again));
}

#[test]
fn a_stop_string_ends_the_answer_and_is_not_in_it() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &[]);
    let mut body = sampled("a hat", 5);
    let (whole, _) = worker.generate(&body);
    let signs: Vec<char> = whole.chars().collect();
    assert!(signs.len() > 8, "{whole:?}");
    let stop: String = signs[4..7].iter().collect();
    let expected = &whole[..whole.find(&stop).unwrap()];
    body["stop"] = json!([stop]);
    let (text, end) = worker.generate(&body);
    assert_eq!((text.as_str(), &end["finish_reason"]), (expected, &json!("stop")));
}

#[test]
fn conversations_go_through_the_models_template() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &[]);
    let body = |extra: Value| {
        let mut body = json!({"max_tokens": 8, "temperature": 0});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let chat = worker.generate(&body(json!({"messages": [{"role": "user", "content": "a hat"}]})));
    let prompt = worker.generate(&body(json!({"prompt": "<|turn|>a hat<|turn|>"})));
    assert_eq!(chat.0, prompt.0);
    assert_eq!(chat.1["usage"], prompt.1["usage"]);
}

#[test]
fn no_tokens_asked_is_an_empty_answer() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &[]);
    let (text, end) = worker.generate(&json!({"prompt": "a", "max_tokens": 0}));
    assert_eq!(
        (text.as_str(), &end["finish_reason"], &end["total_tokens"]),
        ("", &json!("length"), &json!(0))
    );
}
