//! From generated tokens to what may be told of them: text, thoughts and calls of tools.
//!
//! Tokens become whole code points, stop strings end them, marks sort them into channels. Nothing of a mark or of a stop
//! string is ever told, nothing else is lost, and how the text is cut into tokens changes nothing.

mod channels;
mod told;

use std::sync::Arc;

use protocol::events::{LikelyToken, TokenLogprob, ToolCallDelta};

use crate::text::reasoning::ReasoningMarks;
use crate::text::tools::Calls;
use crate::text::vocabulary::Vocabulary;
use channels::Channels;
use told::Told;

/// What tokens added to an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Emission {
    /// Text, whole code points, with the tokens that it consists of if log probabilities are told.
    Text {
        /// Empty only if what remains at the end are tokens without text.
        text: String,
        /// The tokens, where they are told.
        logprobs: Vec<TokenLogprob>,
    },
    /// Thoughts.
    Reasoning(String),
    /// A part of a call. Its choice is 0.
    ToolCall(ToolCallDelta),
}

/// Whether an answer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It does.
    Goes,
    /// A stop string is complete, or the one call that may be.
    Ended,
}

/// How an answer is read, settled before its first token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AnswerPlan {
    /// The answer ends before any of these; none is empty.
    pub stop: Vec<String>,
    /// So many tokens go by before a stop string counts.
    pub min_tokens: usize,
    /// The marks of thoughts, and whether the answer begins with them because the prompt has opened them.
    pub thoughts: Option<(ReasoningMarks, bool)>,
    /// The calls to look for.
    pub calls: Option<Calls>,
}

impl AnswerPlan {
    /// Control tokens that are read as their texts.
    fn marks(&self, vocabulary: &Vocabulary) -> Vec<u32> {
        let thoughts = self.thoughts.iter().flat_map(|(marks, _)| [marks.open, marks.close]);
        let calls = self.calls.iter().flat_map(|calls| calls.format.marks().iter().copied());
        thoughts.chain(calls).filter_map(|mark| vocabulary.id(mark)).collect()
    }
}

/// One answer on its way out.
#[derive(Debug)]
pub struct Answer {
    vocabulary: Arc<Vocabulary>,
    plan: Arc<AnswerPlan>,
    marks: Vec<u32>,
    tokens: usize,
    reasoning_tokens: usize,
    /// Bytes of a code point that is not complete.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    channels: Channels,
    told: Told,
    /// Which of the stop strings is complete.
    stopped_by: Option<usize>,
}

impl Answer {
    /// An empty answer.
    pub fn new(vocabulary: Arc<Vocabulary>, plan: Arc<AnswerPlan>) -> Self {
        Self {
            marks: plan.marks(&vocabulary),
            channels: Channels::new(plan.clone()),
            vocabulary,
            plan,
            tokens: 0,
            reasoning_tokens: 0,
            bytes: Vec::new(),
            held: String::new(),
            told: Told::default(),
            stopped_by: None,
        }
    }

    /// Takes a generated token and appends to `emissions` what can be told now. `logprob` tells how likely the token was,
    /// for every token or for none.
    pub fn push(
        &mut self,
        token: u32,
        logprob: Option<TokenLogprob>,
        emissions: &mut Vec<Emission>,
    ) -> Progress {
        self.tokens += 1;
        let was_thinking = self.channels.is_thinking();
        let before = self.held.len();
        if self.marks.contains(&token) {
            self.vocabulary.append_spelling(token, &mut self.bytes);
        } else {
            self.vocabulary.append_bytes(token, &mut self.bytes);
        }
        self.take_complete();
        self.told.expect(logprob, self.held.len() - before);
        let progress = self.release();
        self.reasoning_tokens += usize::from(was_thinking || self.channels.is_thinking());
        self.told.tell(emissions);
        progress
    }

    /// Tells what is still held back once no token follows. A code point that was never completed shows as U+FFFD.
    pub fn finish(&mut self, emissions: &mut Vec<Emission>) {
        if !self.bytes.is_empty() {
            let rest = String::from_utf8_lossy(&self.bytes).into_owned();
            self.bytes.clear();
            self.told.expect(None, rest.len());
            self.held.push_str(&rest);
        }
        self.channels.feed(&std::mem::take(&mut self.held), &mut self.told);
        self.channels.finish(&mut self.told);
        self.told.finish(emissions);
    }

    /// Tokens that were thought, marks included.
    pub fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    /// Whether a tool has been called.
    pub fn has_called(&self) -> bool {
        self.channels.calls() > 0
    }

    /// The stop string that ended it, if one did.
    pub fn stop_sequence(&self) -> Option<&str> {
        self.stopped_by.map(|index| self.plan.stop[index].as_str())
    }

    /// Passes on what can be no beginning of a stop string.
    fn release(&mut self) -> Progress {
        let stop = if self.tokens > self.plan.min_tokens { &self.plan.stop[..] } else { &[] };
        let found = stop.iter().enumerate().filter_map(|(index, stop)| Some((self.held.find(stop)?, index)));
        if let Some((at, index)) = found.min() {
            self.stopped_by = Some(index);
            self.held.truncate(at);
            self.bytes.clear();
            self.channels.feed(&std::mem::take(&mut self.held), &mut self.told);
            self.channels.finish(&mut self.told);
            self.told.forget();
            return Progress::Ended;
        }
        let kept = stop.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let free = self.held.len() - kept;
        self.channels.feed(&self.held[..free], &mut self.told);
        self.held.drain(..free);
        if self.channels.is_over() { Progress::Ended } else { Progress::Goes }
    }

    /// Moves complete code points from the bytes to the text; bytes that can never be one become U+FFFD.
    fn take_complete(&mut self) {
        let mut used = 0;
        for chunk in self.bytes.utf8_chunks() {
            let at_end = used + chunk.valid().len() + chunk.invalid().len() == self.bytes.len();
            self.held.push_str(chunk.valid());
            used += chunk.valid().len();
            if chunk.invalid().is_empty() || (at_end && is_incomplete(chunk.invalid())) {
                break;
            }
            self.held.push(char::REPLACEMENT_CHARACTER);
            used += chunk.invalid().len();
        }
        self.bytes.drain(..used);
    }
}

/// A token as it is told beside its log probability. A control token goes by its name and has no bytes.
pub fn likely_token(vocabulary: &Vocabulary, id: u32, logprob: Option<f32>) -> LikelyToken {
    let (mut bytes, mut name) = (Vec::new(), Vec::new());
    vocabulary.append_bytes(id, &mut bytes);
    if bytes.is_empty() {
        vocabulary.append_spelling(id, &mut name);
    }
    let text = String::from_utf8_lossy(if bytes.is_empty() { &name } else { &bytes }).into_owned();
    LikelyToken { id, text, bytes, logprob }
}

/// Whether more bytes could make a code point of these.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Length of the longest end of `text` that is a beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len());
    (1..=longest)
        .rev()
        .find(|len| stop.is_char_boundary(*len) && text.as_bytes().ends_with(&stop.as_bytes()[..*len]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
