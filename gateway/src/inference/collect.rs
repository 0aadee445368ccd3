//! A run's events as one answer, for callers that do not stream.

use protocol::events::{FinishReason, TokenUsage};
use protocol::{ApiError, ErrorCode, TaskEvent};
use tokio::time::{Instant, sleep_until};

use super::Run;

/// A load is worth asking after again in this time.
const RETRY_AFTER_LOAD_MS: u64 = 5000;

/// A whole answer.
#[derive(Debug)]
pub struct Completed {
    pub text: String,
    pub finish_reason: FinishReason,
    pub usage: TokenUsage,
}

/// Follows a run to its end. A model that is still loading when the cold-start wait is over is an error; the load goes on.
pub async fn collect(mut run: Run) -> Result<Completed, ApiError> {
    let cold_start_wait = run.cold_start_wait();
    let mut loading_since = None;
    let mut text = String::new();
    loop {
        let event = tokio::select! {
            event = run.next() => event,
            () = sleep_until(loading_since.unwrap_or_else(Instant::now) + cold_start_wait), if loading_since.is_some() => {
                let message = format!("'{}' is still loading after {} s.", run.model(), cold_start_wait.as_secs());
                return Err(ApiError::new(ErrorCode::ModelLoading, message).with_retry_after_ms(RETRY_AFTER_LOAD_MS));
            }
        };
        match event {
            Some(TaskEvent::Queued(_) | TaskEvent::Started(_)) => loading_since = None,
            Some(TaskEvent::Prompt(_) | TaskEvent::Reasoning(_) | TaskEvent::ToolCall(_)) => {}
            Some(TaskEvent::Narration(_)) => {
                loading_since.get_or_insert_with(Instant::now);
            }
            Some(TaskEvent::Token(token)) => text.push_str(&token.token),
            Some(TaskEvent::End(end)) => {
                return Ok(Completed { text, finish_reason: end.finish_reason, usage: end.usage });
            }
            Some(TaskEvent::Error(envelope)) => return Err(envelope.error),
            None => return Err(ApiError::new(ErrorCode::Internal, "The answer ended without an end.")),
        }
    }
}
