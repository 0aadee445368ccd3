//! The path of one request: a place in the queue, a slot, a worker's events.

mod call;
mod collect;
mod relay;
mod request;
mod run;
mod tokens;
mod vectors;

use std::sync::Arc;
use std::time::Duration;

use protocol::hive::ModelKind;
use protocol::{ApiError, ErrorCode};
use tokio_util::sync::CancellationToken;

use crate::hives::Hives;
use crate::scheduler::{Demand, Scheduler};

pub use call::Asked;
pub use collect::{Completed, Parts, collect};
pub use relay::{
    ChatWriter, CompletionWriter, FrameWriter, Head, best_choices, chat_completion, comment, completion,
};
pub use request::{
    InferenceRequest, chat_request, completion_order, task_request, tokenize_order, tokenize_refusal,
};
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
        self.check_model(&request.model, ModelKind::TextGen)?;
        let demand =
            Demand { model: request.model.clone(), priority: request.priority, node: request.node.clone() };
        let ticket = self.scheduler.acquire(demand.clone()).await?;
        Ok(Run::new(self.clone(), Arc::new(request), demand, ticket, correlation_id))
    }

    /// The model must be in a catalog, and must be made for what is asked.
    fn check_model(&self, model: &str, wanted: ModelKind) -> Result<(), ApiError> {
        let kind = self.model_kind(model)?;
        if kind == wanted { Ok(()) } else { Err(wrong_kind(model, kind, wanted)) }
    }

    /// What a model is for; it must be in a catalog.
    fn model_kind(&self, model: &str) -> Result<ModelKind, ApiError> {
        let fleet = self.hives.fleet();
        let Some(entry) = fleet.model(model) else {
            if !fleet.nodes().any(|(_, node)| node.connected) {
                let message = "No hive is connected, so it is not known which models there are.";
                return Err(ApiError::new(ErrorCode::HiveUnavailable, message).with_retry_after_ms(1000));
            }
            let message = format!("The model '{model}' does not exist on this server.");
            return Err(ApiError::new(ErrorCode::ModelNotFound, message).with_param("model"));
        };
        Ok(entry.kind)
    }
}

/// Tells what a model is for, and where to ask for that.
fn wrong_kind(model: &str, kind: ModelKind, wanted: ModelKind) -> ApiError {
    let cannot = match wanted {
        ModelKind::TextGen => "generate text",
        ModelKind::Embedding => "make embeddings",
        ModelKind::Rerank => "rank documents",
    };
    let can = match kind {
        ModelKind::TextGen => "it generates text. Use POST /v1/chat/completions, or a model",
        ModelKind::Embedding => "it makes embeddings. Use POST /v1/embeddings, or a model",
        ModelKind::Rerank => "it ranks documents. Use POST /v1/rerank, or a model",
    };
    let message = format!("The model '{model}' does not {cannot}: {can} of the kind '{}'.", wanted.as_str());
    ApiError::new(ErrorCode::UnsupportedModel, message).with_param("model")
}
