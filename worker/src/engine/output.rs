//! From a choice's tokens to the events that its caller gets: code points, stop strings, what a parser makes of the text,
//! and log probabilities beside the text that they belong to.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use protocol::events::{Reasoning, Token, TokenLogprob, ToolCallDelta};

use crate::engine::Event;
use crate::text::output::{Emitted, TextOutput};
use crate::text::vocabulary::Vocabulary;

/// A piece of an answer as its parser sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// What is said.
    Text(String),
    /// What is thought.
    Reasoning(String),
    /// A call of a tool, or more of its arguments; which choice it is of, the engine knows.
    ToolCall(ToolCallDelta),
}

/// Tells apart what a model says, thinks and calls. It gets the answer's text as it comes, stop strings taken out.
pub trait TextParser: Debug + Send {
    /// Takes more text and gives the pieces that are certain.
    fn push(&mut self, text: &str, pieces: &mut Vec<Piece>);

    /// Gives the pieces that are left when no text follows.
    fn finish(&mut self, pieces: &mut Vec<Piece>);
}

/// The output of one choice.
#[derive(Debug)]
pub(super) struct Output {
    choice: u32,
    text: TextOutput,
    /// Stop strings that do not count yet.
    stop: Vec<String>,
    parser: Option<Box<dyn TextParser>>,
    pieces: Vec<Piece>,
    /// Token events so far.
    index: u32,
    /// Log probabilities whose text is held back, each with the place in the answer where that text begins.
    held: VecDeque<(usize, TokenLogprob)>,
    /// Log probabilities whose text is with the parser.
    parsing: Vec<TokenLogprob>,
    taken_bytes: usize,
    given_bytes: usize,
    is_reasoning: bool,
    called_tools: bool,
}

/// Whether an answer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It does.
    Going,
    /// A stop string ended it.
    Stopped,
}

impl Output {
    /// The output of the choice of this number. No stop string counts until [`Self::heed_stops`] is called.
    pub(super) fn new(
        choice: u32,
        vocabulary: Arc<Vocabulary>,
        stop: Vec<String>,
        parser: Option<Box<dyn TextParser>>,
    ) -> Self {
        Self {
            choice,
            text: TextOutput::new(vocabulary, Vec::new()),
            stop,
            parser,
            pieces: Vec::new(),
            index: 0,
            held: VecDeque::new(),
            parsing: Vec::new(),
            taken_bytes: 0,
            given_bytes: 0,
            is_reasoning: false,
            called_tools: false,
        }
    }

    /// From here on a stop string ends the answer.
    pub(super) fn heed_stops(&mut self) {
        if !self.stop.is_empty() {
            self.text.stop_before(std::mem::take(&mut self.stop));
        }
    }

    /// Whether the last text was thought and not said.
    pub(super) fn is_reasoning(&self) -> bool {
        self.is_reasoning
    }

    /// Whether a tool was called.
    pub(super) fn called_tools(&self) -> bool {
        self.called_tools
    }

    /// Takes a token of so many bytes and sends what it makes.
    pub(super) fn push(
        &mut self,
        token: u32,
        logprob: Option<TokenLogprob>,
        events: &mut VecDeque<Event>,
    ) -> Progress {
        if let Some(logprob) = logprob {
            let begin = self.taken_bytes;
            self.taken_bytes += logprob.token.bytes.len();
            self.held.push_back((begin, logprob));
        }
        match self.text.push(token) {
            Emitted::Text(text) => {
                self.give(&text, events);
                Progress::Going
            }
            Emitted::Stopped(text) => {
                self.give(&text, events);
                self.held.clear();
                Progress::Stopped
            }
        }
    }

    /// Sends what was held back. Nothing may be pushed after it.
    pub(super) fn finish(&mut self, events: &mut VecDeque<Event>) {
        let rest = self.text.finish();
        self.give(&rest, events);
        self.parsing.extend(self.held.drain(..).map(|(_, logprob)| logprob));
        if let Some(parser) = &mut self.parser {
            parser.finish(&mut self.pieces);
            self.send_pieces(events);
        }
        if !self.parsing.is_empty() {
            self.send_text(String::new(), events);
        }
    }

    fn give(&mut self, text: &str, events: &mut VecDeque<Event>) {
        if text.is_empty() {
            return;
        }
        self.given_bytes += text.len();
        while let Some((_, logprob)) = self.held.pop_front_if(|(begin, _)| *begin < self.given_bytes) {
            self.parsing.push(logprob);
        }
        match &mut self.parser {
            Some(parser) => {
                parser.push(text, &mut self.pieces);
                self.send_pieces(events);
            }
            None => self.send_text(text.to_owned(), events),
        }
    }

    fn send_pieces(&mut self, events: &mut VecDeque<Event>) {
        let mut pieces = std::mem::take(&mut self.pieces);
        for piece in pieces.drain(..) {
            self.is_reasoning = matches!(piece, Piece::Reasoning(_));
            match piece {
                Piece::Text(text) => self.send_text(text, events),
                Piece::Reasoning(text) => {
                    // Log probabilities are told of what is said only.
                    self.parsing.clear();
                    events.push_back(Event::Reasoning(Reasoning { text, choice: self.choice }));
                }
                Piece::ToolCall(delta) => {
                    self.parsing.clear();
                    self.called_tools = true;
                    events.push_back(Event::ToolCall(ToolCallDelta { choice: self.choice, ..delta }));
                }
            }
        }
        self.pieces = pieces;
    }

    fn send_text(&mut self, token: String, events: &mut VecDeque<Event>) {
        let logprobs = std::mem::take(&mut self.parsing);
        events.push_back(Event::Token(Token { token, index: self.index, choice: self.choice, logprobs }));
        self.index += 1;
    }
}

#[cfg(test)]
mod tests;
