//! What those who wait are told, and those who ask how the queue stands.

use std::time::Duration;

use protocol::queen::{BandView, QueueLimit, QueueView, QueuedModel, TaskCounts};
use protocol::task::Priority;
use protocol::worker::LoadStage;
use tokio::time::Instant;

use super::{Queue, TOLD_AT_ONCE, TOLD_EVERY};
use crate::scheduler::line::Line;
use crate::scheduler::roster::Pool;
use crate::scheduler::{Bound, Waiting};

impl Queue {
    pub(super) fn tell_places(&mut self, now: Instant) {
        let is_due = now.saturating_duration_since(self.told) >= TOLD_EVERY;
        if self.waiters.len() > TOLD_AT_ONCE && !is_due {
            return;
        }
        self.told = now;
        let weight = self.service.weight(now);
        for (model, line) in &self.lines {
            let slots = self.roster.pool(model).map_or(0, |pool| pool.slots);
            let narration = self.narrate(model);
            let cost =
                |id| self.waiters.get(&id).map_or(0.0, |waiter| self.guess(&waiter.demand).cost() * weight);
            for (index, id) in line.order(&self.service, cost).into_iter().enumerate() {
                let Some(waiter) = self.waiters.get(&id) else { continue };
                let position = index as u32 + 1;
                let eta = self.pace.wait(model, position, slots);
                waiter.waiting.send_if_modified(|waiting| {
                    // An estimate that changes alone is told with the next news.
                    let news = waiting.position != position || waiting.narration != narration;
                    *waiting = Waiting { position, eta, narration: narration.clone() };
                    news
                });
            }
        }
    }

    /// What a person who waits for a model would like to know.
    fn narrate(&self, model: &str) -> Option<(String, Option<f32>)> {
        let loading = self.roster.pool(model).filter(|pool| pool.serving == 0).and_then(Pool::loading);
        let Some(seat) = loading.and_then(|id| self.roster.seat(id)) else {
            return self.starts.is_under_way(model).then(|| (format!("starting a worker for {model}"), None));
        };
        let what = match seat.worker.loading.stage {
            LoadStage::Downloading => "downloading",
            LoadStage::Starting => "starting a worker for",
            LoadStage::ReadingHeader | LoadStage::LoadingWeights => "loading",
            LoadStage::WarmingUp => "warming up",
            LoadStage::Ready | LoadStage::Failed => return None,
        };
        Some((format!("{what} {model}"), Some(seat.worker.loading.progress)))
    }

    /// Who waits for what, and for how long.
    pub(in crate::scheduler) fn view(&self, now: Instant) -> QueueView {
        let band = |priority: &Priority| {
            let held = self.held[usize::from(priority.band())];
            BandView { band: *priority, waiting: held.requests as u32, bytes: held.bytes as u64 }
        };
        let ms = |duration: Duration| duration.as_millis() as u64;
        let model = |(model, line): (&String, &Line)| {
            let pool = self.roster.pool(model);
            let waiters = self.waiters.values().filter(|waiter| waiter.demand.model == *model);
            let longest = waiters.map(|waiter| now.saturating_duration_since(waiter.since)).max();
            QueuedModel {
                model: model.clone(),
                waiting: line.len(),
                workers: pool.map_or(0, |pool| pool.serving),
                slots_total: pool.map_or(0, |pool| pool.slots),
                slots_taken: pool.map_or(0, |pool| pool.taken),
                longest_wait_ms: longest.map_or(0, ms),
                eta_ms: self.eta(model, line.len() + 1).map(ms),
                is_starting: self.starts.is_under_way(model),
            }
        };
        let Bound { requests, bytes } = self.policy.bounds.all;
        let mut models: Vec<_> = self.lines.iter().map(model).collect();
        models.sort_by(|one, other| one.model.cmp(&other.model));
        QueueView {
            running: self.leases.len() as u32,
            waiting: self.depth(),
            limit: QueueLimit { requests: requests as u64, bytes: bytes as u64 },
            bands: Priority::ALL.iter().map(band).collect(),
            models,
            hedges: self.hedges,
            tasks: TaskCounts::default(),
        }
    }
}
