//! The queue against a fleet that the tests make up: what it gives out, what it counts, what it refuses.

use futures::FutureExt;
use proptest::prelude::*;
use protocol::hive::{HiveEvent, HiveSnapshot, ModelEntry, ModelKind, Provider, WorkerInfo};
use protocol::worker::{Backend, LoadProgress, LoadStage, WorkerState};
use protocol::{ApiError, ErrorCode};
use tokio::sync::watch;

use super::{Demand, Lease, Scheduler, StartPolicy, Ticket, TicketEvent};
use crate::hives::{Fleet, NodeName};
use protocol::task::Priority;

fn model(reference: &str) -> ModelEntry {
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

fn worker(id: &str, state: WorkerState, slots_total: u32) -> WorkerInfo {
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

/// A scheduler whose task is the test.
struct Bench {
    scheduler: Scheduler,
    fleet: watch::Sender<Fleet>,
}

impl Bench {
    fn new(queue_limit: usize) -> Self {
        let policy = StartPolicy { backend: Backend::Cpu, gpu: None, queue_limit };
        let (fleet, watched) = watch::channel(Fleet::default());
        Self { scheduler: Scheduler::new(watched, policy), fleet }
    }

    fn acquire(&self, priority: Priority, fleet: &Fleet) -> Result<Ticket, ApiError> {
        self.fleet.send_replace(fleet.clone());
        self.scheduler.acquire(Demand { model: "m".into(), priority, node: None, deadline: None })
    }

    fn settle(&self, fleet: &Fleet) -> usize {
        self.scheduler.shared.lock().dispatch(fleet).len()
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
    bench.scheduler.shared.lock().started("m".into(), Ok(loading.clone()));
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
    assert_eq!(first.position(), 0);
    bench.settle(&fleet);
    let lease = outcome(&mut first).unwrap().unwrap();
    let mut second = bench.acquire(Priority::Interactive, &fleet).unwrap();
    let third = bench.acquire(Priority::Interactive, &fleet).unwrap();
    bench.settle(&fleet);
    let news = second.next().now_or_never().expect("the first place is news to who waits in it");
    assert!(matches!(news, TicketEvent::Waiting(waiting) if waiting.position == 1));
    assert_eq!((second.position(), third.position()), (1, 2));
    drop(lease);
    bench.settle(&fleet);
    assert!(outcome(&mut second).is_some());
    assert_eq!(third.position(), 1);
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
