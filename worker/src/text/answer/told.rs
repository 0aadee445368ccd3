//! What is about to be told, and the tokens that it consists of.

use std::collections::VecDeque;

use protocol::events::{TokenLogprob, ToolCallDelta};

use super::Emission;

/// Where generated text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is text that is told.
    Text,
    /// It is none: a mark, white space around one, thoughts, a call.
    Other,
}

/// Collects emissions of one step. Bytes are settled in the order in which they were expected.
#[derive(Debug, Default)]
pub(super) struct Told {
    emissions: Vec<Emission>,
    /// Tokens whose bytes are not all settled. A token without text goes the way of the one after it.
    waiting: VecDeque<Waiting>,
    /// Tokens of the text that is told next.
    settled: Vec<TokenLogprob>,
}

#[derive(Debug)]
struct Waiting {
    logprob: TokenLogprob,
    bytes: usize,
    is_text: bool,
}

impl Told {
    /// A token has come that stands for so many bytes of text.
    pub(super) fn expect(&mut self, logprob: Option<TokenLogprob>, bytes: usize) {
        match (logprob, self.waiting.back_mut()) {
            (Some(logprob), _) => self.waiting.push_back(Waiting { logprob, bytes, is_text: false }),
            (None, Some(last)) => last.bytes += bytes,
            (None, None) => {}
        }
    }

    /// Text to tell.
    pub(super) fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.settle(text.len(), Fate::Text);
        match self.emissions.last_mut() {
            Some(Emission::Text { text: told, .. }) => told.push_str(text),
            _ => {
                self.emissions.push(Emission::Text { text: text.to_owned(), logprobs: Vec::new() });
            }
        }
        if let Some(Emission::Text { logprobs, .. }) = self.emissions.last_mut() {
            logprobs.append(&mut self.settled);
        }
    }

    /// Thoughts to tell.
    pub(super) fn reasoning(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.drop(text.len());
        match self.emissions.last_mut() {
            Some(Emission::Reasoning(told)) => told.push_str(text),
            _ => self.emissions.push(Emission::Reasoning(text.to_owned())),
        }
    }

    /// A part of a call to tell.
    pub(super) fn call(&mut self, delta: ToolCallDelta) {
        match self.emissions.last_mut() {
            Some(Emission::ToolCall(told)) if told.index == delta.index && delta.id.is_none() => {
                told.arguments.push_str(&delta.arguments);
            }
            _ => self.emissions.push(Emission::ToolCall(delta)),
        }
    }

    /// So many bytes are told as something else than text, or not at all.
    pub(super) fn drop(&mut self, bytes: usize) {
        self.settle(bytes, Fate::Other);
    }

    fn settle(&mut self, mut bytes: usize, fate: Fate) {
        while bytes > 0
            && let Some(first) = self.waiting.front_mut()
        {
            let taken = bytes.min(first.bytes);
            bytes -= taken;
            first.bytes -= taken;
            first.is_text |= fate == Fate::Text;
            if first.bytes > 0 {
                break;
            }
            if let Some(Waiting { logprob, is_text: true, .. }) = self.waiting.pop_front() {
                self.settled.push(logprob);
            }
        }
    }

    /// Hands over what this step has told.
    pub(super) fn tell(&mut self, emissions: &mut Vec<Emission>) {
        emissions.append(&mut self.emissions);
    }

    /// What has been held back until now will not be told.
    pub(super) fn forget(&mut self) {
        // A token whose first bytes have been told is told itself.
        let begun = self.waiting.pop_front().filter(|first| first.is_text).map(|first| first.logprob);
        self.waiting.clear();
        self.attach(begun.into_iter().collect());
    }

    /// Hands over the last of it, with the tokens that have no text.
    pub(super) fn finish(&mut self, emissions: &mut Vec<Emission>) {
        let logprobs = self.waiting.drain(..).map(|waiting| waiting.logprob).collect();
        self.attach(logprobs);
        self.tell(emissions);
    }

    /// Tells of tokens with the last text of this step, or with none if there is no text.
    fn attach(&mut self, logprobs: Vec<TokenLogprob>) {
        match self.emissions.last_mut() {
            _ if logprobs.is_empty() => {}
            Some(Emission::Text { logprobs: told, .. }) => told.extend(logprobs),
            _ => self.emissions.push(Emission::Text { text: String::new(), logprobs }),
        }
    }
}
