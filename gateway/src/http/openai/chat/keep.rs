//! Chat completions that are put away when they end.

use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::events::End;
use protocol::openai::chat::{ChatCompletion, ChatCompletionRequest, StoredMessage};
use protocol::openai::metadata::Metadata;
use protocol::{ApiError, TaskEvent};

use crate::inference::{Asker, ChatWriter, Completed, FrameWriter, Head, Parts, chat_completion};
use crate::store::{Kind, Object, Store};

/// What is kept with an answer, and where.
#[derive(Clone)]
pub(super) struct Keep {
    store: Store,
    owner: String,
    metadata: Metadata,
    messages: Vec<StoredMessage>,
}

impl Keep {
    pub(super) fn new(store: &Store, asker: &Asker, head: &Head, body: &ChatCompletionRequest) -> Self {
        let messages = body.messages.iter().enumerate();
        Self {
            store: store.clone(),
            owner: asker.caller.to_string(),
            metadata: body.metadata.clone().unwrap_or_default(),
            messages: messages
                .map(|(number, message)| StoredMessage::new(&head.id, number, message))
                .collect(),
        }
    }

    /// Puts an answer away and returns it with what makes it one that is kept.
    pub(super) async fn kept(self, mut completion: ChatCompletion) -> Result<ChatCompletion, ApiError> {
        let object = Object {
            kind: Kind::ChatCompletion,
            id: completion.id.clone(),
            owner: self.owner,
            created_at: completion.created,
            model: completion.model.clone(),
            metadata: self.metadata.clone(),
            previous: None,
            input: serde_json::to_string(&self.messages).unwrap_or_default(),
            body: serde_json::to_string(&completion).unwrap_or_default(),
        };
        self.store.put(object, Vec::new()).await?;
        completion.metadata = Some(self.metadata);
        Ok(completion)
    }
}

/// A writer whose stream ends when the answer is kept.
pub(super) struct KeptWriter {
    writer: ChatWriter,
    keep: Keep,
    head: Head,
    parts: Parts,
    logprobs: bool,
}

impl KeptWriter {
    pub(super) fn new(writer: ChatWriter, keep: Keep, head: Head, choices: u32, logprobs: bool) -> Self {
        Self { writer, keep, head, parts: Parts::new(choices), logprobs }
    }
}

impl FrameWriter for KeptWriter {
    fn write(&mut self, run: usize, event: &TaskEvent) -> Bytes {
        self.parts.take(event);
        self.writer.write(run, event)
    }

    fn before_end(&mut self, end: &End) -> BoxFuture<'_, Result<(), ApiError>> {
        let mut parts = std::mem::replace(&mut self.parts, Parts::new(0));
        parts.take(&TaskEvent::End(end.clone()));
        let completed = Completed { choices: parts.choices, prompt: None, usage: end.usage };
        let completion = chat_completion(self.head.clone(), completed, self.logprobs);
        let keep = self.keep.clone();
        Box::pin(async move { keep.kept(completion).await.map(drop) })
    }
}
