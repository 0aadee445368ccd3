//! What a worker takes of the machine.

use crate::oracle::model_path;
use crate::process::Worker;

/// A loaded model may hold this many hundredths of its file's size, keys and values aside.
const RESIDENT_PERCENT: u64 = 160;

#[test]
fn a_loaded_model_takes_little_more_than_its_file() {
    let model = model_path("smollm2-135m-instruct.gguf");
    let file = model.metadata().unwrap().len();
    let worker = Worker::ready(&model, &["--context-limit", "2048"]);
    let resident = resident_bytes(worker.id());
    println!("{resident} bytes, the file {file}");
    assert!(resident > file / 2, "{resident} bytes hold no model of {file}");
    let limit = file * RESIDENT_PERCENT / 100;
    assert!(resident <= limit, "{resident} bytes for a file of {file}; {limit} are allowed");
}

/// Memory that a process holds now.
fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
