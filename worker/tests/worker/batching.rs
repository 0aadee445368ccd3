//! Many requests at once through the worker's door: whoever else runs, however prompts are cut, whatever is found computed
//! and whoever has to wait for memory, the answers are those of a request that is alone.

use std::path::Path;

use serde_json::{Value, json};

use crate::process::{Worker, wait_until};
use crate::tiny_model::tiny_model;

/// A text of about so many tokens. Texts of one kind begin alike.
fn text(kind: usize, words: usize) -> String {
    const WORDS: [&str; 7] = ["the", "thin", "hat", "in", "an", "inn", "then"];
    (0..words)
        .map(|index| WORDS[(index * (kind + 1) + index / 7) % WORDS.len()])
        .collect::<Vec<_>>()
        .join(" ")
}

/// Sixteen requests: short and long prompts of which some begin alike, greedy and by chance, one choice and several.
fn requests(words_max: usize, tokens: usize) -> Vec<Value> {
    let request = |index: usize| {
        let words = 1 + words_max * (index * 7 % 16) / 15;
        let temperature = if index.is_multiple_of(3) { 0.0 } else { 0.9 };
        json!({
            "prompt": text(index % 3, words),
            "max_tokens": tokens - index % 4,
            "temperature": temperature,
            "top_p": 0.95,
            "seed": index,
            "n": if index % 5 == 4 { 3 } else { 1 },
            "stream": false,
        })
    };
    (0..16).map(request).collect()
}

fn answer(worker: &Worker, request: &Value) -> (Vec<String>, Value) {
    let answer = worker.post("/v1/execute", request);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    let text = |choice: &Value| choice["text"].as_str().unwrap().to_owned();
    (answer["choices"].as_array().unwrap().iter().map(text).collect(), answer["usage"].clone())
}

fn one_by_one(worker: &Worker, requests: &[Value]) -> Vec<Vec<String>> {
    requests.iter().map(|request| answer(worker, request).0).collect()
}

fn together(worker: &Worker, requests: &[Value]) -> Vec<Vec<String>> {
    std::thread::scope(|scope| {
        let running: Vec<_> =
            requests.iter().map(|request| scope.spawn(move || answer(worker, request).0)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn kv(worker: &Worker, name: &str) -> u64 {
    worker.get("/v1/health").json()["kv"][name].as_u64().unwrap()
}

/// Eight short prompts with long answers: all of them find a place at first, and then they grow.
fn growing(tokens: usize) -> Vec<Value> {
    let request = |index: usize| {
        json!({
            "prompt": text(index, 2 + index),
            "max_tokens": tokens,
            "ignore_eos": true,
            "temperature": if index.is_multiple_of(2) { 0.0 } else { 0.9 },
            "seed": index,
            "stream": false,
        })
    };
    (0..8).map(request).collect()
}

/// How much a model is asked.
pub struct Load {
    /// Words of the longest prompt.
    pub words_max: usize,
    /// Tokens of answers that outgrow the memory.
    pub long_tokens: usize,
    /// MiB of memory that are enough for any one request, and too little for eight long answers.
    pub scarce_mb: &'static str,
}

/// Asks the same of workers that have nothing in common but the model.
pub fn company_cache_and_lack_of_memory_change_nothing(model: &Path, load: &Load) {
    let (requests, growing) = (requests(load.words_max, 40), growing(load.long_tokens));
    let context = ["--slots", "16", "--context", "1024"];
    let worker = Worker::ready(model, &[&context[..], &["--prefix-cache-mb", "0"]].concat());
    let (alone, alone_growing) = (one_by_one(&worker, &requests), one_by_one(&worker, &growing));
    assert_eq!(kv(&worker, "cached_tokens"), 0);
    assert_eq!(together(&worker, &requests), alone, "company");
    assert_eq!(kv(&worker, "blocks_cached"), 0);
    drop(worker);

    let worker = Worker::ready(model, &context);
    assert_eq!(together(&worker, &requests), alone, "company while others leave what they computed");
    let before = kv(&worker, "cached_tokens");
    assert_eq!(one_by_one(&worker, &requests), alone, "with what was computed before");
    assert!(kv(&worker, "cached_tokens") > before);
    assert!(kv(&worker, "blocks_cached") > 0);
    drop(worker);

    let worker = Worker::ready(model, &[&context[..], &["--kv-cache-mb", load.scarce_mb]].concat());
    assert_eq!(together(&worker, &growing), alone_growing, "with too little memory");
    assert!(kv(&worker, "preemptions") > 0);
    // What the engine tells of itself is a step old at most.
    wait_until("all blocks are let go", || kv(&worker, "blocks_used") == 0);
}

#[test]
fn answers_depend_on_nobody_else_in_any_family() {
    for family in ["llama", "qwen2", "qwen3", "gemma3"] {
        let model = tiny_model(family);
        let load = Load { words_max: 60, long_tokens: 400, scarce_mb: "1" };
        company_cache_and_lack_of_memory_change_nothing(&model.path, &load);
    }
}

#[test]
fn a_prompt_that_began_before_is_told_as_cached() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &[]);
    let request = json!({"prompt": text(0, 60), "max_tokens": 4, "temperature": 0, "stream": false});
    let (cold, usage) = answer(&worker, &request);
    assert_eq!(usage["cached_tokens"], 0);
    let (warm, usage) = answer(&worker, &request);
    assert_eq!(warm, cold);
    let (prompt, cached) =
        (usage["prompt_tokens"].as_u64().unwrap(), usage["cached_tokens"].as_u64().unwrap());
    assert_eq!(cached, (prompt - 1) / 32 * 32);
    assert!(cached > 0);
}

#[test]
fn choices_are_the_first_ones_of_more_and_come_numbered() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &[]);
    let mut request = json!({"prompt": text(0, 40), "max_tokens": 12, "temperature": 1.0, "seed": 5, "n": 4, "stream": false});
    let (four, usage) = answer(&worker, &request);
    assert_eq!(usage["completion_tokens"], 48);
    assert_ne!(four[0], four[1]);
    request["n"] = json!(1);
    assert_eq!(answer(&worker, &request).0, four[..1]);
    request["n"] = json!(4);
    request["stream"] = json!(true);
    let mut events = worker.events("/v1/execute", Some(&request));
    let mut texts = vec![String::new(); 4];
    let mut indices = [0; 4];
    loop {
        let (name, data) = events.next().unwrap();
        match name.as_str() {
            "token" => {
                let choice = data["choice"].as_u64().unwrap_or(0) as usize;
                texts[choice].push_str(data["token"].as_str().unwrap());
                assert_eq!(data["index"], indices[choice]);
                indices[choice] += 1;
            }
            "end" => {
                assert_eq!(data["finish_reasons"], json!(["length", "length", "length", "length"]));
                break;
            }
            other => assert_eq!(other, "started"),
        }
    }
    assert_eq!(texts, four);
}

#[test]
fn log_probabilities_of_prompt_and_answer_are_one_story() {
    let model = tiny_model("qwen3");
    let worker = Worker::ready(&model.path, &[]);
    let request = json!({
        "prompt": text(1, 50), "max_tokens": 6, "temperature": 0, "logprobs": 3, "echo": true, "stream": false,
    });
    let first = worker.post("/v1/execute", &request).json();
    let prompt = first["prompt"]["logprobs"].as_array().unwrap();
    assert_eq!(first["prompt"]["text"], json!(text(1, 50)));
    assert_eq!(prompt.len() as u64, first["usage"]["prompt_tokens"].as_u64().unwrap());
    assert!(prompt[0]["logprob"].is_null());
    assert!(prompt[1..].iter().all(|token| token["logprob"].as_f64().unwrap() <= 0.0));
    let answer = first["choices"][0]["logprobs"].as_array().unwrap();
    // Random weights choose parts of code points, which only together have a text.
    let bytes = |token: &Value| serde_json::from_value::<Vec<u8>>(token["bytes"].clone()).unwrap();
    let said: Vec<u8> = answer.iter().flat_map(bytes).collect();
    assert_eq!(json!(String::from_utf8_lossy(&said)), first["choices"][0]["text"]);
    for token in answer {
        // Greedy: what was chosen is the likeliest.
        assert_eq!(token["top"][0]["id"], token["id"]);
        assert_eq!(token["top"].as_array().unwrap().len(), 3);
    }
    // The same text as a prompt: what was generated is as likely there.
    let ids: Vec<Value> = prompt.iter().chain(answer).map(|token| token["id"].clone()).collect();
    let request = json!({
        "prompt_tokens": ids, "max_tokens": 0, "logprobs": 3, "echo": true, "stream": false,
    });
    let second = worker.post("/v1/execute", &request).json();
    let told = second["prompt"]["logprobs"].as_array().unwrap();
    for (read, generated) in told[prompt.len()..].iter().zip(answer) {
        assert_eq!(read, generated);
    }
    assert_eq!(second["choices"][0]["finish_reason"], "length");
}
