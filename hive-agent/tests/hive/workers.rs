//! /v1/workers and /v1/events: a worker's life as a queen sees it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use client::HttpClient;
use client::hive::HiveClient;
use protocol::ErrorCode;
use protocol::hive::{HiveEvent, WorkerReady};
use protocol::worker::{Backend, LoadStage, WorkerState};
use rustix::process::Signal;

use crate::rig::{Hive, api_error, command, eventually, is_alive, output};

fn is_ready(worker: &protocol::hive::WorkerInfo) -> bool {
    worker.state == WorkerState::Idle
}

#[tokio::test]
async fn a_worker_comes_up_is_listed_and_goes_when_told() {
    let hive = Hive::start(&[]);
    let health = hive.client.health().await.unwrap();
    assert_eq!(
        (health.status.as_str(), format!("http://127.0.0.1:{}", health.port)),
        ("ready", hive.url.clone())
    );
    let mut watch = hive.watch().await;
    let model = hive.model("plain");
    let spawned = hive.spawn(&model).await;
    assert_eq!((spawned.state, spawned.loading.stage), (WorkerState::Loading, LoadStage::Starting));
    let ready = watch.worker(&spawned.id, is_ready).await;
    assert_eq!((ready.slots_total, ready.slots_available, ready.context_length), (2, 2, 2048));
    assert_eq!(ready.loading.stage, LoadStage::Ready);
    assert!(is_alive(ready.pid.unwrap()));
    assert_eq!(hive.client.workers().await.unwrap().workers, std::slice::from_ref(&ready));
    let used = watch.model(&model, |entry| entry.last_used_at.is_some()).await;
    assert!(used.downloaded);
    assert!(hive.client.models().await.unwrap().models.contains(&used));

    hive.client.shutdown_worker(&ready.id).await.unwrap();
    watch.removal(&ready.id).await;
    assert!(!is_alive(ready.pid.unwrap()));
    assert_eq!(hive.client.workers().await.unwrap().workers, []);
    assert_eq!(
        api_error(hive.client.shutdown_worker(&ready.id).await.unwrap_err()).code,
        ErrorCode::WorkerNotFound
    );
}

#[tokio::test]
async fn orders_that_cannot_be_met_are_refused_at_once() {
    let hive = Hive::start(&[]);
    let model = hive.model("plain");
    let error = hive.try_spawn(&model, Backend::Metal).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::BackendNotAvailable);
    assert!(error.message.contains("Usable here: cpu"), "{error}");
    for (reference, code) in [
        ("no-such-model", ErrorCode::ModelNotFound),
        ("file:/no/such/file.gguf", ErrorCode::ModelNotFound),
        ("file:relative.gguf", ErrorCode::InvalidRequest),
        ("../escape", ErrorCode::InvalidRequest),
        ("hf:org/model", ErrorCode::UnsupportedParameter),
    ] {
        assert_eq!(hive.try_spawn(reference, Backend::Cpu).await.unwrap_err().code, code, "{reference}");
    }
    let huge = hive.dir.path().join("huge.gguf");
    std::fs::File::create(&huge).unwrap().set_len(1 << 42).unwrap();
    let error = hive.try_spawn(&format!("file:{}", huge.display()), Backend::Cpu).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InsufficientMemory);
    assert!(error.details["required_bytes"].as_u64() > error.details["available_bytes"].as_u64());
    assert_eq!(hive.client.workers().await.unwrap().workers, []);
}

#[tokio::test]
async fn a_failed_load_is_final_and_the_worker_says_why() {
    let hive = Hive::start(&[]);
    let mut watch = hive.watch().await;
    let model = hive.model("fail");
    let first = hive.spawn(&model).await;
    let failed = watch.worker(&first.id, |worker| worker.state == WorkerState::Stopped).await;
    let error = failed.error.unwrap();
    assert_eq!(error.code, ErrorCode::UnsupportedModel);
    assert_eq!(error.message, "the family 'hologram' is not known here");
    assert!(error.details["log_tail"].as_str().unwrap().contains("fake worker on"));
    assert_eq!((failed.restarts, failed.pid), (0, None));
    // The next attempt takes the place of the failed one.
    let second = hive.spawn(&model).await;
    watch.removal(&first.id).await;
    watch.worker(&second.id, |worker| worker.state == WorkerState::Stopped).await;
    hive.client.shutdown_worker(&second.id).await.unwrap();
    watch.removal(&second.id).await;
}

#[tokio::test]
async fn a_crashed_worker_is_started_again_as_a_new_run() {
    let hive = Hive::start(&[]);
    let mut watch = hive.watch().await;
    let worker = hive.spawn(&hive.model("crash")).await;
    let waiting = watch.worker(&worker.id, |worker| worker.restarts == 1).await;
    assert_eq!((waiting.state, waiting.pid), (WorkerState::Loading, None));
    let error = waiting.error.unwrap();
    assert_eq!(error.code, ErrorCode::WorkerLost);
    assert!(error.message.contains("exit code 3"), "{error}");
    assert!((1_000..=2_000).contains(&error.retry_after_ms.unwrap()));
    let again = watch.worker(&worker.id, |worker| worker.restarts == 1 && is_ready(worker)).await;
    assert_ne!(again.boot_id, worker.boot_id);
    assert_eq!(again.error, None);
    let stale = WorkerReady {
        worker_id: worker.id.clone(),
        boot_id: waiting.boot_id,
        port: 1,
        model: String::new(),
        pid: 1,
        state: WorkerState::Loading,
    };
    assert_eq!(
        api_error(hive.client.report_ready(&stale).await.unwrap_err()).code,
        ErrorCode::WorkerMismatch
    );
}

#[tokio::test]
async fn an_idle_worker_is_stopped_and_a_busy_one_is_not() {
    let hive = Hive::start(&["--idle-timeout-seconds", "1"]);
    let mut watch = hive.watch().await;
    let busy = hive.spawn(&hive.model("busy")).await;
    let idle = hive.spawn(&hive.model("plain")).await;
    watch.removal(&idle.id).await;
    let left = hive.client.workers().await.unwrap().workers;
    assert_eq!(left.iter().map(|worker| &worker.id).collect::<Vec<_>>(), [&busy.id]);
}

#[tokio::test]
async fn each_worker_has_a_port_of_its_own_and_a_taken_one_is_refused() {
    let hive = Hive::start(&[]);
    let model = hive.model("plain");
    let (first, second) = (hive.spawn(&model).await, hive.spawn(&model).await);
    assert_ne!(first.url, second.url);
    let port = first.url.rsplit(':').next().unwrap().parse().unwrap();
    let request = protocol::hive::SpawnRequest {
        model,
        backend: Backend::Cpu,
        gpu: None,
        slots: None,
        port: Some(port),
    };
    let error = api_error(hive.client.spawn_worker(&request).await.unwrap_err());
    assert_eq!(error.param.as_deref(), Some("port"));
}

#[tokio::test]
async fn a_worker_whose_port_is_snatched_gets_the_next_one() {
    let hive = Hive::start(&[]);
    let mut watch = hive.watch().await;
    let spawned = hive.spawn(&hive.model("snatched")).await;
    let ready = watch.worker(&spawned.id, is_ready).await;
    assert_ne!(ready.url, spawned.url);
    assert_eq!(ready.restarts, 0);
}

#[tokio::test]
async fn a_stopped_hive_takes_its_workers_along_those_that_do_not_listen_included() {
    let mut hive = Hive::start(&[]);
    let mut watch = hive.watch().await;
    let mut pids = Vec::new();
    for words in ["plain", "stubborn", "busy"] {
        let worker = hive.spawn(&hive.model(words)).await;
        pids.push(watch.worker(&worker.id, is_ready).await.pid.unwrap());
    }
    let start = Instant::now();
    hive.signal(Signal::TERM);
    let status = hive.process.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
}

#[tokio::test]
async fn a_killed_hive_leaves_no_worker_behind() {
    let mut hive = Hive::start(&[]);
    let mut watch = hive.watch().await;
    let worker = hive.spawn(&hive.model("plain")).await;
    let pid = watch.worker(&worker.id, is_ready).await.pid.unwrap();
    hive.signal(Signal::KILL);
    hive.process.wait().unwrap();
    eventually("the worker ends with its lifeline", || !is_alive(pid)).await;
}

#[tokio::test]
async fn a_hive_whose_parent_is_gone_ends() {
    let mut hive = Hive::start(&[]);
    let mut watch = hive.watch().await;
    let worker = hive.spawn(&hive.model("plain")).await;
    let pid = watch.worker(&worker.id, is_ready).await.pid.unwrap();
    drop(hive.process.stdin.take());
    assert!(hive.process.wait().unwrap().success());
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn events_go_on_where_a_reader_left_off() {
    let hive = Hive::start(&[]);
    let mut watch = hive.watch().await;
    let (snapshot, first) = watch.next().await;
    let HiveEvent::Snapshot(snapshot) = snapshot else { panic!("{snapshot:?} came before the snapshot") };
    assert_eq!(snapshot.backends, [Backend::Cpu]);
    assert_eq!(snapshot.boot_id, hive.client.health().await.unwrap().boot_id);
    let worker = hive.spawn(&hive.model("plain")).await;
    let mut seen = Vec::new();
    loop {
        let (event, number) = watch.next().await;
        assert_eq!(number, first + 1 + seen.len() as u64, "numbers rise by one");
        let is_last = matches!(&event, HiveEvent::Worker(worker) if is_ready(worker));
        seen.push(event);
        if is_last {
            break;
        }
    }
    let mut resumed = hive.client.events(Some(&first.to_string())).await.unwrap();
    for event in seen {
        assert_eq!(resumed.next().await.unwrap().unwrap().0, event);
    }
    drop(resumed);
    for of_another_run in ["3", "99999999999999999", "not a number"] {
        let mut stream = hive.client.events(Some(of_another_run)).await.unwrap();
        let (event, _) = stream.next().await.unwrap().unwrap();
        let HiveEvent::Snapshot(snapshot) = event else { panic!("{event:?} after {of_another_run}") };
        assert_eq!(snapshot.workers[0].id, worker.id);
    }
}

#[tokio::test]
async fn a_token_guards_everything_but_health_and_the_callback() {
    let hive = Hive::start(&["--token", "s3cret"]);
    assert!(hive.client.health().await.is_ok());
    assert_eq!(api_error(hive.client.workers().await.unwrap_err()).code, ErrorCode::InvalidApiKey);
    let knowing = HiveClient::new(HttpClient::new(&hive.url).with_token("s3cret"));
    assert!(knowing.workers().await.is_ok());
    let mut watch = crate::rig::Watch(knowing.events(None).await.unwrap());
    let request = protocol::hive::SpawnRequest {
        model: hive.model("plain"),
        backend: Backend::Cpu,
        gpu: None,
        slots: None,
        port: None,
    };
    let worker = knowing.spawn_worker(&request).await.unwrap();
    watch.worker(&worker.id, is_ready).await;
}

#[tokio::test]
async fn a_second_hive_on_the_same_data_is_refused() {
    let hive = Hive::start(&[]);
    let second = output(hive.dir.path(), &["daemon", "--port", "0"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&hive.url) && said.contains("--data-dir"), "{said}");
}

#[tokio::test]
async fn the_command_line_starts_lists_and_ends_workers() {
    let hive = Hive::start(&[]);
    let mut watch = hive.watch().await;
    let model = hive.model("plain");
    let dir = hive.dir.path();
    let spawned = output(dir, &["worker", "spawn", "cpu", "--model", &model, "--json"]);
    let spawned: protocol::hive::WorkerInfo = serde_json::from_slice(&spawned.stdout).unwrap();
    let pid = watch.worker(&spawned.id, is_ready).await.pid.unwrap().to_string();
    let listed = String::from_utf8(output(dir, &["worker", "list"]).stdout).unwrap();
    assert!(listed.contains(&pid) && listed.contains("idle"), "{listed}");
    assert!(output(dir, &["worker", "kill", &pid]).status.success());
    watch.removal(&spawned.id).await;
    assert_eq!(output(dir, &["worker", "kill", &pid]).status.code(), Some(1));
    let detected = output(dir, &["detect", "--json"]);
    let detected: protocol::hive::Detection = serde_json::from_slice(&detected.stdout).unwrap();
    assert!(detected.backends.iter().any(|report| report.backend == Backend::Cpu && report.available));
    let usage =
        command(dir).args(["worker", "spawn", "abacus", "--model", "x"]).stderr(Stdio::null()).status();
    assert_eq!(usage.unwrap().code(), Some(2));
}
