//! ARCHITECTURE.md's edges and rules, checked against the sources.

#![expect(clippy::unwrap_used, reason = "a test tells by failing")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file that grows beyond this is two.
const LONGEST_FILE_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The workspace's crates by folder, and which of them each may use.
const EDGES: [(&str, &[&str]); 10] = [
    ("protocol", &[]),
    ("daemon", &["protocol"]),
    ("client", &["protocol"]),
    ("gateway", &["client", "daemon", "protocol"]),
    ("hive-agent", &["client", "daemon", "protocol"]),
    ("worker", &["daemon", "kernels", "protocol"]),
    ("worker/kernels", &[]),
    ("keeper", &["client", "daemon", "protocol"]),
    ("compat-tests", &["client", "protocol"]),
    ("bench/load", &["protocol"]),
];

/// The names in a manifest's `[dependencies]`.
fn dependencies(folder: &str) -> Vec<String> {
    let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| Some(line.split(['.', ' ', '=']).next()?.to_owned()))
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// All source files of the given crates, as paths from the root, with their code lines (comments left out).
fn sources(folders: &[&str]) -> BTreeMap<String, Vec<String>> {
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        (name, text.lines().filter(is_code).map(str::to_owned).collect())
    };
    folders.iter().flat_map(|folder| rust_files(&root().join(folder).join("src"))).map(read).collect()
}

/// Whether a path leads through a module of this name.
fn is_under(path: &str, module: &str) -> bool {
    path.split('/').any(|part| part == module || part.strip_suffix(".rs") == Some(module))
}

/// Fails with every line that holds one of `words` outside the modules where they belong.
fn check_home(folders: &[&str], words: &[&str], homes: &[&str]) {
    let sources = sources(folders);
    assert!(!sources.is_empty());
    let strays: Vec<String> = sources
        .iter()
        .filter(|(path, _)| !homes.iter().any(|home| is_under(path, home)))
        .flat_map(|(path, lines)| lines.iter().map(move |line| format!("{path}: {}", line.trim())))
        .filter(|line| {
            words.iter().any(|word| line.split_once(": ").is_some_and(|(_, code)| code.contains(word)))
        })
        .collect();
    assert!(strays.is_empty(), "{words:?} belong under {homes:?} only:\n{}", strays.join("\n"));
}

#[test]
fn no_crate_uses_one_that_it_must_not() {
    let name = |folder: &'static str| folder.rsplit('/').next().unwrap_or(folder);
    let members: Vec<&str> = EDGES.iter().map(|(folder, _)| name(folder)).collect();
    for (folder, allowed) in EDGES {
        let used: Vec<String> =
            dependencies(folder).into_iter().filter(|name| members.contains(&name.as_str())).collect();
        let forbidden: Vec<&String> = used.iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(forbidden.is_empty(), "{folder} must not use {forbidden:?}");
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let declared =
        manifest.lines().find(|line| line.starts_with("members")).unwrap().matches('"').count() / 2;
    assert_eq!(declared, EDGES.len(), "a crate of the workspace is missing in this test");
}

#[test]
fn the_wire_types_import_serde_and_utoipa_only() {
    assert_eq!(dependencies("protocol"), ["serde", "serde_json", "utoipa"]);
}

#[test]
fn http_stays_behind_the_door() {
    check_home(&["gateway", "hive-agent", "worker"], &["axum", "StatusCode"], &["http"]);
}

#[test]
fn the_environment_is_read_in_config_only() {
    let reading = ["env::var", "env::vars", "env::home_dir", "env = \""];
    check_home(
        &["protocol", "daemon", "client", "gateway", "hive-agent", "worker", "keeper"],
        &reading,
        &["config"],
    );
}

#[test]
fn sql_scripts_and_ssh_have_one_home_each() {
    let daemons = ["daemon", "client", "gateway", "hive-agent", "worker", "keeper"];
    check_home(&daemons, &["sqlx"], &["store"]);
    check_home(&daemons, &["rhai"], &["routing"]);
    check_home(&daemons, &["russh"], &["ssh"]);
}

#[test]
fn unsafe_code_has_two_homes() {
    let all = [
        "protocol",
        "daemon",
        "client",
        "gateway",
        "hive-agent",
        "worker",
        "keeper",
        "compat-tests",
        "bench/load",
    ];
    check_home(&all, &["unsafe {", "unsafe fn", "unsafe impl"], &["kernels", "mmap"]);
}

#[test]
fn files_stay_readable() {
    let all = EDGES.map(|(folder, _)| folder);
    let long: Vec<String> = sources(&all)
        .into_iter()
        .filter(|(_, lines)| lines.len() > LONGEST_FILE_LINES)
        .map(|(path, lines)| format!("{path}: {} lines of code", lines.len()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
