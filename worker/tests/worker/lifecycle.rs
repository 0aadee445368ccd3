//! From loading to the end of the process, and what cancels a request on the way.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Worker, wait_until};
use crate::tiny_model::{slow_model, tiny_model};

/// A cancel must be felt within this.
const PROMPT: Duration = Duration::from_millis(200);
/// Attempts at being prompt, since other processes may hold the processors for longer than that.
const ATTEMPTS: usize = 5;

/// Tries something until it takes no longer than it may.
fn promptly(what: &str, mut attempt: impl FnMut() -> Duration) {
    let taken: Vec<Duration> =
        (0..ATTEMPTS).map(|_| attempt()).take_while(|taken| *taken >= PROMPT).collect();
    assert!(taken.len() < ATTEMPTS, "{what} took {taken:?}");
}

fn endless() -> Value {
    json!({"prompt": "a hat", "max_tokens": 4000, "temperature": 1.0, "request_id": "mine"})
}

/// As long as the context allows, so that its prefill takes a while.
fn long_prompt() -> Value {
    json!({"prompt": "x".repeat(4000), "max_tokens": 1, "request_id": "mine"})
}

#[test]
fn the_load_is_followed_from_the_first_state_to_ready() {
    let model = slow_model();
    let worker = Worker::listening(&model.path, &[]);
    let mut events = worker.events("/v1/loading/progress", None);
    let mut last = json!({"progress": 0.0});
    while let Some((name, data)) = events.next() {
        assert_eq!(name, "progress");
        assert!(data["progress"].as_f64() >= last["progress"].as_f64(), "{last} then {data}");
        last = data;
    }
    assert_eq!((&last["stage"], &last["progress"]), (&json!("ready"), &json!(1.0)));
    assert_eq!(last["bytes_loaded"], last["bytes_total"]);
    let ready = worker.get("/v1/ready");
    assert_eq!((ready.status, &ready.json()["state"]), (200, &json!("idle")));
    let mut late = worker.events("/v1/loading/progress", None);
    assert_eq!(late.next().unwrap().1["stage"], "ready");
    assert!(late.next().is_none());
}

#[test]
fn the_hive_is_told_before_the_load_and_requests_wait_for_its_end() {
    let hive = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hive.local_addr().unwrap());
    let model = tiny_model("llama");
    let arguments = ["--hive-url", &url, "--worker-id", "w1", "--boot-id", "b1", "--model-ref", "tiny"];
    let worker = Worker::listening(&model.path, &arguments);
    let (mut call, _) = hive.accept().unwrap();
    // While the hive holds its answer back, the worker listens and does not load yet.
    let ready = worker.get("/v1/ready");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["state"], "loading");
    assert_eq!(ready.json()["loading"]["stage"], "starting");
    let refused = worker.post("/v1/execute", &json!({"prompt": "a"}));
    assert_eq!((refused.status, refused.code().as_str()), (503, "MODEL_LOADING"));
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        let mut byte = [0];
        call.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with("POST /v1/workers/ready "), "{request}");
    let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let port: u16 = worker.address.rsplit(':').next().unwrap().parse().unwrap();
    let expected = json!({
        "worker_id": "w1", "boot_id": "b1", "port": port, "model": "tiny", "pid": worker.id(), "state": "loading",
    });
    assert_eq!(body, expected);
    call.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    wait_until("ready", || worker.get("/v1/ready").status == 200);
}

#[test]
fn idle_turns_busy_and_back() {
    let model = slow_model();
    let worker = Worker::ready(&model.path, &[]);
    let state = || worker.get("/v1/health").json()["state"].as_str().unwrap().to_owned();
    assert_eq!(state(), "idle");
    let mut events = worker.events("/v1/execute", Some(&endless()));
    events.await_named("token");
    assert_eq!((state().as_str(), worker.free_slots()), ("busy", 7));
    assert_eq!(worker.post("/v1/cancel", &json!({"request_id": "mine"})).json()["cancelled"], true);
    events.await_named("end");
    wait_until("idle", || state() == "idle");
    assert_eq!(worker.post("/v1/cancel", &json!({"request_id": "mine"})).json()["cancelled"], false);
}

#[test]
fn a_cancel_takes_effect_in_the_middle_of_prompt_and_answer() {
    let model = slow_model();
    let worker = Worker::ready(&model.path, &[]);
    for (body, until) in [(long_prompt(), "started"), (endless(), "token")] {
        promptly(until, || {
            let mut events = worker.events("/v1/execute", Some(&body));
            events.await_named(until);
            let cancelled = Instant::now();
            worker.post("/v1/cancel", &json!({"request_id": "mine"}));
            let end = events.await_named("end");
            assert_eq!(end["finish_reason"], "cancelled");
            if until == "started" {
                assert_eq!(end["total_tokens"], 0, "it was cancelled before its prompt was read");
            }
            assert_eq!(worker.free_slots(), 8);
            cancelled.elapsed()
        });
    }
}

#[test]
fn a_caller_that_leaves_frees_its_slot() {
    let model = slow_model();
    let worker = Worker::ready(&model.path, &["--slots", "1"]);
    for (body, until) in [(long_prompt(), "started"), (endless(), "token")] {
        promptly(until, || {
            let mut events = worker.events("/v1/execute", Some(&body));
            events.await_named(until);
            assert_eq!(worker.free_slots(), 0);
            events.leave();
            wait_until("free", || worker.free_slots() == 1)
        });
    }
    let mut plain = long_prompt();
    plain["stream"] = json!(false);
    promptly("without a stream", || {
        let connection = worker.open("/v1/execute", &plain);
        wait_until("busy", || worker.free_slots() == 0);
        drop(connection);
        wait_until("free", || worker.free_slots() == 1)
    });
}

#[test]
fn told_to_stop_if_idle_a_busy_worker_goes_on_and_an_idle_one_stops() {
    let model = slow_model();
    let mut worker = Worker::ready(&model.path, &[]);
    let mut events = worker.events("/v1/execute", Some(&endless()));
    events.await_named("token");
    let refusal = worker.post("/v1/admin/shutdown?if_idle=true", &json!({})).json();
    assert_eq!(refusal["error"]["code"], "ALL_SLOTS_BUSY");
    events.await_named("token");
    events.leave();
    wait_until("free", || worker.free_slots() == 8);
    assert_eq!(worker.post("/v1/admin/shutdown?if_idle=true", &json!({})).json()["state"], "stopping");
    assert_eq!(worker.wait().code(), Some(0));
}

#[test]
fn a_cancel_is_answered_when_the_slot_is_free() {
    let model = slow_model();
    let worker = Worker::ready(&model.path, &["--slots", "1"]);
    for _ in 0..20 {
        let mut request = endless();
        request["request_id"] = json!("mine");
        let mut events = worker.events("/v1/execute", Some(&request));
        events.await_named("token");
        assert_eq!(worker.post("/v1/cancel", &json!({"request_id": "mine"})).json()["cancelled"], true);
        assert_eq!(worker.free_slots(), 1);
    }
}

#[test]
fn told_to_stop_it_ends_the_streams_with_an_error_and_itself_with_0() {
    let model = slow_model();
    for order in ["SIGTERM", "shutdown", "parent"] {
        let mut worker = Worker::ready(&model.path, &[]);
        let mut events = worker.events("/v1/execute", Some(&endless()));
        events.await_named("token");
        let told = Instant::now();
        match order {
            "SIGTERM" => worker.signal("TERM"),
            "shutdown" => {
                assert_eq!(worker.post("/v1/admin/shutdown", &json!({})).json()["state"], "stopping");
            }
            _ => worker.cut_lifeline(),
        }
        let error = events.await_named("error");
        assert_eq!(error["error"]["code"], "WORKER_SHUTTING_DOWN", "{order}");
        assert!(events.next().is_none(), "{order}: nothing comes after the error");
        assert_eq!(worker.wait().code(), Some(0), "{order}");
        assert!(told.elapsed() < Duration::from_secs(5), "{order}: {:?}", told.elapsed());
    }
}

#[test]
fn it_can_be_stopped_while_it_loads() {
    let hive = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hive.local_addr().unwrap());
    let model = tiny_model("llama");
    let mut worker = Worker::listening(&model.path, &["--hive-url", &url]);
    worker.signal("TERM");
    assert_eq!(worker.wait().code(), Some(0));
}
