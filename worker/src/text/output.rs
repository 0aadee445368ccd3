//! From generated tokens to text that may be sent: whole code points only, and nothing of a stop string.

use std::sync::Arc;

use crate::text::vocabulary::Vocabulary;

/// What a token added to the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emitted {
    /// Text that may be sent; empty while something is held back.
    Text(String),
    /// A stop string is complete; this is the text before it.
    Stopped(String),
}

/// The output of one request.
#[derive(Debug)]
pub struct TextOutput {
    vocabulary: Arc<Vocabulary>,
    stop: Vec<String>,
    /// Bytes of a code point that is not complete.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

impl TextOutput {
    /// An empty output that ends before any of the stop strings, none of which is empty.
    pub fn new(vocabulary: Arc<Vocabulary>, stop: Vec<String>) -> Self {
        Self { vocabulary, stop, bytes: Vec::new(), held: String::new() }
    }

    /// From here on the output ends before any of these, none of which is empty.
    pub fn stop_before(&mut self, stop: Vec<String>) {
        self.stop = stop;
    }

    /// Takes a generated token.
    pub fn push(&mut self, token: u32) -> Emitted {
        self.vocabulary.append_bytes(token, &mut self.bytes);
        self.take_complete();
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Emitted::Stopped(std::mem::take(&mut self.held));
        }
        let kept = self.stop.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        Emitted::Text(self.held.drain(..self.held.len() - kept).collect())
    }

    /// The text still held back once no token follows. A code point that was never completed shows as U+FFFD.
    pub fn finish(&mut self) -> String {
        if !self.bytes.is_empty() {
            self.held.push_str(&String::from_utf8_lossy(&self.bytes));
            self.bytes.clear();
        }
        std::mem::take(&mut self.held)
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
mod tests {
    use candle_core::quantized::gguf_file::Value;

    use super::*;
    use crate::file::gguf::Header;
    use crate::file::gguf::tests::with_pairs;
    use crate::text::vocabulary::byte_alphabet;

    /// A vocabulary of all bytes, so that token ids are bytes.
    fn bytes() -> Arc<Vocabulary> {
        let tokens = byte_alphabet().iter().map(|sign| Value::String(sign.to_string())).collect();
        let file = with_pairs(&[
            ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
            ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ]);
        Arc::new(Vocabulary::read(Header::read(&file).unwrap().metadata(&file)).unwrap())
    }

    fn push_all(output: &mut TextOutput, bytes: &[u8]) -> Vec<Emitted> {
        bytes.iter().map(|byte| output.push(u32::from(*byte))).collect()
    }

    fn text(text: &str) -> Emitted {
        Emitted::Text(text.to_owned())
    }

    #[test]
    fn a_code_point_is_never_split() {
        let mut output = TextOutput::new(bytes(), Vec::new());
        let emitted = push_all(&mut output, "aé🚀".as_bytes());
        assert_eq!(emitted, [text("a"), text(""), text("é"), text(""), text(""), text(""), text("🚀")]);
        assert_eq!(output.finish(), "");
    }

    #[test]
    fn what_can_never_be_a_code_point_shows_once_and_loses_nothing_after_it() {
        let mut output = TextOutput::new(bytes(), Vec::new());
        let emitted = push_all(&mut output, b"\xffa\xe2\x82b\xf0");
        assert_eq!(emitted, [text("\u{fffd}"), text("a"), text(""), text(""), text("\u{fffd}b"), text("")]);
        assert_eq!(output.finish(), "\u{fffd}");
    }

    #[test]
    fn a_stop_string_may_span_tokens_and_a_false_alarm_is_let_go() {
        let mut output = TextOutput::new(bytes(), vec!["abc".to_owned(), "xy".to_owned()]);
        let emitted = push_all(&mut output, b"1abab");
        assert_eq!(emitted, [text("1"), text(""), text(""), text("ab"), text("")]);
        assert_eq!(output.push(u32::from(b'c')), Emitted::Stopped(String::new()));
    }

    #[test]
    fn the_earliest_of_several_stop_strings_counts_and_text_before_it_is_kept() {
        let mut output = TextOutput::new(bytes(), vec!["end".to_owned(), "é".to_owned()]);
        push_all(&mut output, b"en");
        assert_eq!(push_all(&mut output, "é".as_bytes())[1], Emitted::Stopped("en".to_owned()));
    }

    #[test]
    fn what_is_held_back_comes_out_at_the_end() {
        let mut output = TextOutput::new(bytes(), vec!["abc".to_owned()]);
        push_all(&mut output, b"ab");
        assert_eq!(output.finish(), "ab");
    }
}
