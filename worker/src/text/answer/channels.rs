//! Sorts an answer's text into what is said, what is thought, and calls of tools.
//!
//! The reader goes character by character, so that it cannot matter how the text came in pieces. What it has read and not
//! decided about is kept in order: white space that may stand around a mark, then what may become a mark. Text around
//! marks loses that white space; a call that turns out to be none is text again.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::events::ToolCallDelta;

use super::AnswerPlan;
use super::told::Told;
use crate::text::tools::{CallObject, Calls, Depth, Verdict, calls_of};

/// What stands before a call's arguments, and calls that are read as a whole, have so many bytes at most; what is longer
/// is no call.
const UNDECIDED_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Channels {
    plan: Arc<AnswerPlan>,
    place: Place,
    space: String,
    candidate: String,
    /// Characters that are to be read again, as text.
    again: VecDeque<char>,
    calls: u32,
    /// Whether thoughts have come before, whose white space after them is no text.
    has_thought: bool,
    /// Whether nothing has been said since the last call.
    after_call: bool,
}

#[derive(Debug)]
enum Place {
    /// Nothing has been said yet.
    Lead,
    Text,
    Thoughts {
        have_begun: bool,
    },
    Calls(Box<Body>),
    /// The one call that may be has been read.
    Over,
}

/// What stands between two marks of calls.
#[derive(Debug)]
struct Body {
    /// What has been read and is neither told nor dropped.
    raw: String,
    /// Bytes of `raw` that stand before the first character of the mark, and those of that character.
    kept_text: usize,
    reader: Reader,
    /// Calls before this body.
    calls_before: u32,
    in_list: bool,
    /// The part of the closing mark that has been read.
    close: String,
}

#[derive(Debug)]
enum Reader {
    /// Between calls, or before the first.
    Between,
    Object(CallObject),
    /// What stands before the arguments outside of JSON.
    Head(String),
    /// The arguments after such a head.
    Arguments(Depth),
    /// All up to the closing mark.
    Whole(String),
}

/// What a mark begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Thoughts,
    Calls,
    /// The end of calls that ended before it.
    Stray,
}

impl Channels {
    pub(super) fn new(plan: Arc<AnswerPlan>) -> Self {
        let place = match (&plan.thoughts, &plan.calls) {
            (Some((_, true)), _) => Place::Thoughts { have_begun: false },
            (None, None) => Place::Text,
            _ => Place::Lead,
        };
        Self {
            plan,
            place,
            space: String::new(),
            candidate: String::new(),
            again: VecDeque::new(),
            calls: 0,
            has_thought: false,
            after_call: false,
        }
    }

    pub(super) fn is_thinking(&self) -> bool {
        matches!(self.place, Place::Thoughts { .. })
    }

    pub(super) fn calls(&self) -> u32 {
        self.calls
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.place, Place::Over)
    }

    pub(super) fn feed(&mut self, text: &str, told: &mut Told) {
        // Where no mark can come any more, text needs no look.
        if self.plan.calls.is_none() && matches!(self.place, Place::Text) && self.candidate.is_empty() {
            return told.text(text);
        }
        for sign in text.chars() {
            self.step(sign, told);
            self.read_again(told);
        }
    }

    fn read_again(&mut self, told: &mut Told) {
        while let Some(sign) = self.again.pop_front() {
            self.step(sign, told);
        }
    }

    /// Decides about all that is left; no text follows.
    pub(super) fn finish(&mut self, told: &mut Told) {
        while let Place::Calls(body) = &mut self.place {
            let was_called = self.calls > body.calls_before;
            match &body.reader {
                Reader::Object(object) if object.is_announced() => break,
                Reader::Arguments(_) => break,
                // After a call, what stands in a head is the closing mark of that call.
                Reader::Between | Reader::Head(_) if was_called => break,
                Reader::Whole(text) => {
                    let text = text.clone();
                    if !self.take_whole(&text, told) {
                        self.call_is_text(told);
                    }
                }
                _ => self.call_is_text(told),
            }
            self.read_again(told);
        }
        let rest = std::mem::take(&mut self.candidate);
        if self.leads_after_thoughts() || (self.after_call && rest.is_empty()) {
            told.drop(std::mem::take(&mut self.space).len());
        }
        let space = std::mem::take(&mut self.space);
        match &mut self.place {
            Place::Over => {}
            Place::Calls(body) => told.drop(std::mem::take(&mut body.raw).len()),
            Place::Thoughts { .. } => told.reasoning(&(space + &rest)),
            Place::Lead | Place::Text => {
                told.text(&space);
                told.text(&rest);
            }
        }
    }

    fn leads_after_thoughts(&self) -> bool {
        self.has_thought && matches!(self.place, Place::Lead)
    }

    fn step(&mut self, sign: char, told: &mut Told) {
        match self.place {
            Place::Lead | Place::Text => self.text_sign(sign, told),
            Place::Thoughts { .. } => self.thought_sign(sign, told),
            Place::Calls(_) => self.call_sign(sign, told),
            Place::Over => told.drop(sign.len_utf8()),
        }
    }

    // Text

    /// The marks that may come now.
    fn marks(&self) -> impl Iterator<Item = (&'static str, Mark)> + use<> {
        let may_think = matches!(self.place, Place::Lead) && !self.has_thought;
        let thoughts =
            self.plan.thoughts.filter(|_| may_think).map(|(marks, _)| (marks.open, Mark::Thoughts));
        let format = self.plan.calls.as_ref().map(|calls| calls.format);
        let calls = format.map(|format| (format.open(), Mark::Calls));
        let stray = format.filter(|_| self.calls > 0).and_then(|format| Some((format.close()?, Mark::Stray)));
        thoughts.into_iter().chain(calls).chain(stray)
    }

    fn text_sign(&mut self, sign: char, told: &mut Told) {
        self.candidate.push(sign);
        while !self.candidate.is_empty() {
            if let Some((_, mark)) = self.marks().find(|(mark, _)| *mark == self.candidate) {
                return self.take_mark(mark, told);
            }
            if self.marks().any(|(mark, _)| mark.starts_with(&self.candidate)) {
                return;
            }
            let first = self.candidate.remove(0);
            self.plain(first, told);
        }
    }

    fn plain(&mut self, sign: char, told: &mut Told) {
        if sign.is_whitespace() && (self.plan.calls.is_some() || matches!(self.place, Place::Lead)) {
            return self.space.push(sign);
        }
        let is_bare = self.plan.calls.as_ref().is_some_and(|calls| calls.format.is_bare());
        if sign == '{' && is_bare && matches!(self.place, Place::Lead) {
            self.drop_space_after_thoughts(told);
            let mut body = self.new_body("{");
            body.reader = Reader::Object(CallObject::default());
            self.place = Place::Calls(Box::new(body));
            return;
        }
        self.drop_space_after_thoughts(told);
        told.text(&std::mem::take(&mut self.space));
        told.text(sign.encode_utf8(&mut [0; 4]));
        self.place = Place::Text;
        self.after_call = false;
    }

    fn drop_space_after_thoughts(&mut self, told: &mut Told) {
        if self.leads_after_thoughts() {
            told.drop(self.space.len());
            self.space.clear();
        }
    }

    fn take_mark(&mut self, mark: Mark, told: &mut Told) {
        let text = std::mem::take(&mut self.candidate);
        match mark {
            Mark::Thoughts => {
                told.drop(self.space.len() + text.len());
                self.space.clear();
                self.place = Place::Thoughts { have_begun: false };
            }
            Mark::Calls => {
                self.drop_space_after_thoughts(told);
                let body = self.new_body(&text);
                self.place = Place::Calls(Box::new(body));
            }
            Mark::Stray => {
                told.drop(self.space.len() + text.len());
                self.space.clear();
                self.place = Place::Text;
            }
        }
    }

    // Thoughts

    fn thought_sign(&mut self, sign: char, told: &mut Told) {
        let Some((marks, _)) = self.plan.thoughts else { return };
        self.candidate.push(sign);
        while !self.candidate.is_empty() {
            if self.candidate == marks.close {
                told.drop(self.space.len() + self.candidate.len());
                self.space.clear();
                self.candidate.clear();
                self.has_thought = true;
                self.place = Place::Lead;
                return;
            }
            if marks.close.starts_with(&self.candidate) {
                return;
            }
            let first = self.candidate.remove(0);
            self.thought(first, told);
        }
    }

    fn thought(&mut self, sign: char, told: &mut Told) {
        let Place::Thoughts { have_begun } = &mut self.place else { return };
        match (sign.is_whitespace(), *have_begun) {
            (true, false) => told.drop(sign.len_utf8()),
            (true, true) => self.space.push(sign),
            (false, _) => {
                *have_begun = true;
                told.reasoning(&std::mem::take(&mut self.space));
                told.reasoning(sign.encode_utf8(&mut [0; 4]));
            }
        }
    }

    // Calls

    fn new_body(&mut self, mark: &str) -> Body {
        let space = std::mem::take(&mut self.space);
        let first = mark.chars().next().map_or(0, char::len_utf8);
        Body {
            kept_text: space.len() + first,
            raw: space + mark,
            reader: Reader::Between,
            calls_before: self.calls,
            in_list: false,
            close: String::new(),
        }
    }

    fn call_sign(&mut self, sign: char, told: &mut Told) {
        let plan = self.plan.clone();
        let (Some(calls), Place::Calls(body)) = (&plan.calls, &mut self.place) else { return };
        body.raw.push(sign);
        if body.raw.len() > UNDECIDED_BYTES_MAX {
            return self.call_is_text(told);
        }
        match &mut body.reader {
            Reader::Between => self.between(sign, calls, told),
            Reader::Object(object) => {
                let verdict = object.push(sign, |name| !calls.format.is_bare() || calls.has(name));
                self.judge(verdict, sign, calls, told);
            }
            Reader::Head(head) => {
                head.push(sign);
                self.head(sign, calls, told);
            }
            Reader::Arguments(depth) => {
                let is_last = depth.push(sign);
                self.argument(sign, told);
                if is_last {
                    self.call_is_read(calls, told);
                }
            }
            Reader::Whole(text) => {
                text.push(sign);
                let close = calls.format.close().unwrap_or_default();
                let Some(inner) = text.strip_suffix(close) else { return };
                let inner = inner.to_owned();
                if !self.take_whole(&inner, told) {
                    self.call_is_text(told);
                }
            }
        }
    }

    fn between(&mut self, sign: char, calls: &Calls, told: &mut Told) {
        let called = self.calls;
        let Place::Calls(body) = &mut self.place else { return };
        let was_called = called > body.calls_before;
        let format = calls.format;
        if let Some(close) = format.close() {
            body.close.push(sign);
            if body.close == close {
                return if was_called { self.close_calls(told) } else { self.call_is_text(told) };
            }
            if close.starts_with(&body.close) {
                return;
            }
            if body.close.len() > sign.len_utf8() {
                // What began like the closing mark is something else.
                let begun = std::mem::take(&mut body.close);
                body.reader = match format {
                    _ if format.has_heads() => Reader::Head(begun),
                    _ if format.is_read_whole() && !was_called => Reader::Whole(begun),
                    _ => return self.call_is_text(told),
                };
                return;
            }
            body.close.clear();
        }
        match sign {
            '{' => body.reader = Reader::Object(CallObject::default()),
            _ if format.is_read_whole() && !sign.is_whitespace() && !was_called => {
                body.reader = Reader::Whole(sign.to_string());
            }
            '[' if !body.in_list && !was_called => body.in_list = true,
            ']' if body.in_list => body.in_list = false,
            ',' | ';' if was_called => {}
            _ if sign.is_whitespace() => {}
            _ if format.has_heads() && !body.in_list && (!was_called || format.close().is_some()) => {
                body.reader = Reader::Head(sign.to_string());
            }
            _ => self.call_is_text(told),
        }
    }

    fn head(&mut self, sign: char, calls: &Calls, told: &mut Told) {
        let called = self.calls;
        let Place::Calls(body) = &mut self.place else { return };
        let Reader::Head(head) = &body.reader else { return };
        if calls.format.close().is_some_and(|close| head.ends_with(close)) && called > body.calls_before {
            return self.close_calls(told);
        }
        if sign != '{' {
            return;
        }
        match calls.format.name_in_head(&head[..head.len() - 1]) {
            Some(name) => {
                let mut depth = Depth::default();
                depth.push(sign);
                body.reader = Reader::Arguments(depth);
                self.announce(name, "{".to_owned(), calls, told);
            }
            None => self.call_is_text(told),
        }
    }

    fn judge(&mut self, verdict: Verdict, sign: char, calls: &Calls, told: &mut Told) {
        match verdict {
            Verdict::Reading => {}
            Verdict::Announced(name, arguments) => self.announce(name, arguments, calls, told),
            Verdict::Whole(name, arguments) => {
                self.announce(name, arguments, calls, told);
                self.call_is_read(calls, told);
            }
            Verdict::Argument => self.argument(sign, told),
            Verdict::Read => self.call_is_read(calls, told),
            Verdict::Ended => {
                self.call_is_read(calls, told);
                if let Place::Calls(body) = &mut self.place {
                    body.raw.pop();
                    self.again.push_front(sign);
                }
            }
            Verdict::Broken => self.call_is_text(told),
        }
    }

    fn announce(&mut self, name: String, arguments: String, calls: &Calls, told: &mut Told) {
        let Place::Calls(body) = &mut self.place else { return };
        told.drop(body.raw.len());
        body.raw.clear();
        told.call(ToolCallDelta {
            choice: 0,
            index: self.calls,
            id: Some(calls.format.new_call_id()),
            name: Some(name),
            arguments,
        });
        self.calls += 1;
    }

    fn argument(&mut self, sign: char, told: &mut Told) {
        let Place::Calls(body) = &mut self.place else { return };
        told.drop(body.raw.len());
        body.raw.clear();
        told.call(ToolCallDelta {
            index: self.calls - 1,
            arguments: sign.to_string(),
            ..ToolCallDelta::default()
        });
    }

    fn call_is_read(&mut self, calls: &Calls, told: &mut Told) {
        self.after_call = true;
        let Place::Calls(body) = &mut self.place else { return };
        body.reader = Reader::Between;
        if calls.is_single {
            told.drop(body.raw.len());
            self.place = Place::Over;
        }
    }

    /// The calls that a text spells; false if it spells none.
    fn take_whole(&mut self, text: &str, told: &mut Told) -> bool {
        let plan = self.plan.clone();
        let Some(calls) = &plan.calls else { return false };
        let Some(mut found) = calls_of(calls, text) else { return false };
        found.truncate(if calls.is_single { 1 } else { found.len() });
        for (name, arguments) in found {
            self.announce(name, arguments, calls, told);
        }
        self.after_call = true;
        self.place = if calls.is_single { Place::Over } else { Place::Text };
        true
    }

    fn close_calls(&mut self, told: &mut Told) {
        let Place::Calls(body) = std::mem::replace(&mut self.place, Place::Text) else { return };
        told.drop(body.raw.len());
        self.after_call = true;
    }

    /// What was taken for a call is text: its first character for good, the rest to be looked at again.
    fn call_is_text(&mut self, told: &mut Told) {
        let Place::Calls(body) = std::mem::replace(&mut self.place, Place::Text) else { return };
        // After a call, nothing of a mark has been kept.
        let kept = if self.calls > body.calls_before { 0 } else { body.kept_text };
        let (text, rest) = body.raw.split_at(kept);
        told.text(text);
        for sign in rest.chars().rev() {
            self.again.push_front(sign);
        }
        self.after_call &= text.is_empty();
    }
}
