//! Responses that are put away when they end.

use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::events::End;
use protocol::openai::responses::{Item, Response};
use protocol::{ApiError, TaskEvent};

use crate::inference::{FrameWriter, ResponseWriter};
use crate::store::{Kind, Object, Store};

/// What is kept with a response, and where.
pub struct Keep {
    store: Store,
    owner: String,
    input: Vec<Item>,
}

impl Keep {
    /// For a response of this owner that was asked with these items.
    pub fn new(store: &Store, owner: &str, input: Vec<Item>) -> Self {
        Self { store: store.clone(), owner: owner.to_owned(), input }
    }

    /// Puts a response away.
    pub async fn keep(&self, response: &Response) -> Result<(), ApiError> {
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

    /// The same for one that an attempt before this one may have put away.
    pub async fn keep_anew(&self, response: &Response) -> Result<(), ApiError> {
        self.store.delete(&self.owner, Kind::Response, &response.id).await?;
        self.keep(response).await
    }
}

/// A writer whose stream ends when the response is kept.
pub struct KeptWriter {
    writer: ResponseWriter,
    keep: Keep,
}

impl KeptWriter {
    /// Writes what this writer writes.
    pub fn new(writer: ResponseWriter, keep: Keep) -> Self {
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
