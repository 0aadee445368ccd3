//! Vectors and ranks: what recorded Python makes of the same weights, and that company changes nothing.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use half::f16;
use serde_json::{Value, json};

use crate::encoder_model::encoder_model;
use crate::process::{Worker, wait_until};

fn recorded(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(name);
    let record: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    record["cases"].as_array().unwrap().clone()
}

pub fn encoder(family: &str) -> Value {
    recorded("encoders.json").into_iter().find(|record| record["family"] == family).unwrap()
}

/// all-MiniLM-L6-v2 where `make models` has put it.
pub fn minilm() -> PathBuf {
    let models =
        std::env::var("RBEE_TEST_MODELS").expect("RBEE_TEST_MODELS names the folder of `make models`");
    Path::new(&models).join("all-minilm-l6-v2")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn vectors(worker: &Worker, body: &Value) -> Vec<Vec<f64>> {
    let answer = worker.post("/v1/embed", body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["embeddings"].as_array().unwrap().iter().map(numbers).collect()
}

fn cosine(left: &[f64], right: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

#[test]
fn every_family_makes_the_recorded_vectors() {
    for record in recorded("encoders.json") {
        let family = record["family"].as_str().unwrap();
        if family.ends_with("rerank") {
            continue;
        }
        let model = encoder_model(&record);
        let cases = record["cases"].as_array().unwrap();
        let ids: Vec<&Value> = cases.iter().map(|case| &case["ids"]).collect();
        for (precision, tolerance) in [("f32", 2e-4), ("auto", 0.1)] {
            let worker = Worker::ready(&model.path, &["--precision", precision]);
            let found = vectors(&worker, &json!({"input": ids}));
            for (case, found) in cases.iter().zip(found) {
                let expected = numbers(&case["numbers"]);
                let off = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                let tokens = case["ids"].as_array().unwrap().len();
                assert!(off < tolerance, "{family}, {precision}, {tokens} tokens: off by {off}");
                assert!(cosine(&expected, &found) > 0.999, "{family}, {precision}, {tokens} tokens");
            }
        }
    }
}

#[test]
fn rerank_models_give_the_recorded_labels() {
    for family in ["bert-rerank", "xlm-roberta-rerank", "modernbert-rerank"] {
        let record = encoder(family);
        let model = encoder_model(&record);
        let worker = Worker::ready(&model.path, &["--precision", "f32"]);
        assert_eq!(worker.get("/v1/health").json()["kind"], "rerank");
        for case in record["cases"].as_array().unwrap() {
            let words: Vec<String> =
                case["ids"].as_array().unwrap().iter().map(|id| format!("t{id}")).collect();
            let (query, document) = words.split_at(words.len() / 2);
            let body = json!({"query": query.join(" "), "documents": [document.join(" ")]});
            let answer = worker.post("/v1/rerank", &body);
            assert_eq!(answer.status, 200, "{}", answer.body);
            let found = answer.json()["scores"][0].as_f64().unwrap();
            let expected = 1.0 / (1.0 + (-case["numbers"][0].as_f64().unwrap()).exp());
            assert!((found - expected).abs() < 1e-4, "{family}: {expected}, not {found}");
        }
        let score = |mut body: Value| {
            body["query"] = "t5 t6".into();
            worker.post("/v1/rerank", &body).json()["scores"][0].as_f64().unwrap()
        };
        let cut = score(json!({"documents": ["t7 t8 t9"], "document_tokens": 2}));
        assert!((cut - score(json!({"documents": ["t7 t8"]}))).abs() < 1e-6, "{family}");
    }
}

#[test]
fn minilm_makes_the_vectors_of_sentence_transformers() {
    let worker = Worker::ready(&minilm(), &[]);
    let health = worker.get("/v1/health").json();
    assert_eq!((&health["kind"], &health["context_length"]), (&json!("embedding"), &json!(256)));
    let cases = recorded("minilm.json");
    assert!(cases.len() > 50);
    let texts: Vec<&Value> = cases.iter().map(|case| &case["text"]).collect();
    let found = vectors(&worker, &json!({"input": texts}));
    for (case, found) in cases.iter().zip(&found) {
        let bytes = STANDARD.decode(case["vector"].as_str().unwrap()).unwrap();
        let expected: Vec<f64> =
            bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f64()).collect();
        let cosine = cosine(&expected, found);
        assert!(cosine >= 0.9999, "{}: {cosine}", case["text"]);
        let length = found.iter().map(|number| number * number).sum::<f64>();
        assert!((length - 1.0).abs() < 1e-5);
    }
}

#[test]
fn company_and_threads_change_no_bit() {
    for family in ["bert", "modernbert"] {
        let model = encoder_model(&encoder(family));
        let texts: Vec<String> = (1..30usize)
            .map(|text| {
                let words: Vec<String> =
                    (0..=text * 7 % 71).map(|word| format!("t{} ", (text * 37 + word * 11) % 300)).collect();
                words.concat()
            })
            .collect();
        let alone_worker = Worker::ready(&model.path, &["--threads", "1"]);
        let alone: Vec<Vec<f64>> =
            texts.iter().flat_map(|text| vectors(&alone_worker, &json!({"input": text}))).collect();
        let worker = Worker::ready(&model.path, &["--threads", "3", "--slots", "8"]);
        assert_eq!(vectors(&worker, &json!({"input": texts})), alone, "{family}");
        let worker = &worker;
        std::thread::scope(|scope| {
            let running: Vec<_> = texts
                .chunks(5)
                .map(|some| scope.spawn(move || vectors(worker, &json!({"input": some}))))
                .collect();
            let together: Vec<Vec<f64>> =
                running.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            assert_eq!(together, alone, "{family}");
        });
    }
}

#[test]
fn vectors_are_cut_encoded_and_counted() {
    let model = encoder_model(&encoder("bert"));
    let worker = Worker::ready(&model.path, &[]);
    let whole = vectors(&worker, &json!({"input": "t7 t8 t9"}));
    assert_eq!(whole, vectors(&worker, &json!({"input": [7, 8, 9]})));
    let cut = vectors(&worker, &json!({"input": [[7, 8, 9]], "dimensions": 16}));
    assert_eq!(cut[0].len(), 16);
    assert!((cut[0].iter().map(|number| number * number).sum::<f64>() - 1.0).abs() < 1e-5);
    assert!(cosine(&cut[0], &whole[0][..16]) > 0.999_999);
    let answer =
        worker.post("/v1/embed", &json!({"input": ["t1", "t2 t3"], "encoding_format": "base64"})).json();
    let bytes = STANDARD.decode(answer["embeddings"][1].as_str().unwrap()).unwrap();
    let decoded: Vec<f64> =
        bytes.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
    let plain = vectors(&worker, &json!({"input": "t2 t3"}));
    assert!(decoded.iter().zip(&plain[0]).all(|(a, b)| (a - b).abs() < 1e-6));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
}

#[test]
fn what_cannot_be_embedded_is_refused_with_numbers() {
    let model = encoder_model(&encoder("bert"));
    let worker = Worker::ready(&model.path, &[]);
    let long = "t5 ".repeat(100);
    let refused = |path: &str, body: Value, code: &str, param: Option<&str>, words: &[&str]| {
        let answer = worker.post(path, &body);
        assert_eq!(answer.status, 400, "{}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some(code), param), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    let embed = "/v1/embed";
    refused(
        embed,
        json!({"input": ["a", long]}),
        "context_length_exceeded",
        Some("input[1]"),
        &["100", "82"],
    );
    refused(embed, json!({"input": vec![5; 83]}), "context_length_exceeded", Some("input"), &["83", "82"]);
    refused(embed, json!({"input": [3, 300]}), "INVALID_REQUEST", Some("input"), &["300", "299"]);
    refused(embed, json!({"input": []}), "INVALID_REQUEST", Some("input"), &["0", "2048"]);
    refused(embed, json!({"input": {"a": 1}}), "INVALID_REQUEST", Some("input"), &[]);
    refused(
        embed,
        json!({"input": "t1", "dimensions": 65}),
        "INVALID_REQUEST",
        Some("dimensions"),
        &["65", "64"],
    );
    refused(
        "/v1/rerank",
        json!({"query": "t1", "documents": ["t2"]}),
        "UNSUPPORTED_MODEL",
        None,
        &["/v1/embed"],
    );
    refused("/v1/execute", json!({"prompt": "t1"}), "UNSUPPORTED_MODEL", None, &["/v1/embed"]);
    let cut = vectors(&worker, &json!({"input": long, "truncate": true}));
    assert_eq!(cut, vectors(&worker, &json!({"input": vec![5; 82]})));
}

#[test]
fn a_full_worker_says_so_and_who_leaves_makes_room() {
    let model = encoder_model(&encoder("modernbert"));
    let worker = Worker::ready(&model.path, &["--slots", "1", "--threads", "1", "--precision", "f32"]);
    let text = "t5 t6 ".repeat(100);
    let long = worker.open("/v1/embed", &json!({"input": vec![text; 2048]}));
    wait_until("the slot is taken", || worker.free_slots() == 0);
    let answer = worker.post("/v1/embed", &json!({"input": "t1"}));
    assert_eq!((answer.status, answer.code().as_str()), (503, "ALL_SLOTS_BUSY"));
    drop(long);
    wait_until("the slot is free", || worker.free_slots() == 1);
    assert_eq!(vectors(&worker, &json!({"input": "t1"})).len(), 1);
}
