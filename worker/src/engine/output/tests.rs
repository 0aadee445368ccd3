use candle_core::quantized::gguf_file::Value;
use protocol::events::LikelyToken;

use super::*;
use crate::file::gguf::Header;
use crate::file::gguf::tests::with_pairs;

/// Tokens that are single characters, their codes as numbers.
fn vocabulary() -> Arc<Vocabulary> {
    let tokens = (0..128u8).map(|byte| Value::String(char::from(byte).to_string())).collect();
    let file = with_pairs(&[
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
    ]);
    Arc::new(Vocabulary::read(Header::read(&file).unwrap().metadata(&file)).unwrap())
}

fn logprob(sign: char) -> TokenLogprob {
    let text = sign.to_string();
    let bytes = text.clone().into_bytes();
    TokenLogprob { token: LikelyToken { id: sign as u32, text, bytes, logprob: Some(-1.0) }, top: Vec::new() }
}

/// Says what it reads; thinks what stands between angle brackets; a tilde calls a tool.
#[derive(Debug, Default)]
struct Brackets {
    thinks: bool,
    held: String,
}

impl Brackets {
    fn let_out(&mut self, pieces: &mut Vec<Piece>) {
        let text = std::mem::take(&mut self.held);
        if !text.is_empty() {
            pieces.push(if self.thinks { Piece::Reasoning(text) } else { Piece::Text(text) });
        }
    }
}

impl TextParser for Brackets {
    fn push(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        for sign in text.chars() {
            match sign {
                '<' | '>' => {
                    self.let_out(pieces);
                    self.thinks = sign == '<';
                }
                '~' => {
                    self.let_out(pieces);
                    pieces.push(Piece::ToolCall(ToolCallDelta::default()));
                }
                // It sees further than one character before it says anything.
                _ => {
                    self.held.push(sign);
                    if self.held.len() == 2 {
                        self.let_out(pieces);
                    }
                }
            }
        }
    }

    fn finish(&mut self, pieces: &mut Vec<Piece>) {
        self.let_out(pieces);
    }
}

struct Said {
    text: String,
    thought: String,
    logprobs: String,
    calls: usize,
    stopped: bool,
}

fn say(text: &str, stop: &[&str], parser: Option<Box<dyn TextParser>>) -> Said {
    let stop = stop.iter().map(|text| (*text).to_owned()).collect();
    let mut output = Output::new(7, vocabulary(), stop, parser);
    output.heed_stops();
    let mut events = VecDeque::new();
    let mut stopped = false;
    for sign in text.chars() {
        if output.push(sign as u32, Some(logprob(sign)), &mut events) == Progress::Stopped {
            stopped = true;
            break;
        }
    }
    output.finish(&mut events);
    let mut said =
        Said { text: String::new(), thought: String::new(), logprobs: String::new(), calls: 0, stopped };
    let mut index = 0;
    for event in events {
        match event {
            Event::Token(token) => {
                assert_eq!((token.choice, token.index), (7, index));
                index += 1;
                said.text.push_str(&token.token);
                said.logprobs.extend(token.logprobs.iter().map(|logprob| logprob.token.text.as_str()));
            }
            Event::Reasoning(reasoning) => said.thought.push_str(&reasoning.text),
            Event::ToolCall(delta) => {
                assert_eq!(delta.choice, 7);
                said.calls += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    said
}

#[test]
fn log_probabilities_come_with_their_text_and_none_of_a_stop_string() {
    let said = say("one two three", &["thr"], None);
    assert_eq!((said.text.as_str(), said.stopped), ("one two ", true));
    assert_eq!(said.logprobs, said.text);
    let said = say("one th", &["thr"], None);
    assert_eq!((said.text.as_str(), said.stopped), ("one th", false));
    assert_eq!(said.logprobs, said.text);
}

#[test]
fn a_parser_tells_apart_what_is_said_thought_and_called() {
    let said = say("<hm hm>yes~", &[], Some(Box::<Brackets>::default()));
    assert_eq!((said.text.as_str(), said.thought.as_str(), said.calls), ("yes", "hm hm", 1));
    assert_eq!(said.logprobs.trim_matches(|sign| "<>~".contains(sign)), "yes");
    let said = say("<hm>yes", &["es"], Some(Box::<Brackets>::default()));
    assert_eq!((said.text.as_str(), said.thought.as_str(), said.stopped), ("y", "hm", true));
}

#[test]
fn a_stop_string_counts_from_when_it_is_heeded() {
    let mut output = Output::new(0, vocabulary(), vec!["b".to_owned()], None);
    let mut events = VecDeque::new();
    assert_eq!(output.push('b' as u32, None, &mut events), Progress::Going);
    output.heed_stops();
    assert_eq!(output.push('b' as u32, None, &mut events), Progress::Stopped);
}
