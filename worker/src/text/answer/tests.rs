use proptest::prelude::*;
use protocol::worker::Tool;

use super::*;
use crate::text::tools::ToolFormat;
use crate::text::vocabulary::TokenKind;

/// Token 256 is a control token.
const OPEN: u32 = 256;

fn vocabulary() -> Arc<Vocabulary> {
    Arc::new(Vocabulary::of_bytes(&[("<tool_call>", TokenKind::Control)]))
}

fn tool(name: &str) -> Tool {
    Tool { name: name.to_owned(), description: None, parameters: None, strict: false }
}

fn calls(format: ToolFormat) -> AnswerPlan {
    let calls = Calls { format, tools: vec![tool("f"), tool("get_time")], is_single: false };
    AnswerPlan { calls: Some(calls), ..AnswerPlan::default() }
}

fn thoughts(are_open: bool) -> AnswerPlan {
    let marks = ReasoningMarks { open: "<think>", close: "</think>" };
    AnswerPlan { thoughts: Some((marks, are_open)), ..AnswerPlan::default() }
}

fn stops(stop: &[&str]) -> AnswerPlan {
    AnswerPlan { stop: stop.iter().map(|text| (*text).to_owned()).collect(), ..AnswerPlan::default() }
}

fn output(plan: AnswerPlan) -> Answer {
    Answer::new(vocabulary(), Arc::new(plan))
}

/// What a whole text makes, in a form that is easy to compare: pieces of one channel joined, ids left out.
#[derive(Debug, Default, PartialEq)]
struct Read {
    text: String,
    reasoning: String,
    calls: Vec<(String, String)>,
    is_ended: bool,
    stop_sequence: Option<String>,
}

impl Read {
    fn take(&mut self, emissions: &mut Vec<Emission>) {
        for emission in emissions.drain(..) {
            match emission {
                Emission::Text { text, .. } => self.text.push_str(&text),
                Emission::Reasoning(text) => self.reasoning.push_str(&text),
                Emission::ToolCall(delta) => match delta.id {
                    Some(id) => {
                        assert!(id.len() >= 9);
                        assert_eq!(delta.index as usize, self.calls.len());
                        self.calls.push((delta.name.unwrap(), delta.arguments));
                    }
                    None => self.calls[delta.index as usize].1.push_str(&delta.arguments),
                },
            }
        }
    }
}

/// Reads a text that comes in tokens of one byte.
fn read(plan: AnswerPlan, text: &str) -> Read {
    let (mut output, mut read, mut emissions) = (output(plan), Read::default(), Vec::new());
    for byte in text.bytes() {
        let progress = output.push(u32::from(byte), None, &mut emissions);
        read.take(&mut emissions);
        if progress == Progress::Ended {
            read.is_ended = true;
            break;
        }
    }
    output.finish(&mut emissions);
    read.take(&mut emissions);
    assert_eq!(output.has_called(), !read.calls.is_empty());
    read.stop_sequence = output.stop_sequence().map(str::to_owned);
    read
}

fn called(text: &str, calls: &[(&str, &str)]) -> Read {
    Read {
        text: text.to_owned(),
        calls: calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned())).collect(),
        ..Read::default()
    }
}

/// The texts that each token of one byte makes visible.
fn steps(plan: AnswerPlan, bytes: &[u8]) -> (Vec<String>, String) {
    let (mut output, mut emissions) = (output(plan), Vec::new());
    let texts = |emissions: &mut Vec<Emission>| {
        let mut read = Read::default();
        read.take(emissions);
        read.text
    };
    let mut told = Vec::new();
    for byte in bytes {
        output.push(u32::from(*byte), None, &mut emissions);
        told.push(texts(&mut emissions));
    }
    output.finish(&mut emissions);
    (told, texts(&mut emissions))
}

#[test]
fn a_code_point_is_never_split() {
    let (told, rest) = steps(AnswerPlan::default(), "aé🚀".as_bytes());
    assert_eq!(told, ["a", "", "é", "", "", "", "🚀"]);
    assert_eq!(rest, "");
}

#[test]
fn what_can_never_be_a_code_point_shows_once_and_loses_nothing_after_it() {
    let (told, rest) = steps(AnswerPlan::default(), b"\xffa\xe2\x82b\xf0");
    assert_eq!(told, ["\u{fffd}", "a", "", "", "\u{fffd}b", ""]);
    assert_eq!(rest, "\u{fffd}");
}

#[test]
fn a_stop_string_may_span_tokens_and_a_false_alarm_is_let_go() {
    let (told, rest) = steps(stops(&["abc", "xy"]), b"1abab");
    assert_eq!((told.join("|").as_str(), rest.as_str()), ("1|||ab|", "ab"));
    let stopped = read(stops(&["abc", "xy"]), "1ababcd");
    assert_eq!((stopped.text.as_str(), stopped.is_ended), ("1ab", true));
}

#[test]
fn the_earliest_of_several_stop_strings_counts_and_text_before_it_is_kept() {
    let stopped = read(stops(&["end", "é"]), "ené");
    assert_eq!((stopped.text.as_str(), stopped.is_ended), ("en", true));
    assert_eq!(stopped.stop_sequence.as_deref(), Some("é"));
    assert_eq!(read(stops(&["bc", "b"]), "abc").stop_sequence.as_deref(), Some("b"));
    assert_eq!(read(stops(&["b"]), "ac").stop_sequence, None);
}

#[test]
fn a_stop_string_does_not_count_before_enough_tokens() {
    let plan = |min_tokens| AnswerPlan { min_tokens, ..stops(&["b"]) };
    assert_eq!(read(plan(2), "abab").text, "aba");
    assert_eq!(read(plan(4), "abab").text, "abab");
}

#[test]
fn thoughts_go_their_own_way() {
    for (plan, text) in [
        (thoughts(false), "\n<think>\nhm,\n </thin\n</think>\n\n4 < 5"),
        (thoughts(true), "\nhm,\n </thin\n</think>\n\n4 < 5"),
    ] {
        let read = read(plan, text);
        assert_eq!((read.text.as_str(), read.reasoning.as_str()), ("4 < 5", "hm,\n </thin"));
    }
    assert_eq!(read(thoughts(false), "<think>\n\n</think>\n\nYes").reasoning, "");
    assert_eq!(read(thoughts(false), "a <think>b</think>").text, "a <think>b</think>");
    assert_eq!(read(thoughts(true), "cut off").reasoning, "cut off");
    assert_eq!(read(thoughts(false), " plain").text, " plain");
}

#[test]
fn thought_tokens_are_counted() {
    let mut output = output(thoughts(true));
    for byte in b"ab</think>c" {
        output.push(u32::from(*byte), None, &mut Vec::new());
    }
    assert_eq!(output.reasoning_tokens(), 10);
}

#[test]
fn every_format_is_read() {
    let two = called("", &[("f", r#"{"a": 1}"#), ("get_time", "{}")]);
    for (format, text) in [
        (
            ToolFormat::Hermes,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n\
             {\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>\n",
        ),
        (
            ToolFormat::Hermes,
            r#"<tool_call>[{"name": "f", "arguments": {"a": 1}}, {"name": "get_time"}]</tool_call>"#,
        ),
        (
            ToolFormat::Llama3,
            r#"{"name": "f", "parameters": {"a": 1}}; {"name": "get_time", "parameters": {}}"#,
        ),
        (
            ToolFormat::Llama3,
            r#"<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"type": "function", "name": "get_time"}"#,
        ),
        (ToolFormat::Mistral, r#"[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "get_time"}]"#),
        (ToolFormat::MistralNamed, r#"[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]get_time[CALL_ID]x1[ARGS]{}"#),
        (ToolFormat::Granite, r#"<|tool_call|>[{"name": "f", "arguments": {"a": 1}}, {"name": "get_time"}]"#),
        (
            ToolFormat::DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n\
             <｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        (
            ToolFormat::DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>\
             <｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
    ] {
        assert_eq!(read(calls(format), text), two, "{format:?}: {text}");
    }
    for (format, text) in [
        (ToolFormat::ToolCode, "```tool_code\nf(a=1)\nget_time()\n```"),
        (
            ToolFormat::ToolCode,
            "```tool_code\n{\"name\": \"f\", \"arguments\": {\"a\":1}}\n{\"name\": \"get_time\"}\n```",
        ),
        (
            ToolFormat::Tagged,
            "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>\n\
             <tool_call>\n<function=get_time>\n</function>\n</tool_call>",
        ),
    ] {
        let two = called("", &[("f", r#"{"a":1}"#), ("get_time", "{}")]);
        assert_eq!(read(calls(format), text), two, "{format:?}: {text}");
    }
}

#[test]
fn text_around_calls_is_told_without_the_space_between() {
    let text = "Let me see.\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>\nDone <b>.";
    assert_eq!(read(calls(ToolFormat::Hermes), text), called("Let me see.\nDone <b>.", &[("f", "{}")]));
}

#[test]
fn a_broken_call_is_text() {
    for (format, text) in [
        (ToolFormat::Hermes, "<tool_call>\n{\"nam"),
        (ToolFormat::Hermes, "a <tool_call> is a mark </tool_call> b"),
        (ToolFormat::Hermes, "\n <tool_call><tool_call>{]"),
        (ToolFormat::Hermes, "<tool_cal"),
        (ToolFormat::Llama3, r#"{"name": "Ada", "age": 36}"#),
        (ToolFormat::Llama3, r#"{"name": "f"#),
        (ToolFormat::Mistral, "[TOOL_CALLS] nothing"),
        (ToolFormat::DeepSeek, "<｜tool▁calls▁begin｜>{}"),
        (ToolFormat::ToolCode, "```tool_code\nprint(1)\n```\nrest"),
        (ToolFormat::Tagged, "<tool_call><function=nobody></function></tool_call>"),
    ] {
        assert_eq!(read(calls(format), text), called(text, &[]), "{format:?}");
    }
    let second = "<tool_call>{bad <tool_call>{\"name\": \"f\"}</tool_call>";
    assert_eq!(read(calls(ToolFormat::Hermes), second), called("<tool_call>{bad", &[("f", "{}")]));
}

#[test]
fn a_call_that_is_cut_off_is_told_as_far_as_it_came() {
    let text = r#"<tool_call>{"name": "f", "arguments": {"a": "x"#;
    assert_eq!(read(calls(ToolFormat::Hermes), text), called("", &[("f", r#"{"a": "x"#)]));
}

#[test]
fn arguments_come_as_they_are_written() {
    let (mut output, mut emissions) = (output(calls(ToolFormat::Hermes)), Vec::new());
    for byte in br#"<tool_call>{"name": "f", "arguments": {"a""# {
        output.push(u32::from(*byte), None, &mut emissions);
    }
    emissions.clear();
    output.push(u32::from(b':'), None, &mut emissions);
    let delta = ToolCallDelta { arguments: ":".to_owned(), ..ToolCallDelta::default() };
    assert_eq!(emissions, [Emission::ToolCall(delta)]);
}

#[test]
fn one_call_ends_an_answer_that_may_hold_one() {
    let mut plan = calls(ToolFormat::Hermes);
    if let Some(calls) = &mut plan.calls {
        calls.is_single = true;
    }
    let text = "<tool_call>{\"name\": \"f\"}</tool_call><tool_call>{\"name\": \"f\"}</tool_call>";
    assert_eq!(read(plan, text), Read { is_ended: true, ..called("", &[("f", "{}")]) });
}

#[test]
fn a_mark_may_be_a_control_token_and_is_silent_where_nobody_looks_for_it() {
    let (mut output, mut emissions, mut told) =
        (output(calls(ToolFormat::Hermes)), Vec::new(), Read::default());
    for token in std::iter::once(OPEN).chain(r#"{"name": "f"}"#.bytes().map(u32::from)) {
        output.push(token, None, &mut emissions);
    }
    output.finish(&mut emissions);
    told.take(&mut emissions);
    assert_eq!(told, called("", &[("f", "{}")]));
    let mut plain = self::output(AnswerPlan::default());
    plain.push(OPEN, None, &mut emissions);
    plain.finish(&mut emissions);
    assert_eq!(emissions, []);
}

fn logprob(id: u32) -> TokenLogprob {
    TokenLogprob { token: likely_token(&vocabulary(), id, Some(-0.5)), top: Vec::new() }
}

/// The bytes of the tokens that are told with the text of an answer.
fn tokens_told(plan: AnswerPlan, text: &str) -> (String, String) {
    let (mut output, mut emissions) = (output(plan), Vec::new());
    for byte in text.bytes() {
        if output.push(u32::from(byte), Some(logprob(u32::from(byte))), &mut emissions) == Progress::Ended {
            break;
        }
    }
    output.finish(&mut emissions);
    let (mut text, mut bytes) = (String::new(), Vec::new());
    for emission in emissions {
        if let Emission::Text { text: told, logprobs } = emission {
            text.push_str(&told);
            bytes.extend(logprobs.into_iter().flat_map(|logprob| logprob.token.bytes));
        }
    }
    (text, String::from_utf8(bytes).unwrap())
}

#[test]
fn text_is_told_with_the_tokens_that_it_consists_of() {
    for (plan, text) in [
        (AnswerPlan::default(), "aé🚀"),
        (stops(&["xx"]), "a x b xxc"),
        (thoughts(true), "hm</think>\n\nyes "),
        (calls(ToolFormat::Hermes), "one <tool_call>{} two <tool_call>{\"name\": \"f\"}</tool_call>\n"),
        (calls(ToolFormat::Llama3), "{\"name\": \"Ada\"} "),
    ] {
        let (told, tokens) = tokens_told(plan, text);
        assert!(!told.is_empty());
        assert_eq!(told, tokens, "{text}");
    }
}

#[test]
fn log_probabilities_wait_for_their_text() {
    let (mut output, mut emissions) = (output(stops(&["ab"])), Vec::new());
    output.push(u32::from(b'a'), Some(logprob(97)), &mut emissions);
    assert_eq!(emissions, []);
    output.push(u32::from(b'c'), Some(logprob(99)), &mut emissions);
    assert_eq!(
        emissions,
        [Emission::Text { text: "ac".to_owned(), logprobs: vec![logprob(97), logprob(99)] }]
    );
}

/// Pieces that answers are made of, whole and broken.
#[test]
fn a_token_that_a_stop_string_cuts_is_told_with_its_first_half() {
    let vocabulary = Arc::new(Vocabulary::of_bytes(&[("ab", TokenKind::Normal)]));
    let told = |id| TokenLogprob { token: likely_token(&vocabulary, id, Some(-0.5)), top: Vec::new() };
    let mut output = Answer::new(vocabulary.clone(), Arc::new(stops(&["bc"])));
    let mut emissions = Vec::new();
    output.push(256, Some(told(256)), &mut emissions);
    let progress = output.push(u32::from(b'c'), Some(told(u32::from(b'c'))), &mut emissions);
    output.finish(&mut emissions);
    assert_eq!(progress, Progress::Ended);
    let text: String = emissions
        .iter()
        .map(|emission| match emission {
            Emission::Text { text, .. } => text.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    let tokens: Vec<TokenLogprob> = emissions
        .into_iter()
        .flat_map(|emission| match emission {
            Emission::Text { logprobs, .. } => logprobs,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((text.as_str(), tokens), ("a", vec![told(256)]));
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<tool_call>".to_owned()),
        Just("</tool_call>".to_owned()),
        Just("<think>".to_owned()),
        Just("</think>".to_owned()),
        Just("[TOOL_CALLS]".to_owned()),
        Just("[ARGS]".to_owned()),
        Just("<|python_tag|>".to_owned()),
        Just("```tool_code\n".to_owned()),
        Just("```".to_owned()),
        Just("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>".to_owned()),
        Just("<｜tool▁call▁end｜>".to_owned()),
        Just("<｜tool▁calls▁end｜>".to_owned()),
        Just("{\"name\": \"f\", \"arguments\": {\"a\": \"<\\\"é\"}}".to_owned()),
        Just("{\"name\": \"f\"".to_owned()),
        Just("f(a='x')".to_owned()),
        Just("<function=f><parameter=a>1</parameter></function>".to_owned()),
        "[ \\n,;\\[\\]{}<a🚀]{0,4}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn plans() -> impl Strategy<Value = AnswerPlan> {
    let format = prop::sample::select(vec![
        ToolFormat::Hermes,
        ToolFormat::Llama3,
        ToolFormat::Mistral,
        ToolFormat::MistralNamed,
        ToolFormat::DeepSeek,
        ToolFormat::ToolCode,
        ToolFormat::Tagged,
    ]);
    (prop::option::of(format), prop::option::of(any::<bool>()), any::<bool>(), any::<bool>()).prop_map(
        |(format, opened, is_single, stops_at)| {
            let mut plan = format.map_or_else(AnswerPlan::default, calls);
            if let Some(calls) = &mut plan.calls {
                calls.is_single = is_single;
            }
            plan.thoughts = opened.and_then(|are_open| thoughts(are_open).thoughts);
            plan.stop = if stops_at { vec![";;".to_owned(), "aa<".to_owned()] } else { Vec::new() };
            plan
        },
    )
}

/// Reads a text that comes in pieces of the given lengths, as if each piece were one token.
fn read_in(plan: AnswerPlan, text: &str, lengths: &[usize]) -> Read {
    let mut cuts = Vec::new();
    let mut rest = text.as_bytes();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*length).min(rest.len()));
        cuts.push(piece);
        rest = after;
    }
    let alphabet = crate::text::vocabulary::byte_alphabet();
    let texts: Vec<String> =
        cuts.iter().map(|cut| cut.iter().map(|byte| alphabet[*byte as usize]).collect()).collect();
    let tokens: Vec<(&str, TokenKind)> =
        texts.iter().map(|text| (text.as_str(), TokenKind::Normal)).collect();
    let vocabulary = Arc::new(Vocabulary::of_texts(&tokens));
    let mut output = Answer::new(vocabulary, Arc::new(plan));
    let (mut read, mut emissions) = (Read::default(), Vec::new());
    for token in 0..tokens.len() {
        if output.push(token as u32, None, &mut emissions) == Progress::Ended {
            read.is_ended = true;
            break;
        }
    }
    output.finish(&mut emissions);
    read.take(&mut emissions);
    read
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn how_a_text_is_cut_changes_nothing(
        plan in plans(),
        text in pieces(),
        lengths in prop::collection::vec(1usize..9, 1..6),
    ) {
        let bytes = read_in(plan.clone(), &text, &[1]);
        prop_assert_eq!(&read_in(plan.clone(), &text, &lengths), &bytes);
        prop_assert_eq!(&read_in(plan, &text, &[text.len().max(1)]), &bytes);
    }

    #[test]
    fn nothing_is_lost_where_nothing_is_marked(text in "[a-z <>{}\\[\\]\"é`|\\n]{0,60}") {
        let told = read(calls(ToolFormat::Hermes), &text);
        prop_assert!(told.calls.is_empty());
        prop_assert_eq!(told.text, text);
    }
}
