//! One thread that computes batch after batch. What has come while a batch was computed goes into the next one, whoever
//! asked for it.

use std::sync::mpsc::{self, Receiver, Sender};

use protocol::{ApiError, ErrorCode};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::batch::{Pending, choose};
use super::encoder::Tokens;
use super::model::VectorModel;
use crate::engine::SlotGuard;

/// Tokens of a batch for each thread: enough to keep it busy, few enough that nobody waits long.
const BATCH_TOKENS_PER_THREAD: usize = 512;
/// Tokens of a batch at least.
const BATCH_TOKENS: usize = 1024;

/// The way to the thread.
#[derive(Debug)]
pub struct VectorEngine(Sender<Order>);

enum Order {
    Run(Box<Job>),
    Stop,
}

/// The texts of one request.
#[derive(Debug)]
pub struct Job {
    /// The texts; at least one, none of them without tokens.
    pub texts: Vec<Tokens>,
    /// Numbers that are kept of each vector, if not all.
    pub dimensions: Option<usize>,
    /// Cancelled when nobody wants the answer any more.
    pub cancel: CancellationToken,
    /// Where the answer goes: what each text got.
    pub reply: oneshot::Sender<Result<Vec<Vec<f32>>, ApiError>>,
    /// Held until the job has left the engine.
    pub slot: SlotGuard,
}

/// A job whose texts are being computed.
struct Running {
    job: Job,
    pending: Pending,
    results: Vec<Vec<f32>>,
    missing: usize,
}

impl VectorEngine {
    /// Starts the thread. The receiver learns of its end.
    pub fn start(model: VectorModel) -> std::io::Result<(Self, oneshot::Receiver<Result<(), ApiError>>)> {
        let (sender, orders) = mpsc::channel();
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            run(&model, &orders);
            // Nobody listens any more when the worker was told to stop.
            let _ = ended.send(Ok(()));
        })?;
        Ok((Self(sender), end))
    }

    /// Takes a job.
    pub fn submit(&self, job: Job) -> Result<(), ApiError> {
        let gone = |_| ApiError::new(ErrorCode::WorkerShuttingDown, "The worker is shutting down.");
        self.0.send(Order::Run(Box::new(job))).map_err(gone)
    }

    /// Ends the thread after the batch at hand; jobs that are not done get an error.
    pub fn stop(&self) {
        let _ = self.0.send(Order::Stop);
    }
}

fn run(model: &VectorModel, orders: &Receiver<Order>) {
    let budget = BATCH_TOKENS.max(BATCH_TOKENS_PER_THREAD * model.threads());
    let mut running: Vec<Running> = Vec::new();
    loop {
        if !take_orders(orders, &mut running) {
            for Running { job, .. } in running {
                let error = ApiError::new(ErrorCode::WorkerShuttingDown, "The worker is shutting down.");
                let _ = job.reply.send(Err(error));
            }
            return;
        }
        running.retain(|running| !running.job.cancel.is_cancelled() && !running.job.reply.is_closed());
        step(model, &mut running, budget);
    }
}

/// Takes all orders that are there, and waits for one if there is nothing to do; false if it is to stop.
fn take_orders(orders: &Receiver<Order>, running: &mut Vec<Running>) -> bool {
    let mut order = if running.is_empty() { orders.recv().ok() } else { orders.try_recv().ok() };
    if order.is_none() && running.is_empty() {
        return false;
    }
    while let Some(found) = order {
        match found {
            Order::Run(job) => running.push(Running::new(*job)),
            Order::Stop => return false,
        }
        order = orders.try_recv().ok();
    }
    true
}

fn step(model: &VectorModel, running: &mut Vec<Running>, budget: usize) {
    let mut pending: Vec<&mut Pending> = running.iter_mut().map(|running| &mut running.pending).collect();
    let batch = choose(&mut pending, budget);
    let texts: Vec<&Tokens> = batch.iter().map(|(job, text)| &running[*job].job.texts[*text]).collect();
    let dimensions: Vec<Option<usize>> = batch.iter().map(|(job, _)| running[*job].job.dimensions).collect();
    if texts.is_empty() {
        return;
    }
    for ((job, text), result) in batch.iter().zip(model.run(&texts, &dimensions)) {
        running[*job].results[*text] = result;
        running[*job].missing -= 1;
    }
    for done in running.extract_if(.., |running| running.missing == 0) {
        let Running { job, results, .. } = done;
        // The slot is free before the answer is out, so that who has it finds the slot.
        drop(job.slot);
        let _ = job.reply.send(Ok(results));
    }
}

impl Running {
    fn new(job: Job) -> Self {
        let pending = Pending::new(job.texts.iter().map(|text| text.ids.len()));
        let count = job.texts.len();
        Self { job, pending, results: vec![Vec::new(); count], missing: count }
    }
}
