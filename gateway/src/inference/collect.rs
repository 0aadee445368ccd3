//! A run's events as one answer, for callers that do not stream.

use protocol::events::{FinishReason, Prompt, TokenUsage, ToolCallDelta};
use protocol::worker::{ExecuteChoice, ToolCall};
use protocol::{ApiError, ErrorCode, TaskEvent};
use tokio::time::{Instant, sleep_until};

use super::Run;
use super::run::still_loading;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Completed {
    /// The answers, at least one.
    pub choices: Vec<ExecuteChoice>,
    /// The prompt as the model read it, if that was asked for.
    pub prompt: Option<Prompt>,
    pub usage: TokenUsage,
}

impl Completed {
    /// Whether somebody ended it before its end.
    pub(super) fn is_cancelled(&self) -> bool {
        self.choices.iter().any(|choice| choice.finish_reason == FinishReason::Cancelled)
    }
}

/// Follows a run to its end. A model that is still loading when the cold-start wait is over is an error; the load goes on.
pub async fn collect(mut run: Run) -> Result<Completed, ApiError> {
    let cold_start_wait = run.cold_start_wait();
    let mut loading_since = None;
    let mut parts = Parts::new(run.choices());
    loop {
        let event = tokio::select! {
            event = run.next() => event,
            () = sleep_until(loading_since.unwrap_or_else(Instant::now) + cold_start_wait), if loading_since.is_some() => {
                return Err(still_loading(run.model(), cold_start_wait));
            }
        };
        match event {
            Some(TaskEvent::Queued(_) | TaskEvent::Started(_)) => loading_since = None,
            Some(TaskEvent::Narration(_)) => {
                loading_since.get_or_insert_with(Instant::now);
            }
            Some(TaskEvent::Error(envelope)) => return Err(envelope.error),
            Some(event) => parts.take(&event),
            None => return Err(ApiError::new(ErrorCode::Internal, "The answer ended without an end.")),
        }
        if let Some(completed) = parts.completed() {
            // Nobody here has cancelled it, or nobody would be waiting.
            let message = "The answer was cancelled at its worker.";
            let is_whole = !completed.is_cancelled();
            return if is_whole { Ok(completed) } else { Err(ApiError::new(ErrorCode::WorkerLost, message)) };
        }
    }
}

/// Answers so far, put together from events.
#[derive(Debug)]
pub struct Parts {
    /// The answers, as many as were asked for; how each ended is true once there is a usage.
    pub choices: Vec<ExecuteChoice>,
    /// The prompt, if its event has come.
    pub prompt: Option<Prompt>,
    /// What it consumed, once the end has come.
    pub usage: Option<TokenUsage>,
}

impl Parts {
    /// Nothing of so many answers.
    pub fn new(choices: u32) -> Self {
        let nothing = ExecuteChoice {
            text: String::new(),
            reasoning: String::new(),
            tool_calls: Vec::new(),
            logprobs: Vec::new(),
            finish_reason: protocol::events::FinishReason::Stop,
            stop_sequence: None,
        };
        Self { choices: vec![nothing; choices as usize], prompt: None, usage: None }
    }

    /// The whole answer, once the end has come; it is given out once.
    pub(super) fn completed(&mut self) -> Option<Completed> {
        let usage = self.usage.take()?;
        let (choices, prompt) = (std::mem::take(&mut self.choices), self.prompt.take());
        Some(Completed { choices, prompt, usage })
    }

    /// Adds what an event tells.
    pub fn take(&mut self, event: &TaskEvent) {
        match event {
            TaskEvent::Token(token) => {
                if let Some(choice) = self.choices.get_mut(token.choice as usize) {
                    choice.text.push_str(&token.token);
                    choice.logprobs.extend_from_slice(&token.logprobs);
                }
            }
            TaskEvent::Reasoning(reasoning) => {
                if let Some(choice) = self.choices.get_mut(reasoning.choice as usize) {
                    choice.reasoning.push_str(&reasoning.text);
                }
            }
            TaskEvent::ToolCall(delta) => {
                if let Some(choice) = self.choices.get_mut(delta.choice as usize) {
                    add_to_call(&mut choice.tool_calls, delta);
                }
            }
            TaskEvent::Prompt(prompt) => self.prompt = Some(prompt.clone()),
            TaskEvent::End(end) => {
                self.usage = Some(end.usage);
                for (index, choice) in self.choices.iter_mut().enumerate() {
                    choice.finish_reason = end.finish_reason_of(index);
                    choice.stop_sequence = end.stop_sequence_of(index).map(str::to_owned);
                }
            }
            TaskEvent::Queued(_)
            | TaskEvent::Narration(_)
            | TaskEvent::Started(_)
            | TaskEvent::Result(_)
            | TaskEvent::Error(_) => {}
        }
    }
}

/// A call's first part has its id and name and comes after the calls before it.
fn add_to_call(calls: &mut Vec<ToolCall>, delta: &ToolCallDelta) {
    if let (Some(id), Some(name)) = (&delta.id, &delta.name) {
        calls.push(ToolCall { id: id.clone(), name: name.clone(), arguments: delta.arguments.clone() });
    } else if let Some(call) = calls.get_mut(delta.index as usize) {
        call.arguments.push_str(&delta.arguments);
    }
}

#[cfg(test)]
mod tests {
    use protocol::events::{End, FinishReason, Reasoning, Timings, Token};

    use super::*;

    #[test]
    fn events_of_several_answers_are_put_together() {
        let delta = |index, id: Option<&str>, arguments: &str| {
            TaskEvent::ToolCall(ToolCallDelta {
                choice: 1,
                index,
                id: id.map(str::to_owned),
                name: id.map(|_| "f".to_owned()),
                arguments: arguments.to_owned(),
            })
        };
        let token = |text: &str| TaskEvent::Token(Token { token: text.to_owned(), ..Token::default() });
        let mut parts = Parts::new(2);
        for event in [
            token("a"),
            delta(0, Some("c0"), "{"),
            TaskEvent::Reasoning(Reasoning { text: "hm".to_owned(), choice: 1 }),
            delta(0, None, "}"),
            token("b"),
            delta(1, Some("c1"), "{}"),
        ] {
            parts.take(&event);
        }
        assert!(parts.usage.is_none());
        parts.take(&TaskEvent::End(End {
            done: true,
            total_tokens: 4,
            finish_reason: FinishReason::Length,
            finish_reasons: vec![FinishReason::Length, FinishReason::ToolCalls],
            stop_sequences: vec![None, Some("END".to_owned())],
            usage: TokenUsage::default(),
            timings: Timings::default(),
        }));
        let [first, second] = &parts.choices[..] else { panic!("two answers") };
        assert_eq!((first.text.as_str(), first.finish_reason), ("ab", FinishReason::Length));
        assert_eq!((first.stop_sequence.as_deref(), second.stop_sequence.as_deref()), (None, Some("END")));
        assert_eq!((second.reasoning.as_str(), second.finish_reason), ("hm", FinishReason::ToolCalls));
        let calls: Vec<_> =
            second.tool_calls.iter().map(|call| (call.id.as_str(), call.arguments.as_str())).collect();
        assert_eq!(calls, [("c0", "{}"), ("c1", "{}")]);
    }
}
