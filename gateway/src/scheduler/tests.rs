//! The queue against a fleet that the tests make up: what it gives out, what it counts, what it refuses.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use proptest::prelude::*;
use protocol::hive::{HiveEvent, HiveSnapshot, ModelEntry, ModelKind, Provider, WorkerInfo};
use protocol::worker::{Backend, LoadProgress, LoadStage, WorkerState};
use protocol::{ApiError, ErrorCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::policy::Why;
use super::roster::ASKED_AGAIN_EVERY;
use super::starts::Wanted;
use super::{
    Bound, Bounds, Demand, Effect, Lease, Mode, Placement, Scheduler, StartPolicy, Started, Ticket,
    TicketEvent, Used,
};
use crate::hives::{Fleet, NodeName};
use protocol::task::Priority;

pub(super) fn model(reference: &str) -> ModelEntry {
    ModelEntry {
        reference: reference.into(),
        sha256: None,
        provider: Provider::Pip,
        kind: ModelKind::TextGen,
        size_bytes: 1,
        downloaded: true,
        downloaded_at: None,
        last_used_at: None,
    }
}

pub(super) fn worker(id: &str, state: WorkerState, slots_total: u32) -> WorkerInfo {
    WorkerInfo {
        id: id.into(),
        boot_id: format!("boot of {id}").into(),
        url: "http://127.0.0.1:1".into(),
        pid: None,
        model_ref: "m".into(),
        backend: Backend::Cpu,
        device: None,
        state,
        slots_total,
        slots_available: slots_total,
        context_length: 2048,
        loading: LoadProgress { stage: LoadStage::Ready, progress: 1.0, bytes_loaded: 1, bytes_total: 1 },
        restarts: 0,
        error: None,
    }
}

fn fleet(workers: Vec<WorkerInfo>) -> Fleet {
    let mut fleet = Fleet::default();
    let snapshot =
        HiveSnapshot { boot_id: "b".into(), workers, models: vec![model("m")], backends: vec![Backend::Cpu] };
    fleet.change(&NodeName::from("local"), |node| node.apply(HiveEvent::Snapshot(snapshot)));
    fleet
}

pub(super) fn policy(queue_limit: usize) -> StartPolicy {
    let bounds = Bounds { all: Bound { requests: queue_limit, bytes: 1 << 20 } };
    StartPolicy { backend: Backend::Cpu, gpu: None, bounds, pinned: vec!["pinned".to_owned()] }
}

pub(super) fn demand(key: &str) -> Demand {
    Demand {
        model: "m".into(),
        priority: Priority::Interactive,
        key: key.into(),
        placement: Placement::default(),
        deadline: None,
        prompt_tokens: 10,
        answer_tokens_max: Some(20),
        bytes: 40,
        beginnings: Arc::default(),
        avoid: None,
        arrival: None,
    }
}

/// A scheduler whose task is the test.
struct Bench {
    scheduler: Scheduler,
    fleet: watch::Sender<Fleet>,
}

impl Bench {
    fn new(queue_limit: usize) -> Self {
        let policy = policy(queue_limit);
        let (fleet, watched) = watch::channel(Fleet::default());
        Self { scheduler: Scheduler::new(watched, policy), fleet }
    }

    fn acquire(&self, priority: Priority, fleet: &Fleet) -> Result<Ticket, ApiError> {
        self.fleet.send_replace(fleet.clone());
        self.scheduler.acquire(Demand { priority, ..demand("anyone") })
    }

    fn ask(&self, demand: Demand, fleet: &Fleet) -> Result<Ticket, ApiError> {
        self.fleet.send_replace(fleet.clone());
        self.scheduler.acquire(demand)
    }

    fn settle(&self, fleet: &Fleet) -> usize {
        self.effects(fleet).len()
    }

    fn effects(&self, fleet: &Fleet) -> Vec<Effect> {
        self.effects_at(fleet, Instant::now())
    }

    fn effects_at(&self, fleet: &Fleet, now: Instant) -> Vec<Effect> {
        self.scheduler.shared.lock().dispatch(fleet, now)
    }

    fn started(&self, model: &str, outcome: Result<WorkerInfo, ApiError>) {
        let wanted = Wanted { model: model.into(), node: None };
        self.scheduler.shared.lock().started(Started { wanted, outcome }, Instant::now());
    }

    fn depth(&self) -> u32 {
        self.scheduler.load().depth
    }
}

/// What became of a ticket, if anything did.
fn outcome(ticket: &mut Ticket) -> Option<Result<Lease, ApiError>> {
    loop {
        match ticket.next().now_or_never()? {
            TicketEvent::Waiting(_) => {}
            TicketEvent::Granted(lease) => return Some(Ok(lease)),
            TicketEvent::Refused(error) => return Some(Err(error)),
        }
    }
}

#[test]
fn higher_bands_are_served_first_and_arrival_decides_within_one() {
    let fleet = fleet(vec![worker("w", WorkerState::Idle, 1)]);
    let bench = Bench::new(10);
    let mut running = outcome(&mut bench.acquire(Priority::Batch, &fleet).unwrap());
    let order = [Priority::Batch, Priority::Interactive, Priority::High, Priority::Interactive];
    let mut waiting: Vec<_> =
        order.into_iter().map(|priority| bench.acquire(priority, &fleet).unwrap()).enumerate().collect();
    let mut served = Vec::new();
    while !waiting.is_empty() {
        drop(running.take());
        bench.settle(&fleet);
        let granted: Vec<_> = waiting
            .extract_if(.., |(_, ticket)| {
                outcome(ticket).is_some_and(|lease| running.replace(lease).is_none())
            })
            .collect();
        assert_eq!(granted.len(), 1, "one slot, one lease at a time");
        served.push(granted[0].0);
    }
    assert_eq!(served, [2, 1, 3, 0]);
}

#[test]
fn who_comes_does_not_pass_who_waits_for_the_slot_that_has_just_become_free() {
    let fleet = fleet(vec![worker("w", WorkerState::Idle, 1)]);
    let bench = Bench::new(10);
    let running = outcome(&mut bench.acquire(Priority::Interactive, &fleet).unwrap());
    let mut first = bench.acquire(Priority::Interactive, &fleet).unwrap();
    drop(running);
    let mut second = bench.acquire(Priority::Interactive, &fleet).unwrap();
    bench.settle(&fleet);
    assert!(outcome(&mut second).is_none());
    assert!(outcome(&mut first).unwrap().is_ok());
}

#[test]
fn a_slot_that_was_given_to_a_ticket_nobody_looked_at_comes_back_with_it() {
    let fleet = fleet(vec![worker("w", WorkerState::Idle, 1)]);
    let bench = Bench::new(10);
    let first = bench.acquire(Priority::Interactive, &fleet).unwrap();
    let second = bench.acquire(Priority::Interactive, &fleet).unwrap();
    drop(first);
    bench.settle(&fleet);
    drop(second);
    assert_eq!(bench.scheduler.load(), super::Load::default());
}

#[test]
fn a_cold_model_is_started_once_for_all_who_wait_and_its_failure_is_told_to_each() {
    let empty = fleet(Vec::new());
    let bench = Bench::new(10);
    let mut tickets: Vec<_> = (0..3).map(|_| bench.acquire(Priority::Interactive, &empty).unwrap()).collect();
    assert_eq!(bench.settle(&empty), 1);
    assert_eq!(bench.settle(&empty), 0);
    let loading = worker("w", WorkerState::Loading, 1);
    bench.started("m", Ok(loading.clone()));
    assert_eq!(bench.settle(&fleet(vec![loading])), 0);
    let mut failed = worker("w", WorkerState::Stopped, 1);
    failed.error = Some(ApiError::new(ErrorCode::ModelLoadFailed, "no"));
    bench.settle(&fleet(vec![failed]));
    for ticket in &mut tickets {
        assert_eq!(outcome(ticket).unwrap().err().unwrap().code, ErrorCode::ModelLoadFailed);
    }
    assert_eq!(bench.depth(), 0);
}

#[test]
fn a_full_queue_and_a_fleet_without_hives_refuse_at_once() {
    let busy = fleet(vec![worker("w", WorkerState::Idle, 0)]);
    let bench = Bench::new(2);
    let kept: Vec<_> = (0..2).map(|_| bench.acquire(Priority::Interactive, &busy).unwrap()).collect();
    assert_eq!(bench.acquire(Priority::Interactive, &busy).err().unwrap().code, ErrorCode::QueueFull);
    drop(kept);
    bench.settle(&busy);
    assert_eq!(bench.depth(), 0);
    assert_eq!(
        bench.acquire(Priority::Interactive, &Fleet::default()).err().unwrap().code,
        ErrorCode::HiveUnavailable
    );
}

#[test]
fn who_waits_is_told_the_place_and_who_does_not_has_none() {
    let fleet = fleet(vec![worker("w", WorkerState::Idle, 1)]);
    let bench = Bench::new(10);
    let mut first = bench.acquire(Priority::Interactive, &fleet).unwrap();
    assert_eq!(first.waiting().position, 0);
    bench.settle(&fleet);
    let lease = outcome(&mut first).unwrap().unwrap();
    let mut second = bench.acquire(Priority::Interactive, &fleet).unwrap();
    let third = bench.acquire(Priority::Interactive, &fleet).unwrap();
    bench.settle(&fleet);
    let news = second.next().now_or_never().expect("the first place is news to who waits in it");
    assert!(matches!(news, TicketEvent::Waiting(waiting) if waiting.position == 1));
    assert_eq!((second.waiting().position, third.waiting().position), (1, 2));
    drop(lease);
    bench.settle(&fleet);
    assert!(outcome(&mut second).is_some());
    assert_eq!(third.waiting().position, 1);
}

#[test]
fn a_link_that_breaks_for_a_moment_fails_nobody_who_waits() {
    let mut fleet = fleet(vec![worker("w", WorkerState::Idle, 0)]);
    let bench = Bench::new(10);
    let mut ticket = bench.acquire(Priority::Interactive, &fleet).unwrap();
    fleet.change(&NodeName::from("local"), |node| node.connected = false);
    bench.settle(&fleet);
    assert!(outcome(&mut ticket).is_none());
    assert_eq!(bench.acquire(Priority::Interactive, &fleet).err().unwrap().code, ErrorCode::HiveUnavailable);
}

fn granted(ticket: &mut Ticket) -> Lease {
    outcome(ticket).expect("it is settled").expect("it is granted")
}

#[test]
fn a_key_that_floods_does_not_delay_one_that_asks_once() {
    let fleet = fleet(vec![worker("w", WorkerState::Idle, 1)]);
    let bench = Bench::new(2000);
    let mut running = granted(&mut bench.ask(demand("flood"), &fleet).unwrap());
    let mut flood: Vec<_> = (0..1000).map(|_| bench.ask(demand("flood"), &fleet).unwrap()).collect();
    let mut once = bench.ask(demand("once"), &fleet).unwrap();
    assert_eq!(once.waiting().position, 1, "it has had nothing");
    running.note_used(Used { prompt_tokens: 10, answer_tokens: 20 });
    drop(running);
    bench.settle(&fleet);
    drop(granted(&mut once));
    bench.settle(&fleet);
    assert!(outcome(&mut flood[0]).is_some(), "the others come in their order");
}

#[test]
fn what_a_key_used_counts_and_not_what_it_was_taken_to_use() {
    let fleet = fleet(vec![worker("w", WorkerState::Idle, 1)]);
    let bench = Bench::new(10);
    let of = |key: &str, answer_tokens| {
        let mut lease = granted(&mut bench.ask(demand(key), &fleet).unwrap());
        lease.note_used(Used { prompt_tokens: 10, answer_tokens });
        drop(lease);
    };
    of("long", 1000);
    of("short", 1);
    let running = granted(&mut bench.ask(demand("another"), &fleet).unwrap());
    let mut long = bench.ask(demand("long"), &fleet).unwrap();
    let mut short = bench.ask(demand("short"), &fleet).unwrap();
    drop(running);
    bench.settle(&fleet);
    assert!(outcome(&mut long).is_none());
    granted(&mut short);
}

#[test]
fn of_one_key_the_earlier_deadline_is_served_first() {
    let fleet = fleet(vec![worker("w", WorkerState::Idle, 1)]);
    let bench = Bench::new(10);
    let running = granted(&mut bench.ask(demand("a"), &fleet).unwrap());
    let within = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
    let mut tickets = [None, within(1000), within(500)]
        .map(|deadline| bench.ask(Demand { deadline, ..demand("a") }, &fleet).unwrap());
    drop(running);
    for index in [2, 1, 0] {
        bench.settle(&fleet);
        drop(granted(&mut tickets[index]));
    }
}

#[test]
fn who_waits_long_in_a_low_band_rises_but_never_above_the_interactive() {
    let fleet = fleet(vec![worker("w", WorkerState::Idle, 1)]);
    let bench = Bench::new(100);
    let running = granted(&mut bench.ask(demand("a"), &fleet).unwrap());
    let mut low = bench.ask(Demand { priority: Priority::Low, ..demand("a") }, &fleet).unwrap();
    let mut batch = bench.ask(Demand { priority: Priority::Batch, ..demand("b") }, &fleet).unwrap();
    let later = Instant::now() + super::line::RISES_AFTER * 3;
    bench.effects_at(&fleet, later);
    let mut high = bench.ask(Demand { priority: Priority::High, ..demand("c") }, &fleet).unwrap();
    drop(running);
    bench.settle(&fleet);
    drop(granted(&mut high));
    bench.settle(&fleet);
    // Both are interactive by now, and what their keys have had is long ago.
    drop(granted(&mut low));
    bench.settle(&fleet);
    granted(&mut batch);
}

#[test]
fn each_bound_is_named_by_the_refusal() {
    let fleet = fleet(vec![worker("w", WorkerState::Idle, 0)]);
    let bench = Bench::new(4);
    let ask = |priority, bytes| bench.ask(Demand { priority, bytes, ..demand("a") }, &fleet);
    let label = |outcome: Result<Ticket, ApiError>| {
        let error = outcome.err().expect("there is no room");
        assert_eq!(error.code, ErrorCode::QueueFull);
        assert!(error.retry_after_ms.is_some_and(|retry| retry >= 1000));
        error.details["policy_label"].as_str().unwrap().to_owned()
    };
    let mut held = vec![ask(Priority::Batch, 1).unwrap(), ask(Priority::Batch, 1).unwrap()];
    assert_eq!(label(ask(Priority::Batch, 1)), "batch_requests");
    assert_eq!(label(ask(Priority::Low, (1 << 19) + 1)), "low_bytes");
    assert_eq!(label(ask(Priority::High, (1 << 20) - 1)), "bytes");
    held.push(ask(Priority::Background, 1).unwrap());
    held.push(ask(Priority::Interactive, 1).unwrap());
    // The background goes for what is more urgent, and nothing else does.
    held.push(ask(Priority::Interactive, 1).unwrap());
    assert_eq!(outcome(&mut held[2]).unwrap().err().unwrap().details["policy_label"], "shed");
    assert_eq!(label(ask(Priority::High, 1)), "requests");
    assert_eq!(bench.depth(), 4);
}

#[test]
fn a_prompt_goes_where_its_beginning_was_read_and_else_where_the_least_is_to_do() {
    let fleet = fleet(vec![worker("a", WorkerState::Idle, 4), worker("b", WorkerState::Idle, 4)]);
    let bench = Bench::new(10);
    let ask = |beginnings: &[u64], prompt_tokens| {
        let demand = Demand { beginnings: beginnings.into(), prompt_tokens, ..demand("k") };
        granted(&mut bench.ask(demand, &fleet).unwrap())
    };
    let first = ask(&[1, 2], 1000);
    let second = ask(&[5], 10);
    assert_ne!(first.worker.id, second.worker.id);
    assert_eq!(second.decision.why, Why::LeastOutstanding);
    let third = ask(&[1, 2, 3], 10);
    assert_eq!((&third.worker.id, third.decision.why), (&first.worker.id, Why::PrefixCache));
    let fourth = ask(&[9], 10);
    assert_eq!(fourth.worker.id, second.worker.id);
}

#[test]
fn a_failed_worker_is_avoided_while_there_is_another() {
    let fleet = fleet(vec![worker("a", WorkerState::Idle, 4), worker("b", WorkerState::Idle, 4)]);
    let bench = Bench::new(10);
    let first = granted(&mut bench.ask(demand("k"), &fleet).unwrap());
    let avoid = Some(first.worker.boot_id.clone());
    let beginnings: Arc<[u64]> = [1].into();
    let failed = first.worker.id.clone();
    drop(first);
    let again = Demand { beginnings, avoid, ..demand("k") };
    let second = granted(&mut bench.ask(again.clone(), &fleet).unwrap());
    assert_ne!(second.worker.id, failed);
    let alone = super::tests::fleet(vec![worker(failed.as_str(), WorkerState::Idle, 1)]);
    assert_eq!(granted(&mut bench.ask(again, &alone).unwrap()).worker.id, failed);
}

#[test]
fn who_wants_a_certain_worker_waits_for_it_and_who_prefers_it_does_not() {
    let fleet = fleet(vec![worker("a", WorkerState::Idle, 1), worker("b", WorkerState::Idle, 1)]);
    let bench = Bench::new(10);
    let ask = |mode, worker: &str| {
        let placement = Placement { mode, worker: Some(worker.into()), ..Placement::default() };
        bench.ask(Demand { placement, ..demand("k") }, &fleet)
    };
    let first = granted(&mut ask(Mode::Pin, "b").unwrap());
    assert_eq!((first.worker.id.as_str(), first.decision.why), ("b", Why::Pinned));
    let mut pinned = ask(Mode::Pin, "b").unwrap();
    bench.settle(&fleet);
    assert!(outcome(&mut pinned).is_none());
    let mut preferring = ask(Mode::Prefer, "b").unwrap();
    bench.settle(&fleet);
    assert_eq!(granted(&mut preferring).worker.id.as_str(), "a");
    drop(first);
    bench.settle(&fleet);
    assert_eq!(granted(&mut pinned).worker.id.as_str(), "b");
    assert_eq!(ask(Mode::Pin, "c").err().unwrap().code, ErrorCode::WorkerNotFound);
}

/// A machine with little memory: what is asked of it is started only where something else goes.
#[test]
fn where_memory_is_short_the_worker_that_was_idle_for_the_longest_goes() {
    let of =
        |id: &str, model: &str| WorkerInfo { model_ref: model.into(), ..worker(id, WorkerState::Idle, 1) };
    let workers = vec![of("busy", "x"), of("stays", "pinned"), of("old", "y"), of("new", "z")];
    let with = |workers: Vec<WorkerInfo>| {
        let mut all = fleet(workers);
        all.change(&NodeName::from("local"), |node| {
            for name in ["m", "x", "y", "z", "pinned"] {
                node.models.insert(name.into(), model(name));
            }
        });
        all
    };
    let fleet = with(workers.clone());
    let bench = Bench::new(10);
    let _busy = granted(&mut bench.ask(Demand { model: "x".into(), ..demand("k") }, &fleet).unwrap());
    drop(granted(&mut bench.ask(Demand { model: "z".into(), ..demand("k") }, &fleet).unwrap()));
    let mut ticket = bench.ask(demand("k"), &fleet).unwrap();
    let short = || Err(ApiError::new(ErrorCode::InsufficientMemory, "no"));
    let mut left = workers;
    for gone in ["old", "new"] {
        assert!(matches!(&bench.effects(&with(left.clone()))[..], [Effect::Start { .. }]));
        bench.started("m", short());
        let effects = bench.effects(&with(left.clone()));
        assert!(
            matches!(&effects[..], [Effect::Evict { worker, .. }] if worker.as_str() == gone),
            "{effects:?}"
        );
        assert_eq!(bench.settle(&with(left.clone())), 0, "it is waited for");
        left.retain(|worker| worker.id.as_str() != gone);
    }
    assert_eq!(bench.settle(&with(left.clone())), 1);
    bench.started("m", short());
    bench.settle(&with(left));
    assert_eq!(outcome(&mut ticket).unwrap().err().unwrap().code, ErrorCode::InsufficientMemory);
}

#[test]
fn a_worker_that_does_not_go_is_given_work_again() {
    let other = WorkerInfo { model_ref: "x".into(), ..worker("other", WorkerState::Idle, 1) };
    let mut fleet = fleet(vec![other]);
    fleet.change(&NodeName::from("local"), |node| drop(node.models.insert("x".into(), model("x"))));
    let bench = Bench::new(10);
    let mut ticket = bench.ask(demand("k"), &fleet).unwrap();
    bench.settle(&fleet);
    bench.started("m", Err(ApiError::new(ErrorCode::InsufficientMemory, "no")));
    let now = Instant::now();
    bench.effects_at(&fleet, now);
    let of_other = Demand { model: "x".into(), ..demand("k") };
    let mut waiting = bench.ask(of_other, &fleet).unwrap();
    assert!(outcome(&mut waiting).is_none(), "it is to go");
    let later = now + Duration::from_secs(20);
    assert!(matches!(&bench.effects_at(&fleet, later)[..], [Effect::Start { .. }]));
    granted(&mut waiting);
    bench.started("m", Err(ApiError::new(ErrorCode::InsufficientMemory, "no")));
    bench.effects_at(&fleet, later);
    assert_eq!(outcome(&mut ticket).unwrap().err().unwrap().code, ErrorCode::InsufficientMemory);
}

#[derive(Debug, Clone)]
enum Step {
    Acquire(u8),
    Drop(usize),
    Slots(u32),
    Lose,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..5).prop_map(Step::Acquire),
        4 => (0_usize..20).prop_map(Step::Drop),
        1 => (0_u32..4).prop_map(Step::Slots),
        1 => Just(Step::Lose),
    ];
    prop::collection::vec(step, 1..60)
}

#[tokio::test]
async fn who_was_refused_by_a_full_worker_waits_where_it_was_and_costs_nothing() {
    let bench = Bench::new(10);
    let now = fleet(vec![worker("w", WorkerState::Idle, 4)]);
    let lease = |ticket: &mut Ticket| outcome(ticket).and_then(Result::ok);
    let own = lease(&mut bench.acquire(Priority::Interactive, &now).unwrap()).unwrap();
    let mut refused = lease(&mut bench.acquire(Priority::Interactive, &now).unwrap()).unwrap();
    let arrival = Some(refused.ticket());
    refused.note_refused();
    drop(refused);
    // Another server has the rest of its slots: nobody gets more, and who was refused is before who came later.
    let mut later = bench.acquire(Priority::Interactive, &now).unwrap();
    let mut again = bench.ask(Demand { arrival, ..demand("anyone") }, &now).unwrap();
    bench.settle(&now);
    assert!(lease(&mut later).is_none() && lease(&mut again).is_none());
    drop(own);
    bench.settle(&now);
    let first = lease(&mut again).expect("a slot of its own became free");
    assert!(lease(&mut later).is_none());
    // After a while more is tried: twice as much each time.
    bench.effects_at(&now, Instant::now() + ASKED_AGAIN_EVERY);
    let second = lease(&mut later).expect("another one is tried");
    let mut third = bench.acquire(Priority::Interactive, &now).unwrap();
    assert!(lease(&mut third).is_none());
    bench.effects_at(&now, Instant::now() + 3 * ASKED_AGAIN_EVERY);
    let rest: Vec<_> = (0..2)
        .filter_map(|_| lease(&mut bench.acquire(Priority::Interactive, &now).unwrap()))
        .chain(lease(&mut third))
        .collect();
    assert_eq!(rest.len(), 2, "and then all of them");
    drop((first, second, rest));
    bench.settle(&now);
    assert!(bench.scheduler.load().taken.is_empty());
}

#[tokio::test]
async fn a_second_worker_is_one_that_is_free_and_wanted_by_nobody_else() {
    let bench = Bench::new(10);
    let two = fleet(vec![worker("one", WorkerState::Idle, 1), worker("two", WorkerState::Idle, 2)]);
    let mut ticket = bench.acquire(Priority::Interactive, &two).unwrap();
    let first = outcome(&mut ticket).unwrap().unwrap();
    let again = Demand { avoid: Some(first.worker.boot_id.clone()), ..demand("anyone") };
    let second = bench.scheduler.hedge(&again).expect("the other worker is free");
    assert_ne!(second.worker.id, first.worker.id);
    assert_eq!(second.decision.why, Why::Hedge);
    let third = bench.scheduler.hedge(&again);
    assert!(third.is_none_or(|third| third.worker.id == second.worker.id), "never the same worker again");
    let pinned = Placement { mode: Mode::Pin, worker: Some(first.worker.id.clone()), ..Placement::default() };
    assert!(bench.scheduler.hedge(&Demand { placement: pinned.clone(), ..again.clone() }).is_none());
    let preferred = Placement { mode: Mode::Prefer, ..pinned };
    assert!(bench.scheduler.hedge(&Demand { placement: preferred, ..again.clone() }).is_some());
    let here = Placement::on_node(NodeName::from("local"));
    assert!(bench.scheduler.hedge(&Demand { placement: here, ..again.clone() }).is_some());

    // Who was given up counts as sent, who answered also as won.
    drop(second);
    let mut won = bench.scheduler.hedge(&again).unwrap();
    won.note_used(Used { prompt_tokens: 1, answer_tokens: 1 });
    drop(won);
    let hedges = bench.scheduler.view().hedges;
    assert!(hedges.won == 1 && hedges.sent >= 2, "{hedges:?}");

    let mut tickets: Vec<_> = (0..4).map(|_| bench.acquire(Priority::Interactive, &two).unwrap()).collect();
    assert!(bench.depth() > 0, "somebody waits");
    drop(tickets.remove(0));
    assert!(bench.scheduler.hedge(&again).is_none(), "a free slot is for those who wait");
    drop((first, tickets));
    bench.settle(&two);
    assert!(bench.scheduler.load().taken.is_empty());
}

proptest! {
    /// Whatever comes and goes: no slot is given out twice, none leaks, and nobody waits while a slot is free.
    #[test]
    fn slots_are_neither_doubled_nor_lost(steps in steps()) {
        let bands = [Priority::High, Priority::Interactive, Priority::Batch, Priority::Low, Priority::Background];
        let bench = Bench::new(1000);
        let mut slots = 2;
        let mut now = fleet(vec![worker("w", WorkerState::Idle, slots)]);
        let mut held: Vec<(Ticket, Option<Lease>)> = Vec::new();
        for step in steps {
            match step {
                Step::Acquire(band) => if let Ok(ticket) = bench.acquire(bands[band as usize], &now) {
                    held.push((ticket, None));
                },
                Step::Drop(index) => if !held.is_empty() {
                    let index = index % held.len();
                    held.remove(index);
                },
                Step::Slots(count) => {
                    slots = count;
                    now = fleet(vec![worker("w", WorkerState::Idle, slots)]);
                }
                Step::Lose => now.change(&NodeName::from("local"), |node| node.connected = false),
            }
            bench.settle(&now);
            held.retain_mut(|(ticket, lease)| lease.is_some() || match outcome(ticket) {
                Some(Ok(granted)) => { *lease = Some(granted); true }
                Some(Err(_)) => false,
                None => true,
            });
            bench.settle(&now);
            let leases = held.iter().filter(|(_, lease)| lease.is_some()).count();
            let counted: u32 = bench.scheduler.load().taken.values().sum();
            prop_assert_eq!(counted as usize, leases);
            let waiting = held.len() - leases;
            prop_assert_eq!(bench.depth() as usize, waiting);
            let is_reachable = now.reachable_workers().next().is_some();
            prop_assert!(!is_reachable || waiting == 0 || leases >= slots as usize, "someone waits beside a free slot");
        }
        held.clear();
        bench.settle(&now);
        prop_assert_eq!(bench.depth(), 0);
        prop_assert!(bench.scheduler.load().taken.is_empty());
    }
}
