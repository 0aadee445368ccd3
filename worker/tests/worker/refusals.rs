//! What a worker does not do, and how it says so.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::process::{Worker, command, outcome};
use crate::tiny_model::{slow_model, tiny_model};

#[test]
fn a_bad_request_is_a_400_that_names_the_field() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &[]);
    for (body, param) in [
        (json!({}), json!("prompt")),
        (json!({"prompt": 5}), json!("prompt")),
        (json!({"prompt": "a", "temperature": 3}), json!("temperature")),
        (json!({"prompt": "a", "stop": [""]}), json!("stop[0]")),
        (json!({"messages": [{"role": "user"}]}), json!("messages[0].content")),
        (json!({"messages": [{"role": "robot", "content": "a"}]}), json!("messages")),
        (json!("text"), Value::Null),
    ] {
        let answer = worker.post("/v1/execute", &body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
        assert_eq!(answer.json()["error"]["param"], param, "{body}: {}", answer.body);
    }
    assert_eq!(worker.get("/v1/nothing").status, 404);
    assert_eq!(worker.get("/v1/execute").status, 405);
    assert_eq!(worker.free_slots(), 8);
}

#[test]
fn too_much_for_the_context_is_refused_with_both_numbers() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &["--context-limit", "64"]);
    for body in [
        json!({"prompt": "x".repeat(100)}),
        json!({"prompt": "xyz", "max_tokens": 62}),
        json!({"prompt": "xyz", "max_tokens": 4_000_000_000_u32}),
    ] {
        let answer = worker.post("/v1/execute", &body);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "context_length_exceeded"),
            "{}",
            answer.body
        );
        let details = &answer.json()["error"]["details"];
        assert_eq!(details["context_length"], 64);
        assert!(details["requested_tokens"].as_u64().unwrap() > 64);
    }
    assert_eq!(worker.get("/v1/health").json()["context_length"], 64);
    assert_eq!(
        worker.post("/v1/execute", &json!({"prompt": "xyz", "max_tokens": 61, "stream": false})).status,
        200
    );
}

#[test]
fn a_request_for_another_worker_is_a_409() {
    let model = tiny_model("llama");
    let worker = Worker::ready(&model.path, &["--worker-id", "w1", "--boot-id", "b1"]);
    let body = json!({"prompt": "a", "max_tokens": 1, "stream": false});
    for (headers, status) in [
        ([("x-rbee-worker-id", "w1"), ("x-rbee-boot-id", "b1")], 200),
        ([("x-rbee-worker-id", "w2"), ("x-rbee-boot-id", "b1")], 409),
        ([("x-rbee-worker-id", "w1"), ("x-rbee-boot-id", "b0")], 409),
    ] {
        let answer = worker.post_with("/v1/execute", &body, &headers);
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.body);
        if status == 409 {
            assert_eq!(answer.code(), "WORKER_MISMATCH");
        }
    }
}

#[test]
fn a_full_worker_refuses_at_once() {
    let model = slow_model();
    let worker = Worker::ready(&model.path, &["--slots", "1"]);
    let mut running = worker.events("/v1/execute", Some(&json!({"prompt": "a", "max_tokens": 3000})));
    running.await_named("started");
    let answer = worker.post("/v1/execute", &json!({"prompt": "a"}));
    assert_eq!((answer.status, answer.code().as_str()), (503, "ALL_SLOTS_BUSY"));
    assert_eq!(worker.get("/v1/health").json()["state"], "busy");
    running.leave();
}

#[test]
fn a_name_in_use_is_refused() {
    let model = slow_model();
    let worker = Worker::ready(&model.path, &[]);
    let body = json!({"prompt": "a", "max_tokens": 3000, "request_id": "mine"});
    let mut running = worker.events("/v1/execute", Some(&body));
    running.await_named("started");
    let answer = worker.post("/v1/execute", &body);
    assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some("request_id")));
    running.leave();
}

#[test]
fn a_missing_backend_ends_the_process_and_no_other_stands_in() {
    let model = tiny_model("llama");
    for backend in ["cuda", "metal"].iter().filter(|name| !worker_has(name)) {
        let mut command = command(&model.path);
        command.args(["--backend", backend]);
        let (code, stderr) = outcome(command);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("BACKEND_NOT_AVAILABLE") && stderr.contains(backend), "{stderr}");
    }
}

fn worker_has(backend: &str) -> bool {
    worker::device::is_compiled_in(backend.parse().unwrap())
}

#[test]
fn a_broken_file_ends_the_process_and_says_what_is_wrong() {
    let model = tiny_model("llama");
    let whole = fs::read(&model.path).unwrap();
    let mut unaligned = whole.clone();
    let key = b"llama.block_count";
    let at = unaligned.windows(key.len()).position(|window| window == key).unwrap();
    // Turns the number of layers, of which the file has 4, into 65540.
    unaligned[at + key.len() + 6] = 1;
    for (name, bytes, says) in [
        ("empty", &[][..], "MODEL_CORRUPTED"),
        ("text", b"this is no model", "MODEL_CORRUPTED"),
        ("header", &whole[..600], "MODEL_CORRUPTED"),
        ("truncated", &whole[..whole.len() - 5000], "truncated"),
        ("layers", &unaligned, "the file lacks the tensor blk.4."),
    ] {
        let path = model.path.with_file_name(format!("{name}.gguf"));
        fs::write(&path, bytes).unwrap();
        let (code, stderr) = outcome(command(&path));
        assert_eq!(code, Some(1), "{name}: {stderr}");
        assert!(stderr.contains(says) && stderr.contains("MODEL_CORRUPTED"), "{name}: {stderr}");
        assert!(!stderr.contains("panicked"), "{name}: {stderr}");
    }
}

#[test]
fn an_unknown_family_is_named() {
    let model = tiny_model("llama");
    let text = fs::read(&model.path).unwrap();
    let path = model.path.with_file_name("other.gguf");
    let at = text.windows(5).position(|window| window == b"llama").unwrap();
    fs::write(&path, [&text[..at], b"mamba", &text[at + 5..]].concat()).unwrap();
    let (code, stderr) = outcome(command(&path));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("UNSUPPORTED_MODEL") && stderr.contains("'mamba'"), "{stderr}");
}

#[test]
fn wrong_usage_is_exit_code_2_and_an_open_bind_is_refused() {
    let model = tiny_model("llama");
    let mut wrong = command(&model.path);
    wrong.args(["--slots", "0"]);
    assert_eq!(outcome(wrong).0, Some(2));
    let mut open = command(&model.path);
    open.args(["--bind", "0.0.0.0"]).stdin(Stdio::null());
    let (code, stderr) = outcome(open);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("loopback"), "{stderr}");
}
