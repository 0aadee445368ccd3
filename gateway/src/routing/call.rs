//! What belongs to one call of a script: its time, and what it did. A script runs on one thread from begin to end, which
//! is where this lies meanwhile.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use protocol::routing::RoutingStep;
use rhai::Position;

use super::rules::Rules;

/// A script may run so long.
pub(super) const TIME: Duration = Duration::from_millis(50);
/// Steps and notes that are kept.
const KEPT: usize = 64;
/// Characters of a note that are kept.
const NOTE_CHARS: usize = 500;

/// What a script did.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) steps: Vec<RoutingStep>,
    pub(super) notes: Vec<String>,
}

impl Trace {
    /// This, and then that.
    pub(super) fn then(mut self, later: Self) -> Self {
        self.steps.extend(later.steps);
        self.notes.extend(later.notes);
        self.steps.truncate(KEPT);
        self.notes.truncate(KEPT);
        self
    }
}

/// Whose turn it is, for each place of a script and each model; some may share a count.
#[derive(Debug)]
pub(super) struct Turns([AtomicUsize; 64]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicUsize::new(0)))
    }
}

/// What a script brings along.
#[derive(Debug, Clone, Default)]
pub(super) struct Baggage {
    pub(super) rules: Arc<Rules>,
    pub(super) turns: Arc<Turns>,
    /// Whether nothing comes of it, so that nobody's turn is over.
    pub(super) is_trial: bool,
}

struct Running {
    until: Instant,
    baggage: Baggage,
    model: Arc<str>,
    trace: Trace,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// Runs a script and tells what it did.
pub(super) fn traced<T>(baggage: Baggage, model: Arc<str>, script: impl FnOnce() -> T) -> (T, Trace) {
    let until = Instant::now() + TIME;
    RUNNING.set(Some(Running { until, baggage, model, trace: Trace::default() }));
    let outcome = script();
    let trace = RUNNING.take().map(|running| running.trace).unwrap_or_default();
    (outcome, trace)
}

/// Whether the script that runs here has had its time.
pub(super) fn is_over() -> bool {
    RUNNING.with_borrow(|running| running.as_ref().is_some_and(|running| Instant::now() >= running.until))
}

/// Notes a step over a list.
pub(super) fn step(step: impl FnOnce() -> RoutingStep) {
    with(|trace| {
        if trace.steps.len() < KEPT {
            trace.steps.push(step());
        }
    });
}

/// Notes what the script logs.
pub(super) fn note(level: &str, text: &str) {
    with(|trace| {
        if trace.notes.len() < KEPT {
            let text: String = text.chars().take(NOTE_CHARS).collect();
            trace.notes.push(format!("{level}: {text}"));
        }
    });
}

/// Asks the rules of the script that runs here.
pub(super) fn with_rules<T>(ask: impl FnOnce(&Rules) -> T) -> Option<T> {
    RUNNING.with_borrow(|running| running.as_ref().map(|running| ask(&running.baggage.rules)))
}

/// The next turn at this place of the script, for the model at hand.
pub(super) fn turn(place: Position) -> usize {
    static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    RUNNING.with_borrow(|running| {
        running.as_ref().map_or(0, |Running { baggage, model, .. }| {
            let hash = HASHES.hash_one((place.line(), place.position(), model)) as usize;
            let turn = &baggage.turns.0[hash % baggage.turns.0.len()];
            if baggage.is_trial { turn.load(Ordering::Relaxed) } else { turn.fetch_add(1, Ordering::Relaxed) }
        })
    })
}

fn with(change: impl FnOnce(&mut Trace)) {
    RUNNING.with_borrow_mut(|running| {
        if let Some(running) = running {
            change(&mut running.trace);
        }
    });
}
