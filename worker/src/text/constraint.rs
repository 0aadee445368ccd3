//! What an answer must be, kept to while it is generated: before each token, those that would lead away are ruled out.
//!
//! A constraint is compiled once into a [`Grammar`], off the engine's thread and within limits of time and size, and
//! kept. Each answer walks it with a [`Guide`] of its own, whose masks are computed on threads of their own while the
//! model computes the step. The parser and its lexer are the crate llguidance; what is here is our vocabulary as a trie,
//! the limits, and the words about what a schema may not say.
//!
//! An answer that reaches its token limit inside a constraint ends with `length`, and is a beginning of what was asked.
//! Ends of turn are possible exactly where the grammar may end; where it can only end, the answer is over.

mod compile;
mod guide;
mod schema;
mod trie;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use moka::sync::Cache;
use protocol::worker::Constraint;
use protocol::{ApiError, ErrorCode};
use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

use crate::text::vocabulary::Vocabulary;
use guide::Masks;
pub use guide::{Grammar, Guide};
pub use schema::prepare as prepare_schema;
use trie::Tokens;

/// Bytes of a constraint's text at most.
pub const TEXT_BYTES_MAX: usize = 256 << 10;
/// Grammars that are kept at most, and their bytes together.
const KEPT_COUNT: u64 = 512;
const KEPT_BYTES: u64 = 64 << 20;
/// Grammars that are compiled at once.
const COMPILED_AT_ONCE: usize = 2;
/// A grammar that takes longer to compile is refused.
const COMPILE_MAX: Duration = Duration::from_secs(10);
/// The stack of threads that compile grammars or walk them: both descend as deep as a text nests. Untouched pages of it
/// take no memory.
const STACK_BYTES: usize = 256 << 20;

/// The grammars of one model.
pub struct Grammars {
    vocabulary: Arc<Vocabulary>,
    /// Built when the first constraint comes.
    tokens: OnceLock<Result<Tokens, String>>,
    kept: Cache<String, Arc<Grammar>>,
    compiling: Arc<Semaphore>,
    masks: Masks,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("kept", &self.kept.entry_count()).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Grammars over a model's tokens; none yet.
    pub fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self {
            vocabulary,
            tokens: OnceLock::new(),
            // One weight bounds both: a small grammar weighs as much as its share of the count.
            kept: Cache::builder()
                .max_capacity(KEPT_BYTES)
                .weigher(|key: &String, grammar: &Arc<Grammar>| {
                    let bytes = (key.len() + grammar.bytes()).max((KEPT_BYTES / KEPT_COUNT) as usize);
                    u32::try_from(bytes).unwrap_or(u32::MAX)
                })
                .build(),
            compiling: Arc::new(Semaphore::new(COMPILED_AT_ONCE)),
            masks: Masks::new(),
        }
    }

    /// The grammar of a constraint: a kept one, or one compiled now. An error names what cannot be kept to.
    pub async fn get(self: &Arc<Self>, constraint: &Constraint) -> Result<Arc<Grammar>, ApiError> {
        self.compiled(compile::Source::of(constraint)?).await
    }

    /// The grammar of a schema, which errors name by `param`.
    pub async fn schema(self: &Arc<Self>, schema: &Value, param: &str) -> Result<Arc<Grammar>, ApiError> {
        self.compiled(compile::Source::of_schema(schema, param)?).await
    }

    async fn compiled(self: &Arc<Self>, source: compile::Source) -> Result<Arc<Grammar>, ApiError> {
        if let Some(grammar) = self.kept.get(source.key()) {
            return Ok(grammar);
        }
        let waiting = self.compiling.clone().acquire_owned();
        let turn = tokio::time::timeout(COMPILE_MAX, waiting).await.ok().and_then(Result::ok);
        let turn = turn.ok_or_else(|| {
            let message = format!("{COMPILED_AT_ONCE} other constraints are being compiled.");
            ApiError::new(ErrorCode::AllSlotsBusy, message).with_retry_after_ms(1_000)
        })?;
        // Another request may have asked for the same in the meantime.
        if let Some(grammar) = self.kept.get(source.key()) {
            return Ok(grammar);
        }
        let (sender, receiver) = oneshot::channel();
        let grammars = self.clone();
        let compiling = move || {
            let compiled = grammars.compile(&source);
            if let Ok(grammar) = &compiled {
                grammars.kept.insert(source.into_key(), grammar.clone());
            }
            drop(turn);
            // Whoever asked may have given up.
            let _ = sender.send(compiled);
        };
        std::thread::Builder::new()
            .name("grammar".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(compiling)
            .map_err(|error| internal(&format!("cannot start a thread: {error}")))?;
        let Ok(compiled) = tokio::time::timeout(COMPILE_MAX, receiver).await else {
            let message = format!("The constraint takes longer than {} s to compile.", COMPILE_MAX.as_secs());
            return Err(ApiError::invalid("constraint", message));
        };
        compiled.unwrap_or_else(|_| Err(internal("the compiler of grammars panicked")))
    }

    fn compile(&self, source: &compile::Source) -> Result<Arc<Grammar>, ApiError> {
        let tokens = self
            .tokens
            .get_or_init(|| Tokens::new(&self.vocabulary))
            .as_ref()
            .map_err(|error| internal(error))?;
        compile::compile(source, tokens, &self.masks).map(Arc::new)
    }
}

fn internal(message: &str) -> ApiError {
    tracing::error!(message, "a constraint failed");
    ApiError::new(ErrorCode::Internal, "The constraint could not be prepared; the worker's log tells why.")
}

/// The first line of an error of llguidance, without the state that it dumps, and not longer than a person reads.
fn first_line(error: &str) -> String {
    const CHARACTERS_MAX: usize = 300;
    error.lines().next().unwrap_or_default().chars().take(CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests;
