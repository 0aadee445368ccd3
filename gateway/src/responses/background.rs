//! A response that is made in the background: a job whose end is a response that is kept.

use std::hash::{DefaultHasher, Hash, Hasher};

use protocol::TaskEvent;
use protocol::openai::responses::{Item, Response, ResponseStatus};
use protocol::task::Priority;
use protocol::worker::ExecuteRequest;
use serde::{Deserialize, Serialize};

use crate::inference::{InferenceRequest, ResponseOrder, made_response, response_again};

/// All that it is made from. It refers to nothing that could be gone when it is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Background {
    model: String,
    order: ExecuteRequest,
    priority: Priority,
    session: Option<String>,
    /// The response as far as the request tells it.
    pub draft: Response,
    /// What it was asked with.
    pub input: Vec<Item>,
}

impl Background {
    /// What a request asks for; its draft has its id.
    pub fn new(order: ResponseOrder) -> Self {
        let ResponseOrder { request, mut draft, input } = order;
        draft.background = true;
        draft.status = ResponseStatus::Queued;
        let mut order = request.order;
        // Another attempt says the same.
        let mut hasher = DefaultHasher::new();
        draft.id.hash(&mut hasher);
        order.seed = Some(hasher.finish() >> 11);
        let (model, priority, session) = (request.model, request.priority, request.session);
        Self { model, order, priority, session, draft, input }
    }

    /// The band it waits in.
    pub const fn priority(&self) -> Priority {
        self.priority
    }

    /// The request for its text.
    pub fn request(self) -> InferenceRequest {
        response_again(self.model, self.order, self.priority, self.session, self.draft.metadata)
    }

    /// The response after these events.
    pub fn after<'a>(&self, events: impl Iterator<Item = &'a TaskEvent>) -> Response {
        made_response(&self.draft, events)
    }
}
