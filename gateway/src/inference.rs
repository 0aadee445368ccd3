//! The path of one request: a place in the queue, a slot, a worker's events.

mod collect;
mod relay;
mod request;
mod run;

use std::sync::Arc;
use std::time::Duration;

use protocol::hive::ModelKind;
use protocol::{ApiError, ErrorCode};
use tokio_util::sync::CancellationToken;

use crate::hives::Hives;
use crate::scheduler::{Demand, Scheduler};

pub use collect::{Completed, Parts, collect};
pub use relay::{
    ChatWriter, CompletionWriter, FrameWriter, Head, best_choices, chat_completion, comment, completion,
};
pub use request::{InferenceRequest, chat_request, completion_order, task_request};
pub use run::Run;

/// All that a request needs to be answered.
#[derive(Clone)]
pub struct Inference {
    /// The machines.
    pub hives: Hives,
    /// The queue.
    pub scheduler: Scheduler,
    /// Cancelled when the grace of running requests is over: each ends with an error event.
    pub cut: CancellationToken,
    /// How long a call without streaming waits for a worker.
    pub cold_start_wait: Duration,
}

impl Inference {
    /// Admits a request. What comes back tells its events; dropping it cancels, whatever phase it is in.
    pub async fn run(&self, request: InferenceRequest, correlation_id: &str) -> Result<Run, ApiError> {
        self.check_model(&request.model)?;
        let demand =
            Demand { model: request.model.clone(), priority: request.priority, node: request.node.clone() };
        let ticket = self.scheduler.acquire(demand.clone()).await?;
        Ok(Run::new(self.clone(), Arc::new(request), demand, ticket, correlation_id))
    }

    /// The model must be in a catalog, and must be one that generates text.
    fn check_model(&self, model: &str) -> Result<(), ApiError> {
        let fleet = self.hives.fleet();
        let Some(entry) = fleet.model(model) else {
            if !fleet.nodes().any(|(_, node)| node.connected) {
                let message = "No hive is connected, so it is not known which models there are.";
                return Err(ApiError::new(ErrorCode::HiveUnavailable, message).with_retry_after_ms(1000));
            }
            let message = format!("The model '{model}' does not exist on this server.");
            return Err(ApiError::new(ErrorCode::ModelNotFound, message).with_param("model"));
        };
        if entry.kind != ModelKind::TextGen {
            let message = format!("The model '{model}' does not generate text.");
            return Err(ApiError::new(ErrorCode::UnsupportedModel, message).with_param("model"));
        }
        Ok(())
    }
}
