//! Threads that share the work of a step.
//!
//! A decode step is some 150 small pieces of parallel work in two milliseconds, on processors that other programs use
//! too. So no thread waits for one that took nothing: whoever has a processor takes the next task, the caller among
//! them, and a thread that the system has put aside while it held no task costs nothing. Threads without work watch for
//! more for a moment, then sleep.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread watches for work, or for the end of work, before it sleeps.
const WATCH: Duration = Duration::from_micros(60);
/// Looks in quick succession. After that, whoever waits lets others go first: it may be that who holds the last task
/// wants this very processor.
const QUICK_LOOKS: usize = 256;
/// Low bits of the ticket, which count tasks that nobody has taken.
const TASK_BITS: u32 = 24;
/// Tasks in one job at most.
const TASKS_MAX: usize = (1 << TASK_BITS) - 1;

/// Threads that persist, and take tasks of one job at a time.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the thread whose job is running.
    caller: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

/// Keeps what one thread writes often off the cache lines that others read.
#[repr(align(128))]
struct Apart<T>(T);

struct Shared {
    /// The job's number in the high bits, its tasks that nobody has taken in the low ones. To take a task is to lower
    /// this by one in one atomic step, so a task of a finished job can never be taken: its count is zero, and the
    /// number of a later job differs.
    ticket: Apart<AtomicU64>,
    /// Tasks that have not ended yet.
    unfinished: Apart<AtomicUsize>,
    /// Read only by who holds a task of it; written only when there is no such task.
    job: UnsafeCell<Job>,
    /// What the first task to panic said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    work_came: (Mutex<()>, Condvar),
    caller_sleeps: AtomicBool,
    work_ended: (Mutex<()>, Condvar),
    closing: AtomicBool,
}

/// A closure whose type is forgotten.
#[derive(Clone, Copy)]
struct Job {
    work: *const (),
    call: unsafe fn(*const (), usize),
    tasks: usize,
}

// SAFETY: `job` is the one field that is not Sync. It is written by the one caller, before the ticket that announces it,
// while no task is held; and read after a task was taken from that ticket, until that task ends. `Pool::run` takes
// closures that are Sync only.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointers in `job` are used during `Pool::run` only, which borrows what they point to.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of so many threads, the caller of `run` being one of them.
    ///
    /// Where the system refuses a thread, the pool does with those it has.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            ticket: Apart(AtomicU64::new(0)),
            unfinished: Apart(AtomicUsize::new(0)),
            job: UnsafeCell::new(Job { work: std::ptr::null(), call: |_, _| (), tasks: 0 }),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            work_came: (Mutex::new(()), Condvar::new()),
            caller_sleeps: AtomicBool::new(false),
            work_ended: (Mutex::new(()), Condvar::new()),
            closing: AtomicBool::new(false),
        });
        let worker = |number: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("compute-{number}")).spawn(move || shared.serve()).ok()
        };
        let workers = (1..threads).map_while(worker).collect();
        Self { shared, caller: Mutex::new(()), workers }
    }

    /// Threads that take tasks, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` once with each number below `tasks`, on whichever threads are free, and returns when all have ended.
    ///
    /// Called from within a task, or while another thread's job runs, it does all of the work by itself. A panic in a
    /// task is passed on when the other tasks have ended.
    pub fn run<F: Fn(usize) + Sync>(&self, tasks: usize, work: F) {
        let mut first = 0;
        while first < tasks {
            let count = (tasks - first).min(TASKS_MAX);
            self.run_some(count, |task| work(first + task));
            first += count;
        }
    }

    fn run_some<F: Fn(usize) + Sync>(&self, tasks: usize, work: F) {
        let alone = tasks == 1 || self.workers.is_empty();
        let turn = if alone { None } else { self.try_turn() };
        if turn.is_none() {
            (0..tasks).for_each(work);
            return;
        }
        self.shared.publish(Job { work: (&raw const work).cast(), call: call::<F>, tasks });
        while self.shared.take_task() {}
        self.shared.await_end();
        let panic = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn try_turn(&self) -> Option<std::sync::MutexGuard<'_, ()>> {
        match self.caller.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        drop(self.shared.work_came.0.lock());
        self.shared.work_came.1.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches what its tasks throw, so there is nothing that it could have panicked with.
            let _ = worker.join();
        }
    }
}

/// # Safety
/// `work` points to a living `F`.
unsafe fn call<F: Fn(usize)>(work: *const (), task: usize) {
    // SAFETY: the caller's promise.
    let work = unsafe { &*work.cast::<F>() };
    work(task);
}

impl Shared {
    /// A worker's life.
    fn serve(&self) {
        loop {
            while self.take_task() {}
            let has_work = || self.closing.load(Ordering::Relaxed) || self.has_task();
            if !watch(has_work) {
                self.sleep();
            }
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn publish(&self, job: Job) {
        // SAFETY: this thread has the turn, and the job before has ended: nobody holds a task.
        unsafe { *self.job.get() = job };
        self.unfinished.0.store(job.tasks, Ordering::Relaxed);
        let number = (self.ticket.0.load(Ordering::Relaxed) >> TASK_BITS).wrapping_add(1);
        self.ticket.0.store(number << TASK_BITS | job.tasks as u64, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Whoever is about to sleep holds the lock until it does, and hears the call.
            drop(self.work_came.0.lock());
            if job.tasks == 2 { self.work_came.1.notify_one() } else { self.work_came.1.notify_all() }
        }
    }

    fn has_task(&self) -> bool {
        self.ticket.0.load(Ordering::SeqCst) & TASKS_MAX as u64 != 0
    }

    /// Takes a task and does it. False if there was none.
    fn take_task(&self) -> bool {
        let take = |ticket: u64| (ticket & TASKS_MAX as u64 != 0).then(|| ticket - 1);
        let Ok(ticket) = self.ticket.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) else {
            return false;
        };
        // SAFETY: a task is held, so the job is the one that the ticket announced, and nobody writes to it.
        let job = unsafe { *self.job.get() };
        let task = job.tasks - (ticket & TASKS_MAX as u64) as usize;
        // SAFETY: the closure lives until its last task has ended, which this one has not.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.work, task) }));
        if let Err(panic) = outcome {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        if self.unfinished.0.fetch_sub(1, Ordering::SeqCst) == 1 && self.caller_sleeps.load(Ordering::SeqCst)
        {
            drop(self.work_ended.0.lock());
            self.work_ended.1.notify_one();
        }
        true
    }

    fn has_ended(&self) -> bool {
        self.unfinished.0.load(Ordering::SeqCst) == 0
    }

    /// Waits for the tasks that others have taken.
    fn await_end(&self) {
        if watch(|| self.has_ended()) {
            return;
        }
        let mut guard = self.work_ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while !self.has_ended() {
            guard = self.work_ended.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    /// Sleeps until there is work.
    fn sleep(&self) {
        let mut guard = self.work_came.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !self.has_task() && !self.closing.load(Ordering::SeqCst) {
            guard = self.work_came.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Looks at `condition` for a moment. Whether it came true.
fn watch(condition: impl Fn() -> bool) -> bool {
    for _ in 0..QUICK_LOOKS {
        if condition() {
            return true;
        }
        std::hint::spin_loop();
    }
    let start = Instant::now();
    while start.elapsed() < WATCH {
        if condition() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 3, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |task| _ = counts[task].fetch_add(1, Ordering::Relaxed));
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_small_jobs_in_a_row_lose_nothing() {
        let pool = Pool::new(4);
        let total = AtomicUsize::new(0);
        for _ in 0..20_000 {
            pool.run(3, |task| _ = total.fetch_add(task + 1, Ordering::Relaxed));
        }
        assert_eq!(total.into_inner(), 20_000 * 6);
    }

    #[test]
    fn sleeping_threads_are_woken_and_sleeping_callers_too() {
        let pool = Pool::new(3);
        for _ in 0..5 {
            let total = AtomicUsize::new(0);
            pool.run(6, |_| {
                std::thread::sleep(10 * WATCH);
                total.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(total.into_inner(), 6);
            std::thread::sleep(10 * WATCH);
        }
    }

    #[test]
    fn a_task_may_have_work_of_its_own_and_callers_may_meet() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(4, |_| pool.run(5, |_| _ = total.fetch_add(1, Ordering::Relaxed)));
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 3 * 100 * 20);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_whole() {
        let pool = Pool::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(8, |task| assert_ne!(task, 5, "five"))));
        assert!(outcome.is_err());
        let total = AtomicUsize::new(0);
        pool.run(8, |task| _ = total.fetch_add(task, Ordering::Relaxed));
        assert_eq!(total.into_inner(), 28);
    }
}
