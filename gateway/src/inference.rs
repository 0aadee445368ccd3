//! The path of one request: a place in the queue, a slot, a worker's events.

mod admission;
mod answer;
mod cache;
mod call;
mod clock;
mod collect;
mod demand;
mod leg;
mod names;
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
use crate::routing::{Asking, Router};
use crate::scheduler::{Demand, Preview, Scheduler};

pub use cache::{AnswerCache, Sharing};
pub use call::Asked;
pub use clock::{Clock, Spans};
pub use collect::{Completed, Parts, collect};
pub use names::ModelNames;
pub use relay::{
    ChatWriter, CompletionWriter, FrameWriter, Head, MessageHead, MessageWriter, ResponseWriter,
    best_choices, chat_completion, comment, completion, made_response, message, response, waiting,
};
pub use request::{
    Context, InferenceRequest, ResponseOrder, Thoughts, chat_request, check_includes, completion_order,
    embed_request, message_order, message_prompt, metadata, references, response_again, response_order,
    task_request, tokenize_order, tokenize_refusal,
};
pub use run::{Run, shutting_down};
pub use vectors::embedding_list;

/// All that a request needs to be answered.
#[derive(Clone)]
pub struct Inference {
    /// The machines.
    pub hives: Hives,
    /// The queue.
    pub scheduler: Scheduler,
    /// The script that decides, if there is one.
    pub router: Router,
    /// Cancelled when the grace of running requests is over: each ends with an error event.
    pub cut: CancellationToken,
    /// What callers call the models.
    pub names: Arc<ModelNames>,
    /// Answers that would be the same again; none if they are not kept.
    pub cache: Option<AnswerCache>,
    /// How long a call without streaming waits for a worker.
    pub cold_start_wait: Duration,
    /// A second worker is asked too, if there is one to spare, when the first has not begun to answer for so long.
    pub hedge_after: Option<Duration>,
}

/// Who asks, and how.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The id that logs know the request by.
    pub correlation_id: Arc<str>,
    /// Who it is; what is kept for one is not told to another.
    pub caller: Arc<str>,
    /// Whether an answer to an earlier request will do, if it would be the same.
    pub may_share: bool,
    /// Whether the request was let in before, and is only run now.
    pub was_admitted: bool,
    /// Runs since the request came.
    pub clock: Clock,
}

impl Inference {
    /// Admits a request. What comes back tells its events; dropping it cancels, whatever phase it is in.
    pub fn run(&self, mut request: InferenceRequest, asker: &Asker) -> Result<Run, ApiError> {
        let demand = self.demand(&request, asker)?;
        request.model = self.names.shown(&request.model);
        let asking = if asker.was_admitted { Asking::Way } else { Asking::All };
        let admission = self.admit(&demand, || demand::task(&demand, &request, asker), asking, asker)?;
        asker.clock.mark_routed();
        Ok(Run::new(self.clone(), Arc::new(request), demand, admission, asker.clone()))
    }

    /// What would come of a request now; nothing is queued.
    pub fn preview(&self, request: &InferenceRequest, asker: &Asker) -> Result<Preview, ApiError> {
        let demand = self.demand(request, asker)?;
        let task = demand::task(&demand, request, asker);
        let decided = self.router.decide(&self.scheduler, &demand, task, Asking::Preview)?;
        self.scheduler.preview(&admission::placed(&demand, &decided))
    }

    /// What a request needs, which must be something that can be had here.
    fn demand(&self, request: &InferenceRequest, asker: &Asker) -> Result<Demand, ApiError> {
        if request.compliance.is_some() && !self.router.is_enforced() {
            let message =
                "'compliance' is kept by a routing script alone, and none is in force on this server.";
            return Err(ApiError::new(ErrorCode::UnsupportedParameter, message).with_param("compliance"));
        }
        Ok(demand::demand(self.model(&request.model, request.kind())?, request, asker))
    }

    /// Whether there is a model of this kind that a caller may call so.
    pub fn check_model(&self, asked: &str, wanted: ModelKind) -> Result<(), ApiError> {
        self.model(asked, wanted).map(drop)
    }

    /// The catalogs' name of the model that a caller asks for, which must be made for what is asked.
    fn model<'a>(&'a self, asked: &'a str, wanted: ModelKind) -> Result<&'a str, ApiError> {
        let (model, kind) = self.model_of_any_kind(asked)?;
        if kind == wanted { Ok(model) } else { Err(wrong_kind(model, kind, wanted)) }
    }

    /// The catalogs' name of the model that a caller asks for, and what it is for.
    fn model_of_any_kind<'a>(&'a self, asked: &'a str) -> Result<(&'a str, ModelKind), ApiError> {
        let model = self.names.resolve(asked)?;
        let fleet = self.hives.fleet();
        if let Some(entry) = fleet.model(model) {
            return Ok((model, entry.kind));
        }
        if !fleet.nodes().any(|(_, node)| node.connected) {
            let message = "No hive is connected, so it is not known which models there are.";
            return Err(ApiError::new(ErrorCode::HiveUnavailable, message).with_retry_after_ms(1000));
        }
        let message = if model == asked {
            format!("The model '{model}' does not exist on this server.")
        } else {
            format!("The model '{model}', which '{asked}' stands for, does not exist on this server.")
        };
        Err(ApiError::new(ErrorCode::ModelNotFound, message).with_param("model"))
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
