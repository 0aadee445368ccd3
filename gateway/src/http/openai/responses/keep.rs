//! Responses that are put away when they end.

use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::events::End;
use protocol::openai::responses::{Item, Response};
use protocol::{ApiError, TaskEvent};

use crate::inference::{Asker, FrameWriter, ResponseWriter};
use crate::store::{Kind, Object, Store};

/// What is kept with a response, and where.
pub(super) struct Keep {
    store: Store,
    owner: String,
    input: Vec<Item>,
}

impl Keep {
    pub(super) fn new(store: &Store, asker: &Asker, input: Vec<Item>) -> Self {
        Self { store: store.clone(), owner: asker.caller.to_string(), input }
    }

    /// Puts a response away.
    pub(super) async fn keep(&self, response: &Response) -> Result<(), ApiError> {
        let object = Object {
            kind: Kind::Response,
            id: response.id.clone(),
            owner: self.owner.clone(),
            created_at: response.created_at,
            model: response.model.clone(),
            metadata: response.metadata.clone(),
            previous: response.previous_response_id.clone(),
            input: serde_json::to_string(&self.input).unwrap_or_default(),
            body: serde_json::to_string(response).unwrap_or_default(),
        };
        let items = self.input.iter().chain(&response.output).map(|item| item.id().to_owned());
        Ok(self.store.put(object, items.collect()).await?)
    }
}

/// A writer whose stream ends when the response is kept.
pub(super) struct KeptWriter {
    writer: ResponseWriter,
    keep: Keep,
}

impl KeptWriter {
    pub(super) fn new(writer: ResponseWriter, keep: Keep) -> Self {
        Self { writer, keep }
    }
}

impl FrameWriter for KeptWriter {
    fn write(&mut self, run: usize, event: &TaskEvent) -> Bytes {
        self.writer.write(run, event)
    }

    fn before_end(&mut self, end: &End) -> BoxFuture<'_, Result<(), ApiError>> {
        Box::pin(self.keep.keep(self.writer.ended(end)))
    }
}
