//! Runs one target: makes inputs, watches what each does, keeps those that were answered in a new way.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::MEMORY;

/// Inputs of each target under `cargo test`.
const SHORT_RUN: usize = 2_000;
/// Inputs that were answered in a new way; among more, the useful ones would be lost.
const CORPUS_MAX: usize = 2_000;
/// Bytes of an input at most; the header of a real model fits.
const INPUT_BYTES_MAX: usize = 1 << 20;
/// A run that found this much has shown enough.
const FINDINGS_MAX: usize = 5;
/// An input that takes longer than this never ends.
const HANG: Duration = Duration::from_mins(1);

/// What an input may cost.
pub struct Limits {
    /// Bytes of memory for each byte of input.
    pub memory_factor: usize,
    /// Bytes of memory besides.
    pub memory_bytes: usize,
    /// Time for one input on an idle machine.
    pub time: Duration,
}

/// Something that can be altered and handed to a target.
pub trait Input: Clone {
    /// A changed copy; `other` is another input to take parts from.
    fn altered(&self, other: &Self, rng: &mut Rng) -> Self;
    /// What the target is given.
    fn bytes(&self) -> Vec<u8>;
}

/// Leave to run a target. Memory is counted for the whole process, so others do not even make their seeds meanwhile.
pub struct Alone {
    _guard: MutexGuard<'static, ()>,
}

/// Waits until no other target runs.
pub fn alone() -> Alone {
    static ALONE: Mutex<()> = Mutex::new(());
    Alone { _guard: ALONE.lock().unwrap_or_else(PoisonError::into_inner) }
}

/// Runs a target, which answers what it made of its input, and fails if there is any finding.
pub fn fuzz<I: Input>(
    _alone: &Alone,
    name: &str,
    seeds: Vec<I>,
    limits: &Limits,
    target: impl Fn(&[u8]) -> Result<(), String>,
) {
    let seconds: Option<u64> = std::env::var("RBEE_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let seed = seconds.map_or(0, |_| fastrand::u64(..));
    let mut run =
        Run { name, limits, rng: Rng::with_seed(seed), answers: HashSet::new(), worst: Worst::default() };
    let watchdog = Watchdog::new(name);
    let begun = Instant::now();
    let mut corpus = seeds;
    let mut findings = Vec::new();
    let mut executions = 0usize;
    let mut next_seed = 0;
    // Writing a backtrace would count as memory of the input that panics, and a reader may catch its own panics.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    loop {
        let done = match seconds {
            Some(seconds) => begun.elapsed().as_secs() >= seconds,
            None => executions >= SHORT_RUN,
        };
        if done || findings.len() >= FINDINGS_MAX {
            break;
        }
        let input = if next_seed < corpus.len() && executions == next_seed {
            next_seed += 1;
            corpus[executions].clone()
        } else {
            run.make(&corpus)
        };
        let bytes = input.bytes();
        watchdog.begin(&bytes);
        executions += 1;
        match run.one(&bytes, &target) {
            Ok(is_new) if is_new && corpus.len() < CORPUS_MAX => corpus.push(input),
            Ok(_) => {}
            Err(what) => findings.push(format!("{what}\n    input: {}", save(name, &bytes).display())),
        }
    }
    watchdog.end();
    std::panic::set_hook(hook);
    println!(
        "{name}: {executions} inputs in {:.1} s, {} ways of answering, {} findings; most memory {}, longest {:.1} ms (seed {seed})",
        begun.elapsed().as_secs_f64(),
        run.answers.len(),
        findings.len(),
        run.worst.memory,
        run.worst.time.as_secs_f64() * 1e3,
    );
    assert!(findings.is_empty(), "{name}: {} findings:\n{}", findings.len(), findings.join("\n"));
}

#[derive(Default)]
struct Worst {
    /// In words, with the share of what was allowed.
    memory: String,
    share: f64,
    time: Duration,
}

struct Run<'a> {
    name: &'a str,
    limits: &'a Limits,
    rng: Rng,
    answers: HashSet<String>,
    worst: Worst,
}

impl Run<'_> {
    /// Alters one of the inputs a few times: mostly once or twice, seldom many times.
    fn make<I: Input>(&mut self, corpus: &[I]) -> I {
        let pick = |rng: &mut Rng| corpus[rng.usize(..corpus.len())].clone();
        let mut input = pick(&mut self.rng);
        loop {
            let other = pick(&mut self.rng);
            let altered = input.altered(&other, &mut self.rng);
            // Parts that are copied into each other would grow without end.
            if altered.bytes().len() <= INPUT_BYTES_MAX {
                input = altered;
            }
            if self.rng.u8(..) < 120 {
                return input;
            }
        }
    }

    /// Whether the input was answered in a new way, or else what is wrong.
    fn one(&mut self, bytes: &[u8], target: impl Fn(&[u8]) -> Result<(), String>) -> Result<bool, String> {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(bytes)));
        let time = begun.elapsed();
        let memory = MEMORY.peak_usage().saturating_sub(before);
        let allowed = self.limits.memory_factor * bytes.len() + self.limits.memory_bytes;
        let share = memory as f64 / allowed as f64;
        if share > self.worst.share {
            self.worst.share = share;
            self.worst.memory =
                format!("{memory} bytes for {} ({:.0} % of what is allowed)", bytes.len(), share * 100.0);
        }
        self.worst.time = self.worst.time.max(time);
        let answer = outcome.map_err(|panic| format!("{}: panic: {}", self.name, words(&*panic)))?;
        if memory > allowed {
            return Err(format!(
                "{}: {memory} bytes of memory for {} bytes of input",
                self.name,
                bytes.len()
            ));
        }
        // Others may be at work on the machine, so only what is far beyond the limit is sure.
        if time > self.limits.time * 10 {
            return Err(format!("{}: {time:?} for {} bytes of input", self.name, bytes.len()));
        }
        let answer = answer.err().unwrap_or_default();
        let shape: String = answer.chars().filter(char::is_ascii_alphabetic).take(60).collect();
        Ok(self.answers.insert(shape))
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn save(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(format!("{name}-{:016x}", fastrand::u64(..)));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The input at work, and since when.
type Running = (Instant, Vec<u8>);

/// Ends the process when an input does not end, and leaves that input behind.
struct Watchdog {
    name: String,
    running: Arc<Mutex<Option<Running>>>,
}

impl Watchdog {
    fn new(name: &str) -> Self {
        let running = Arc::new(Mutex::new(None::<(Instant, Vec<u8>)>));
        let (watched, owned) = (running.clone(), name.to_owned());
        std::thread::spawn(move || {
            while Arc::strong_count(&watched) > 1 {
                std::thread::sleep(Duration::from_millis(200));
                if let Some((since, bytes)) = &*watched.lock().unwrap()
                    && since.elapsed() > HANG
                {
                    eprintln!("{owned}: no end after {HANG:?}; input: {}", save(&owned, bytes).display());
                    std::process::abort();
                }
            }
        });
        Self { name: name.to_owned(), running }
    }

    fn begin(&self, bytes: &[u8]) {
        // A stack that overflows ends the process at once; this file then holds what did it.
        std::fs::write(folder().join(format!("{}-last", self.name)), bytes).unwrap();
        *self.running.lock().unwrap() = Some((Instant::now(), bytes.to_vec()));
    }

    fn end(&self) {
        *self.running.lock().unwrap() = None;
    }
}
