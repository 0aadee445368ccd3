//! A future that wakes itself is polled again at once.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// A future that always wakes itself lets others have their turn after so many of its own.
const TURNS_MAX: u32 = 8;

/// Polls a future anew when it is woken while it is polled.
///
/// hyper's connection and the service that it drives talk through channels within one task, and each word of theirs wakes the
/// task that is running. To tokio that is a task that yields: it goes to the end of the queue, and another thread is
/// woken for it, which finds nothing to do.
pub(crate) struct Driven<F> {
    future: Pin<Box<F>>,
    turn: Arc<Turn>,
    waker: Waker,
}

impl<F> Driven<F> {
    pub(crate) fn new(future: F) -> Self {
        let turn = Arc::new(Turn { task: AtomicWaker::new(), state: AtomicU8::new(IDLE) });
        Self { future: Box::pin(future), waker: Waker::from(turn.clone()), turn }
    }
}

/// Nobody polls; a wake is for the task.
const IDLE: u8 = 0;
/// The future is being polled.
const POLLED: u8 = 1;
/// It was woken meanwhile.
const WOKEN: u8 = 2;

struct Turn {
    task: AtomicWaker,
    state: AtomicU8,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let woken = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| (state != IDLE).then_some(WOKEN));
        if woken.is_err() {
            self.task.wake();
        }
    }
}

impl<F: Future> Future for Driven<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, turn, waker } = &mut *self;
        turn.task.register(context.waker());
        for _ in 0..TURNS_MAX {
            turn.state.store(POLLED, Ordering::Release);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            let was = turn.state.swap(IDLE, Ordering::AcqRel);
            if was == POLLED {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes itself so often before it is ready; returns how often it was polled.
    fn yields(times: u32) -> impl Future<Output = u32> {
        let mut polls = 0;
        std::future::poll_fn(move |context| {
            polls += 1;
            if polls > times {
                return Poll::Ready(polls);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn a_future_that_wakes_itself_goes_on_without_its_task_being_woken() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut future = Box::pin(Driven::new(yields(3)));
        assert_eq!(future.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(4));
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_that_never_stops_lets_others_have_their_turn() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut future = Box::pin(Driven::new(yields(TURNS_MAX + 1)));
        assert_eq!(future.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(future.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(TURNS_MAX + 2));
    }

    #[test]
    fn a_wake_from_elsewhere_reaches_the_task() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let (sender, receiver) = futures::channel::oneshot::channel();
        let mut future = Box::pin(Driven::new(receiver));
        assert_eq!(future.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
        sender.send(7).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(future.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(7)));
    }
}
