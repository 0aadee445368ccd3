//! Text completions: the choices of several prompts are numbered through.

use bytes::Bytes;
use protocol::TaskEvent;
use protocol::events::{self, End, Prompt, Token, TokenUsage};
use protocol::openai::completions::{Completion, CompletionChoice};
use protocol::worker::ExecuteChoice;

use super::words::{self, TextOffset};
use super::{DONE, FrameWriter, Head, SLOT, TokenFrame, data, error_frame, waiting};
use crate::inference::Completed;

/// The answers to all prompts as one; `logprobs` tells whether the caller asked for them.
pub fn completion(head: Head, answers: Vec<Completed>, logprobs: bool) -> Completion {
    let usage = answers.iter().map(|answer| answer.usage).fold(TokenUsage::default(), words::sum);
    let mut choices = Vec::new();
    for answer in answers {
        for choice in answer.choices {
            choices.push(whole(choices.len() as u32, answer.prompt.as_ref(), &choice, logprobs));
        }
    }
    Completion { choices, usage: Some(Some(words::usage(usage))), ..frame(head) }
}

fn frame(head: Head) -> Completion {
    Completion {
        id: head.id,
        object: "text_completion".to_owned(),
        created: head.created,
        model: head.model,
        choices: Vec::new(),
        usage: None,
        system_fingerprint: head.system_fingerprint,
    }
}

fn whole(index: u32, prompt: Option<&Prompt>, choice: &ExecuteChoice, logprobs: bool) -> CompletionChoice {
    let (before, prompt_logprobs) =
        prompt.map_or(("", &[][..]), |prompt| (prompt.text.as_str(), &prompt.logprobs[..]));
    let tokens = || [prompt_logprobs, &choice.logprobs].concat();
    CompletionChoice {
        text: format!("{before}{}", choice.text),
        index,
        logprobs: logprobs.then(|| words::completion_logprobs(&tokens(), &mut TextOffset::default())),
        finish_reason: Some(words::finish_reason(choice.finish_reason)),
    }
}

/// Of an answer's choices, the so many whose tokens are the likeliest on average, best first.
pub fn best_choices(mut completed: Completed, count: u32) -> Completed {
    if completed.choices.len() <= count as usize {
        return completed;
    }
    let likelihood = |choice: &ExecuteChoice| {
        let known = choice.logprobs.iter().filter_map(|told| told.token.logprob.map(f64::from));
        let (sum, count) = known.fold((0.0, 0), |(sum, count), logprob| (sum + logprob, count + 1));
        sum / f64::from(count.max(1))
    };
    completed.choices.sort_by(|first, second| likelihood(second).total_cmp(&likelihood(first)));
    completed.choices.truncate(count as usize);
    completed
}

/// Writes the chunks of one text completion.
pub struct CompletionWriter {
    frame: Completion,
    /// Choices of each prompt.
    choices: u32,
    /// For each choice of each prompt, the frame of a token that has nothing but text.
    token_frames: Vec<TokenFrame>,
    /// For each choice of each prompt, where its next token begins.
    offsets: Vec<TextOffset>,
    /// Prompts whose end has not come.
    unfinished: usize,
    usage: TokenUsage,
    include_usage: bool,
}

impl CompletionWriter {
    /// A writer for so many prompts of so many choices each.
    pub fn new(head: Head, prompts: usize, choices: u32, include_usage: bool) -> Self {
        let frame = Completion { usage: include_usage.then_some(None), ..frame(head) };
        let total = prompts * choices as usize;
        let mut writer = Self {
            frame,
            choices,
            token_frames: Vec::new(),
            offsets: vec![TextOffset::default(); total],
            unfinished: prompts,
            usage: TokenUsage::default(),
            include_usage,
        };
        writer.token_frames =
            (0..total).map(|index| TokenFrame::new(&writer.chunk(plain(index, SLOT)))).collect();
        writer
    }

    fn chunk(&self, choice: CompletionChoice) -> String {
        data(&Completion { choices: vec![choice], ..self.frame.clone() })
    }

    /// The number of a prompt's choice among all.
    fn index(&self, prompt: usize, choice: u32) -> usize {
        prompt * self.choices as usize + choice as usize
    }

    fn text(&mut self, index: usize, text: &str, logprobs: &[events::TokenLogprob]) -> Bytes {
        if logprobs.is_empty()
            && let Some(frame) = self.token_frames.get(index)
        {
            return frame.with(text);
        }
        let Some(offset) = self.offsets.get_mut(index) else { return Bytes::new() };
        let logprobs = Some(words::completion_logprobs(logprobs, offset));
        self.chunk(CompletionChoice { logprobs, ..plain(index, text) }).into()
    }

    fn end(&mut self, prompt: usize, end: &End) -> Bytes {
        let mut frames = String::new();
        for choice in 0..self.choices {
            let finish_reason = Some(words::finish_reason(end.finish_reason_of(choice as usize)));
            let index = self.index(prompt, choice);
            frames += &self.chunk(CompletionChoice { finish_reason, ..plain(index, "") });
        }
        self.usage = words::sum(self.usage, end.usage);
        self.unfinished = self.unfinished.saturating_sub(1);
        if self.unfinished == 0 {
            if self.include_usage {
                let usage = Some(Some(words::usage(self.usage)));
                frames += &data(&Completion { usage, ..self.frame.clone() });
            }
            frames += DONE;
        }
        frames.into()
    }
}

impl FrameWriter for CompletionWriter {
    fn write(&mut self, run: usize, event: &TaskEvent) -> Bytes {
        match event {
            TaskEvent::Queued(_) | TaskEvent::Narration(_) => waiting(event),
            TaskEvent::Token(Token { token, choice, logprobs, .. }) => {
                self.text(self.index(run, *choice), token, logprobs)
            }
            TaskEvent::Prompt(Prompt { text, logprobs }) => {
                let frames = (0..self.choices)
                    .map(|choice| self.text(self.index(run, choice), text, logprobs))
                    .collect::<Vec<Bytes>>();
                frames.concat().into()
            }
            // A prompt that no template formats opens neither.
            TaskEvent::Started(_)
            | TaskEvent::Reasoning(_)
            | TaskEvent::ToolCall(_)
            | TaskEvent::Result(_) => Bytes::new(),
            TaskEvent::End(end) => self.end(run, end),
            TaskEvent::Error(envelope) => error_frame(&envelope.error),
        }
    }
}

fn plain(index: usize, text: &str) -> CompletionChoice {
    CompletionChoice { text: text.to_owned(), index: index as u32, logprobs: None, finish_reason: None }
}

#[cfg(test)]
mod tests {
    use protocol::events::{FinishReason, LikelyToken, Timings, TokenLogprob};
    use serde_json::json;

    use super::super::chunks;
    use super::*;

    fn head() -> Head {
        Head { id: "cmpl-1".into(), created: 7, model: "m".into(), system_fingerprint: "rbee".into() }
    }

    fn likely(text: &str, logprob: Option<f32>) -> TokenLogprob {
        let token = LikelyToken { id: 1, text: text.into(), bytes: text.as_bytes().to_vec(), logprob };
        TokenLogprob { token, top: Vec::new() }
    }

    fn choice(text: &str, logprob: f32) -> ExecuteChoice {
        ExecuteChoice {
            text: text.into(),
            reasoning: String::new(),
            tool_calls: Vec::new(),
            logprobs: vec![likely(text, Some(logprob))],
            finish_reason: FinishReason::Length,
            stop_sequence: None,
        }
    }

    fn usage(tokens: u32) -> TokenUsage {
        TokenUsage { prompt_tokens: tokens, completion_tokens: 1, ..TokenUsage::default() }
    }

    fn answer(texts: &[(&str, f32)], prompt: Option<&str>) -> Completed {
        let prompt = prompt.map(|text| Prompt { text: text.into(), logprobs: vec![likely(text, None)] });
        let choices = texts.iter().map(|(text, logprob)| choice(text, *logprob)).collect();
        Completed { choices, prompt, usage: usage(2) }
    }

    #[test]
    fn choices_are_numbered_through_and_begin_with_an_echo() {
        let answers =
            vec![answer(&[("a", -1.0), ("b", -2.0)], Some("é ")), answer(&[("c", -1.0), ("d", -1.0)], None)];
        let whole = completion(head(), answers, true);
        let texts: Vec<(u32, &str)> =
            whole.choices.iter().map(|choice| (choice.index, choice.text.as_str())).collect();
        assert_eq!(texts, [(0, "é a"), (1, "é b"), (2, "c"), (3, "d")]);
        let logprobs = whole.choices[0].logprobs.as_ref().unwrap();
        assert_eq!(logprobs.token_logprobs, [None, Some(-1.0)]);
        assert_eq!(logprobs.text_offset, [0, 2]);
        assert_eq!(whole.usage.unwrap().unwrap().total_tokens, 6);
    }

    #[test]
    fn the_likeliest_choices_are_the_best() {
        let best = best_choices(answer(&[("a", -3.0), ("b", -1.0), ("c", -2.0)], None), 2);
        let texts: Vec<&str> = best.choices.iter().map(|choice| choice.text.as_str()).collect();
        assert_eq!(texts, ["b", "c"]);
    }

    #[test]
    fn a_stream_of_several_prompts_ends_once() {
        let mut writer = CompletionWriter::new(head(), 2, 1, true);
        let token = TaskEvent::Token(Token { token: "x".into(), ..Token::default() });
        let frame = json!({
            "id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m", "system_fingerprint": "rbee",
            "usage": null, "choices": [{"text": "x", "index": 1, "logprobs": null, "finish_reason": null}],
        });
        assert_eq!(chunks(&writer.write(1, &token)), [frame]);
        let end = TaskEvent::End(End {
            done: true,
            total_tokens: 1,
            finish_reason: FinishReason::Stop,
            finish_reasons: Vec::new(),
            stop_sequences: Vec::new(),
            usage: usage(2),
            timings: Timings::default(),
        });
        let first = chunks(&writer.write(1, &end));
        assert_eq!((first.len(), &first[0]["choices"][0]["finish_reason"]), (1, &json!("stop")));
        let last = chunks(&writer.write(0, &end));
        assert_eq!(
            (last.len(), &last[1]["usage"]["total_tokens"], &last[2]),
            (3, &json!(6), &json!("[DONE]"))
        );
    }

    #[test]
    fn offsets_go_on_from_chunk_to_chunk() {
        let mut writer = CompletionWriter::new(head(), 1, 1, false);
        let prompt = Prompt { text: "ab".into(), logprobs: vec![likely("ab", None)] };
        writer.write(0, &TaskEvent::Prompt(prompt));
        let token = Token { token: "c".into(), logprobs: vec![likely("c", Some(-1.0))], ..Token::default() };
        let chunk = &chunks(&writer.write(0, &TaskEvent::Token(token)))[0]["choices"][0];
        assert_eq!(chunk["logprobs"]["text_offset"], json!([2]));
    }
}
