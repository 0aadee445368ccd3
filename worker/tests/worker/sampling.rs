//! How tokens are chosen, as a caller sees it: a real model through the worker's door.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::oracle::model_path;
use crate::process::Worker;

static WORKER: LazyLock<Worker> =
    LazyLock::new(|| Worker::ready(&model_path("smollm2-135m-instruct.gguf"), &["--context-limit", "2048"]));

/// The answer to a prompt that is continued greedily unless `extra` says otherwise.
fn continued(extra: &Value) -> Value {
    let mut request = json!({
        "prompt": "The cat sat on the mat. The cat sat on the mat. The cat", "temperature": 0, "max_tokens": 24,
        "stream": false, "seed": 5,
    });
    request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    loop {
        let answer = WORKER.post("/v1/execute", &request);
        if answer.status == 503 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            continue;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
        return answer.json();
    }
}

fn text(answer: &Value, choice: usize) -> String {
    answer["choices"][choice]["text"].as_str().unwrap().to_owned()
}

/// The tokens of an answer to a request for log probabilities.
fn tokens(answer: &Value) -> Vec<u64> {
    logprobs(answer).iter().map(|token| token["id"].as_u64().unwrap()).collect()
}

fn logprobs(answer: &Value) -> &Vec<Value> {
    answer["choices"][0]["logprobs"].as_array().unwrap()
}

#[test]
fn log_probabilities_fit_the_choice_and_each_other() {
    for temperature in [0.0, 1.0] {
        let answer = continued(&json!({"logprobs": 20, "temperature": temperature}));
        let told = logprobs(&answer);
        assert_eq!(told.len(), 24);
        let spelt: String = told.iter().map(|token| token["text"].as_str().unwrap()).collect();
        assert_eq!(spelt, text(&answer, 0));
        for token in told {
            let top: Vec<f64> = token["top"]
                .as_array()
                .unwrap()
                .iter()
                .map(|token| token["logprob"].as_f64().unwrap())
                .collect();
            let own = token["logprob"].as_f64().unwrap();
            assert_eq!(top.len(), 20);
            assert!(top.is_sorted_by(|left, right| left >= right), "{token}");
            let held: f64 = top.iter().map(|logprob| logprob.exp()).sum();
            assert!(held <= 1.0 + 1e-4 && own <= 0.0, "{held}: {token}");
            let listed = token["top"].as_array().unwrap().iter().find(|likely| likely["id"] == token["id"]);
            match listed {
                Some(likely) => assert_eq!(likely["logprob"], token["logprob"]),
                None => assert!(own <= top[19], "{token}"),
            }
            if temperature == 0.0 {
                assert_eq!(token["top"][0]["id"], token["id"]);
            }
        }
    }
    assert_eq!(continued(&json!({"logprobs": 0}))["choices"][0]["logprobs"][0]["top"], json!([]));
    assert!(continued(&json!({}))["choices"][0].get("logprobs").is_none());
}

#[test]
fn penalties_make_a_parrot_stop() {
    let distinct = |extra: &Value| {
        let prompt = ["one two"; 8].join(" ");
        let mut request = json!({"prompt": prompt, "logprobs": 0});
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        tokens(&continued(&request)).into_iter().collect::<HashSet<_>>().len()
    };
    let parrot = distinct(&json!({}));
    assert!(parrot < 12, "{parrot} distinct tokens of 24");
    for extra in [json!({"frequency_penalty": 2}), json!({"repetition_penalty": 1.5})] {
        let penalised = distinct(&extra);
        assert!(penalised > parrot + 2, "{extra}: {penalised} distinct tokens, {parrot} without");
    }
    let forgiving = tokens(&continued(&json!({"logprobs": 0, "presence_penalty": -2, "temperature": 1})));
    let strict = tokens(&continued(&json!({"logprobs": 0, "presence_penalty": 2, "temperature": 1})));
    let count = |tokens: Vec<u64>| tokens.into_iter().collect::<HashSet<_>>().len();
    assert!(count(strict) > count(forgiving));
}

#[test]
fn a_bias_bans_and_forces() {
    let plain = tokens(&continued(&json!({"logprobs": 0})));
    let banned = tokens(&continued(&json!({"logprobs": 0, "logit_bias": {plain[0].to_string(): -100}})));
    assert!(!banned.contains(&plain[0]));
    let forced = tokens(&continued(
        &json!({"logprobs": 0, "logit_bias": {plain[0].to_string(): 100}, "temperature": 1}),
    ));
    assert_eq!(forced, vec![plain[0]; 24]);
    let outside = WORKER.post("/v1/execute", &json!({"prompt": "a", "logit_bias": {"49152": 1}}));
    assert_eq!((outside.status, outside.json()["error"]["param"].as_str()), (400, Some("logit_bias")));
}

#[test]
fn an_answer_can_be_kept_from_ending() {
    let greeting = |extra: &Value| {
        let mut request = json!({"prompt": null, "messages": [{"role": "user", "content": "Say just: yes"}], "max_tokens": 200});
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = continued(&request);
        (
            answer["usage"]["completion_tokens"].as_u64().unwrap(),
            answer["choices"][0]["finish_reason"].clone(),
        )
    };
    let (short, reason) = greeting(&json!({}));
    assert!(short < 100 && reason == "stop", "{short} tokens, {reason}");
    let (longer, _) = greeting(&json!({"min_tokens": short + 20}));
    assert!(longer >= short + 20, "{longer} tokens");
    assert_eq!(greeting(&json!({"ignore_eos": true})), (200, json!("length")));
    let (stopped, reason) = greeting(&json!({"min_tokens": 30, "ignore_eos": true, "stop": ["e"]}));
    assert!(stopped >= 30 && reason == "stop", "{stopped} tokens, {reason}");
}

#[test]
fn several_answers_differ_and_come_again() {
    let several = |n: usize| continued(&json!({"n": n, "temperature": 1.0}));
    let three = several(3);
    let texts: Vec<String> = (0..3).map(|choice| text(&three, choice)).collect();
    assert_eq!(texts.iter().collect::<HashSet<_>>().len(), 3, "{texts:?}");
    let again = several(3);
    assert_eq!(texts, (0..3).map(|choice| text(&again, choice)).collect::<Vec<_>>());
    assert_eq!(texts[0], text(&several(1), 0));
    assert_eq!(three["usage"]["completion_tokens"], 72);
}

#[test]
fn filters_leave_the_likeliest() {
    let greedy = text(&continued(&json!({})), 0);
    for filter in [json!({"top_k": 1}), json!({"top_p": 0}), json!({"min_p": 1})] {
        let mut filter = filter;
        filter["temperature"] = json!(1.5);
        assert_eq!(text(&continued(&filter), 0), greedy, "{filter}");
    }
}
