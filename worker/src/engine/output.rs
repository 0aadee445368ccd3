//! From a choice's tokens to the events that its caller gets.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::events::{Reasoning, Token, TokenLogprob, ToolCallDelta};

use crate::engine::Event;
use crate::text::answer::{Answer, AnswerPlan, Emission, Progress};
use crate::text::vocabulary::Vocabulary;

/// The output of one choice.
#[derive(Debug)]
pub(super) struct Output {
    choice: u32,
    answer: Answer,
    /// Token events so far.
    index: u32,
    emissions: Vec<Emission>,
}

impl Output {
    /// The output of the choice of this number.
    pub(super) fn new(choice: u32, vocabulary: Arc<Vocabulary>, plan: Arc<AnswerPlan>) -> Self {
        Self { choice, answer: Answer::new(vocabulary, plan), index: 0, emissions: Vec::new() }
    }

    /// Tokens that were thought and not said.
    pub(super) fn reasoning_tokens(&self) -> usize {
        self.answer.reasoning_tokens()
    }

    /// Whether a tool was called.
    pub(super) fn has_called(&self) -> bool {
        self.answer.has_called()
    }

    /// The stop string that ended it, if one did.
    pub(super) fn stop_sequence(&self) -> Option<&str> {
        self.answer.stop_sequence()
    }

    /// Takes a token and sends what it makes.
    pub(super) fn push(
        &mut self,
        token: u32,
        logprob: Option<TokenLogprob>,
        events: &mut VecDeque<Event>,
    ) -> Progress {
        let progress = self.answer.push(token, logprob, &mut self.emissions);
        self.send(events);
        progress
    }

    /// Sends what was held back. Nothing may be pushed after it.
    pub(super) fn finish(&mut self, events: &mut VecDeque<Event>) {
        self.answer.finish(&mut self.emissions);
        self.send(events);
    }

    fn send(&mut self, events: &mut VecDeque<Event>) {
        let choice = self.choice;
        for emission in self.emissions.drain(..) {
            events.push_back(match emission {
                Emission::Text { text: token, logprobs } => {
                    self.index += 1;
                    Event::Token(Token { token, index: self.index - 1, choice, logprobs })
                }
                Emission::Reasoning(text) => Event::Reasoning(Reasoning { text, choice }),
                Emission::ToolCall(delta) => Event::ToolCall(ToolCallDelta { choice, ..delta }),
            });
        }
    }
}
