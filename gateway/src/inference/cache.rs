//! Answers that would be the same again: of requests without chance, kept for a while, and shared by those who ask
//! for the same at the same time.
//!
//! An answer is found again by its caller only, and only by a request that is the same in all that could change it.
//! A stream is answered from the cache and puts its answer there, but does not wait for another one: each reader has a
//! pace of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use moka::future::Cache;
use protocol::events::{End, Reasoning, Started, Timings, Token, TokenLogprob, ToolCallDelta};
use protocol::vectors::{EmbedRequest, EmbedResponse, Vector};
use protocol::worker::{ExecuteChoice, ExecuteRequest};
use protocol::{ApiError, TaskEvent};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Completed;

const KEPT_FOR: Duration = Duration::from_hours(1);
/// What an entry takes beside its texts and numbers.
const ENTRY_BYTES: usize = 256;

/// All that an answer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

/// Makes an answer that is not kept yet.
pub(super) type Compute<'a, T> = dyn Fn() -> BoxFuture<'a, Result<T, ApiError>> + Sync + 'a;

/// Whether an answer came from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// It is nobody else's: it depends on chance, or the caller wants it so, or there is no cache.
    Off,
    /// It was computed for this request, and is kept.
    Miss,
    /// It was computed for another one.
    Hit,
}

impl Sharing {
    /// Of an answer that is put together from several: the least shared one counts.
    pub fn of_all(parts: impl Iterator<Item = Self>) -> Self {
        parts.min_by_key(|sharing| *sharing as u8).unwrap_or(Self::Off)
    }
}

/// The answers. Cheap to clone.
#[derive(Clone)]
pub struct AnswerCache {
    texts: Cache<Key, Arc<Completed>>,
    vectors: Cache<Key, Arc<EmbedResponse>>,
}

impl AnswerCache {
    /// Of so many bytes for texts, and as many for vectors; none if there are none.
    pub fn new(bytes: u64) -> Option<Self> {
        (bytes > 0).then(|| Self {
            texts: Cache::builder()
                .weigher(|_, completed: &Arc<Completed>| completed.bytes() as u32)
                .max_capacity(bytes)
                .time_to_live(KEPT_FOR)
                .build(),
            vectors: Cache::builder()
                .weigher(|_, answer: &Arc<EmbedResponse>| vector_bytes(answer) as u32)
                .max_capacity(bytes)
                .time_to_live(KEPT_FOR)
                .build(),
        })
    }

    /// What a text request's answer depends on; none if it depends on chance.
    pub(super) fn text_key(caller: &str, model: &str, order: &ExecuteRequest) -> Option<Key> {
        let is_certain = order.temperature == Some(0.0) || order.seed.is_some();
        is_certain.then(|| key("text", caller, model, order))
    }

    /// What an embedding depends on.
    pub(super) fn vector_key(caller: &str, model: &str, request: &EmbedRequest) -> Key {
        key("vector", caller, model, request)
    }

    /// The answer that is kept, or the one that `compute` gives, which is then kept.
    pub(super) async fn text(
        &self,
        key: Key,
        compute: &Compute<'_, Completed>,
    ) -> Result<(Arc<Completed>, Sharing), ApiError> {
        shared(&self.texts, key, compute).await
    }

    /// The vectors that are kept, or those that `compute` gives, which are then kept.
    pub(super) async fn vectors(
        &self,
        key: Key,
        compute: &Compute<'_, EmbedResponse>,
    ) -> Result<(Arc<EmbedResponse>, Sharing), ApiError> {
        shared(&self.vectors, key, compute).await
    }

    /// The answer that is kept.
    pub(super) async fn kept_text(&self, key: Key) -> Option<Arc<Completed>> {
        self.texts.get(&key).await
    }

    /// Keeps an answer.
    pub(super) async fn keep_text(&self, key: Key, completed: Completed) {
        self.texts.insert(key, Arc::new(completed)).await;
    }
}

/// Of those who ask at once, one computes and the others wait; if he goes away, another one takes over.
async fn shared<T: Send + Sync + 'static>(
    cache: &Cache<Key, Arc<T>>,
    key: Key,
    compute: &Compute<'_, T>,
) -> Result<(Arc<T>, Sharing), ApiError> {
    let is_mine = AtomicBool::new(false);
    let mine = async {
        is_mine.store(true, Ordering::Relaxed);
        compute().await.map(Arc::new)
    };
    match cache.try_get_with(key, mine).await {
        Ok(answer) if is_mine.load(Ordering::Relaxed) => Ok((answer, Sharing::Miss)),
        Ok(answer) => Ok((answer, Sharing::Hit)),
        Err(error) if is_mine.load(Ordering::Relaxed) => Err(Arc::unwrap_or_clone(error)),
        // His fault, such as a deadline, need not be ours.
        Err(_) => Ok((Arc::new(compute().await?), Sharing::Miss)),
    }
}

fn key(kind: &str, caller: &str, model: &str, asked: &impl Serialize) -> Key {
    let mut hash = Sha256::new();
    for part in [kind, caller, model] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(serde_json::to_vec(asked).unwrap_or_default());
    Key(hash.finalize().into())
}

fn vector_bytes(answer: &EmbedResponse) -> usize {
    let bytes = |vector: &Vector| match vector {
        Vector::Float(numbers) => numbers.len() * size_of::<f32>(),
        Vector::Base64(text) => text.len(),
    };
    ENTRY_BYTES + answer.embeddings.iter().map(bytes).sum::<usize>()
}

impl Completed {
    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let tokens = |told: &[TokenLogprob]| told.iter().map(|told| 96 * (1 + told.top.len())).sum::<usize>();
        let choice = |choice: &ExecuteChoice| {
            let calls: usize = choice.tool_calls.iter().map(|call| ENTRY_BYTES + call.arguments.len()).sum();
            choice.text.len() + choice.reasoning.len() + calls + tokens(&choice.logprobs)
        };
        let prompt = self.prompt.as_ref().map_or(0, |prompt| prompt.text.len() + tokens(&prompt.logprobs));
        ENTRY_BYTES + prompt + self.choices.iter().map(choice).sum::<usize>()
    }

    /// The events that an answer is put together from, each part in one.
    pub(super) fn events(&self) -> Vec<TaskEvent> {
        let prompt_tokens = self.usage.prompt_tokens;
        let mut events =
            vec![TaskEvent::Started(Started { worker_id: "cache".into(), prompt_tokens, seed: 0 })];
        events.extend(self.prompt.clone().map(TaskEvent::Prompt));
        for (choice, number) in self.choices.iter().zip(0..) {
            if !choice.reasoning.is_empty() {
                let text = choice.reasoning.clone();
                events.push(TaskEvent::Reasoning(Reasoning { text, choice: number }));
            }
            if !choice.text.is_empty() || !choice.logprobs.is_empty() {
                events.push(TaskEvent::Token(Token {
                    token: choice.text.clone(),
                    index: 0,
                    choice: number,
                    logprobs: choice.logprobs.clone(),
                }));
            }
            for (call, index) in choice.tool_calls.iter().zip(0..) {
                events.push(TaskEvent::ToolCall(ToolCallDelta {
                    choice: number,
                    index,
                    id: Some(call.id.clone()),
                    name: Some(call.name.clone()),
                    arguments: call.arguments.clone(),
                }));
            }
        }
        events.push(TaskEvent::End(End {
            done: true,
            total_tokens: self.usage.completion_tokens,
            finish_reason: self.choices[0].finish_reason,
            finish_reasons: self.choices.iter().map(|choice| choice.finish_reason).collect(),
            stop_sequences: self.choices.iter().map(|choice| choice.stop_sequence.clone()).collect(),
            usage: self.usage,
            timings: Timings::default(),
        }));
        events
    }
}
