//! The path of one request: a place in the queue, a slot, a worker's events.

mod collect;
mod names;
mod relay;
mod request;
mod run;
mod vectors;

use std::sync::Arc;
use std::time::Duration;

use protocol::hive::ModelKind;
use protocol::{ApiError, ErrorCode};
use tokio_util::sync::CancellationToken;

use crate::hives::Hives;
use crate::scheduler::{Demand, Scheduler};

pub use collect::{Completed, Parts, collect};
pub use names::ModelNames;
pub use relay::{
    ChatWriter, CompletionWriter, FrameWriter, Head, MessageHead, MessageWriter, best_choices,
    chat_completion, comment, completion, message,
};
pub use request::{
    InferenceRequest, Thoughts, chat_request, completion_order, message_order, message_prompt, task_request,
};
pub use run::Run;
pub use vectors::Asked;

/// All that a request needs to be answered.
#[derive(Clone)]
pub struct Inference {
    /// The machines.
    pub hives: Hives,
    /// The queue.
    pub scheduler: Scheduler,
    /// Cancelled when the grace of running requests is over: each ends with an error event.
    pub cut: CancellationToken,
    /// What callers call the models.
    pub names: Arc<ModelNames>,
    /// How long a call without streaming waits for a worker.
    pub cold_start_wait: Duration,
}

impl Inference {
    /// Admits a request. What comes back tells its events; dropping it cancels, whatever phase it is in.
    pub async fn run(&self, mut request: InferenceRequest, correlation_id: &str) -> Result<Run, ApiError> {
        let model = self.model(&request.model, ModelKind::TextGen)?.to_owned();
        let demand = Demand { model, priority: request.priority, node: request.node.clone() };
        request.model = self.names.shown(&request.model);
        let ticket = self.scheduler.acquire(demand.clone()).await?;
        Ok(Run::new(self.clone(), Arc::new(request), demand, ticket, correlation_id))
    }

    /// The catalogs' name of the model that a caller asks for, which must be made for what is asked.
    fn model<'a>(&'a self, asked: &'a str, wanted: ModelKind) -> Result<&'a str, ApiError> {
        let model = self.names.resolve(asked)?;
        let fleet = self.hives.fleet();
        let Some(entry) = fleet.model(model) else {
            if !fleet.nodes().any(|(_, node)| node.connected) {
                let message = "No hive is connected, so it is not known which models there are.";
                return Err(ApiError::new(ErrorCode::HiveUnavailable, message).with_retry_after_ms(1000));
            }
            let message = if model == asked {
                format!("The model '{model}' does not exist on this server.")
            } else {
                format!("The model '{model}', which '{asked}' stands for, does not exist on this server.")
            };
            return Err(ApiError::new(ErrorCode::ModelNotFound, message).with_param("model"));
        };
        if entry.kind == wanted { Ok(model) } else { Err(wrong_kind(model, entry.kind, wanted)) }
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
