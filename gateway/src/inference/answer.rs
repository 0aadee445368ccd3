//! Answers to requests for text: whole or as events, from the cache where that may be.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use protocol::hive::ModelKind;
use protocol::{ApiError, TaskEvent};
use tokio::time::timeout_at;

use super::cache::Key;
use super::{AnswerCache, Asker, Completed, Inference, InferenceRequest, Parts, Run, Sharing, collect};

impl Inference {
    /// Answers a request in one piece.
    pub async fn complete(
        &self,
        request: InferenceRequest,
        asker: &Asker,
    ) -> Result<(Completed, Sharing), ApiError> {
        let Some((cache, key)) = self.cached(&request, asker)? else {
            return Ok((collect(self.run(request, asker)?).await?, Sharing::Off));
        };
        let deadline = request.deadline;
        let compute = || -> BoxFuture<'_, _> {
            let request = request.clone();
            Box::pin(async move { collect(self.run(request, asker)?).await })
        };
        let shared = cache.text(key, &compute);
        let (completed, sharing) = match deadline {
            // Who waits for another's answer has a deadline of his own.
            Some(deadline) => {
                timeout_at(deadline, shared).await.unwrap_or_else(|_| Err(Run::deadline_passed()))?
            }
            None => shared.await?,
        };
        Ok((Arc::unwrap_or_clone(completed), sharing))
    }

    /// Answers a request by its events, the last of which is `End` or `Error`. Dropping them cancels it.
    pub async fn stream(
        &self,
        request: InferenceRequest,
        asker: &Asker,
    ) -> Result<(BoxStream<'static, TaskEvent>, Sharing), ApiError> {
        let Some((cache, key)) = self.cached(&request, asker)? else {
            return Ok((events(self.run(request, asker)?).boxed(), Sharing::Off));
        };
        if let Some(completed) = cache.kept_text(key).await {
            return Ok((stream::iter(completed.events()).boxed(), Sharing::Hit));
        }
        let run = self.run(request, asker)?;
        Ok((kept(run, cache.clone(), key).boxed(), Sharing::Miss))
    }

    /// The place in the cache of a request's answer, if it may have one.
    fn cached(
        &self,
        request: &InferenceRequest,
        asker: &Asker,
    ) -> Result<Option<(&AnswerCache, Key)>, ApiError> {
        let Some(cache) = self.cache.as_ref().filter(|_| asker.may_share) else { return Ok(None) };
        let model = self.model(&request.model, ModelKind::TextGen)?;
        Ok(AnswerCache::text_key(&asker.caller, model, &request.order).map(|key| (cache, key)))
    }
}

/// The events of a run. Dropping the stream cancels the run.
fn events(run: Run) -> impl futures::Stream<Item = TaskEvent> + Send {
    // Boxed, since it is handed on and taken back with every event.
    stream::unfold(Box::new(run), async |mut run| run.next().await.map(|event| (event, run)))
}

/// The same, and what they come to is kept.
fn kept(run: Run, cache: AnswerCache, key: Key) -> impl futures::Stream<Item = TaskEvent> + Send {
    let parts = Parts::new(run.choices());
    stream::unfold((Box::new(run), parts, cache, key), async |(mut run, mut parts, cache, key)| {
        let event = run.next().await?;
        parts.take(&event);
        if matches!(event, TaskEvent::End(_))
            && let Some(completed) = parts.completed()
            && !completed.is_cancelled()
        {
            cache.keep_text(key, completed).await;
        }
        Some((event, (run, parts, cache, key)))
    })
}
