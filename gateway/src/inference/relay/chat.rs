//! Chat completions.

use bytes::Bytes;
use protocol::TaskEvent;
use protocol::events::{End, Token, ToolCallDelta};
use protocol::openai::chat::{
    AnswerMessage, CallChunk, ChatCompletion, ChatCompletionChunk, ChatFinishReason, Choice, ChunkChoice,
    Delta, FunctionCall, FunctionChunk, Logprobs, MessageToolCall, Role,
};
use protocol::worker::{ExecuteChoice, ToolCall};

use super::{DONE, FrameWriter, Head, SLOT, TokenFrame, data, error_frame, waiting, words};
use crate::inference::Completed;

/// A whole answer; `logprobs` tells whether the caller asked for them.
pub fn chat_completion(head: Head, completed: Completed, logprobs: bool) -> ChatCompletion {
    let choices = completed.choices.into_iter().zip(0..).map(|(choice, index)| Choice {
        index,
        logprobs: logprobs.then(|| words::logprobs(&choice.logprobs)),
        finish_reason: words::finish_reason(choice.finish_reason),
        message: message(choice),
    });
    ChatCompletion {
        id: head.id,
        object: "chat.completion".to_owned(),
        created: head.created,
        model: head.model,
        choices: choices.collect(),
        usage: words::usage(completed.usage),
        system_fingerprint: head.system_fingerprint,
        metadata: None,
    }
}

fn message(choice: ExecuteChoice) -> AnswerMessage {
    let calls = choice.tool_calls.into_iter().map(|ToolCall { id, name, arguments }| MessageToolCall {
        id,
        kind: "function".to_owned(),
        function: FunctionCall { name, arguments },
    });
    let calls: Vec<MessageToolCall> = calls.collect();
    AnswerMessage {
        role: Role::Assistant,
        content: (calls.is_empty() || !choice.text.is_empty()).then_some(choice.text),
        refusal: None,
        reasoning_content: (!choice.reasoning.is_empty()).then_some(choice.reasoning),
        tool_calls: (!calls.is_empty()).then_some(calls),
    }
}

/// Writes the chunks of one chat completion.
pub struct ChatWriter {
    frame: ChatCompletionChunk,
    /// For each choice, the frame of a token that has nothing but text.
    token_frames: Vec<TokenFrame>,
    include_usage: bool,
}

impl ChatWriter {
    /// A writer for an answer of so many choices.
    pub fn new(head: Head, choices: u32, include_usage: bool) -> Self {
        let frame = ChatCompletionChunk {
            id: head.id,
            object: "chat.completion.chunk".to_owned(),
            created: head.created,
            model: head.model,
            system_fingerprint: head.system_fingerprint,
            choices: Vec::new(),
            usage: include_usage.then_some(None),
        };
        let mut writer = Self { frame, token_frames: Vec::new(), include_usage };
        writer.token_frames =
            (0..choices).map(|choice| TokenFrame::new(&writer.delta(choice, said(SLOT)))).collect();
        writer
    }

    fn token(&self, token: &Token) -> Bytes {
        if token.logprobs.is_empty()
            && let Some(frame) = self.token_frames.get(token.choice as usize)
        {
            return frame.with(&token.token);
        }
        let logprobs = words::logprobs(&token.logprobs);
        self.chunk(token.choice, said(&token.token), Some(logprobs), None).into()
    }

    fn delta(&self, choice: u32, delta: Delta) -> String {
        self.chunk(choice, delta, None, None)
    }

    fn chunk(
        &self,
        index: u32,
        delta: Delta,
        logprobs: Option<Logprobs>,
        finish_reason: Option<ChatFinishReason>,
    ) -> String {
        let choices = vec![ChunkChoice { index, delta, logprobs, finish_reason }];
        data(&ChatCompletionChunk { choices, ..self.frame.clone() })
    }

    /// The number of choices.
    fn choices(&self) -> u32 {
        self.token_frames.len() as u32
    }

    fn begin(&self) -> Bytes {
        let role = || Delta { role: Some(Role::Assistant), content: Some(String::new()), ..Delta::default() };
        (0..self.choices()).map(|choice| self.delta(choice, role())).collect::<String>().into()
    }

    fn end(&self, end: &End) -> Bytes {
        let mut frames = String::new();
        for choice in 0..self.choices() {
            let reason = words::finish_reason(end.finish_reason_of(choice as usize));
            frames += &self.chunk(choice, Delta::default(), None, Some(reason));
        }
        if self.include_usage {
            let usage = Some(Some(words::usage(end.usage)));
            frames += &data(&ChatCompletionChunk { usage, ..self.frame.clone() });
        }
        frames += DONE;
        frames.into()
    }
}

impl FrameWriter for ChatWriter {
    fn write(&mut self, _run: usize, event: &TaskEvent) -> Bytes {
        match event {
            TaskEvent::Queued(_) | TaskEvent::Narration(_) => waiting(event),
            TaskEvent::Started(_) => self.begin(),
            TaskEvent::Token(token) => self.token(token),
            TaskEvent::Reasoning(reasoning) => {
                let delta = Delta { reasoning_content: Some(reasoning.text.clone()), ..Delta::default() };
                self.delta(reasoning.choice, delta).into()
            }
            TaskEvent::ToolCall(call) => self.delta(call.choice, called(call)).into(),
            TaskEvent::Prompt(_) | TaskEvent::Result(_) => Bytes::new(),
            TaskEvent::End(end) => self.end(end),
            TaskEvent::Error(envelope) => error_frame(&envelope.error),
        }
    }
}

fn said(text: &str) -> Delta {
    Delta { content: Some(text.to_owned()), ..Delta::default() }
}

fn called(call: &ToolCallDelta) -> Delta {
    let chunk = CallChunk {
        index: call.index,
        id: call.id.clone(),
        kind: call.id.as_ref().map(|_| "function".to_owned()),
        function: FunctionChunk { name: call.name.clone(), arguments: call.arguments.clone() },
    };
    Delta { tool_calls: Some(vec![chunk]), ..Delta::default() }
}

#[cfg(test)]
mod tests {
    use protocol::ApiError;
    use protocol::events::{
        FinishReason, LikelyToken, Reasoning, Started, Timings, TokenLogprob, TokenUsage,
    };
    use serde_json::{Value, json};

    use super::super::chunks;
    use super::*;

    fn writer(choices: u32, include_usage: bool) -> ChatWriter {
        let head = Head {
            id: "chatcmpl-1".into(),
            created: 7,
            model: "m".into(),
            system_fingerprint: "rbee".into(),
        };
        ChatWriter::new(head, choices, include_usage)
    }

    fn choices(writer: &mut ChatWriter, event: &TaskEvent) -> Vec<Value> {
        chunks(&writer.write(0, event)).into_iter().map(|chunk| chunk["choices"][0].clone()).collect()
    }

    #[test]
    fn a_tokens_frame_is_the_chunk_it_stands_for() {
        let mut writer = writer(2, true);
        for (text, choice) in [("hi", 0), ("\"quoted\"\n", 1), ("é😀", 0), ("\u{0}", 1), ("", 0)] {
            let token = Token { token: text.into(), choice, ..Token::default() };
            let frame = writer.write(0, &TaskEvent::Token(token));
            let expected = json!({
                "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m",
                "system_fingerprint": "rbee", "usage": null,
                "choices": [{"index": choice, "delta": {"content": text}, "logprobs": null, "finish_reason": null}],
            });
            assert_eq!(chunks(&frame), [expected]);
        }
    }

    #[test]
    fn a_stream_ends_with_each_choices_finish_then_usage_and_done() {
        let end = TaskEvent::End(End {
            done: true,
            total_tokens: 2,
            finish_reason: FinishReason::Length,
            finish_reasons: vec![FinishReason::Length, FinishReason::ToolCalls],
            stop_sequences: Vec::new(),
            usage: TokenUsage {
                prompt_tokens: 3,
                completion_tokens: 2,
                cached_tokens: 1,
                reasoning_tokens: 1,
            },
            timings: Timings::default(),
        });
        let frames = chunks(&writer(2, true).write(0, &end));
        let reasons: Vec<&Value> =
            frames[..2].iter().map(|frame| &frame["choices"][0]["finish_reason"]).collect();
        assert_eq!(reasons, ["length", "tool_calls"]);
        assert_eq!(frames[0]["choices"][0]["delta"], json!({}));
        let usage = json!({
            "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 1},
        });
        assert_eq!((&frames[2]["choices"], &frames[2]["usage"]), (&json!([]), &usage));
        assert_eq!(frames[3], "[DONE]");
        assert_eq!(chunks(&writer(2, false).write(0, &end)).len(), 3);
    }

    #[test]
    fn the_first_chunks_have_the_role_and_an_error_no_done() {
        let started = TaskEvent::Started(Started { worker_id: "w".into(), prompt_tokens: 3, seed: 1 });
        let begun = choices(&mut writer(2, false), &started);
        assert_eq!(begun.len(), 2);
        assert_eq!(begun[1]["index"], 1);
        assert_eq!(begun[1]["delta"], json!({"role": "assistant", "content": ""}));
        let error = TaskEvent::Error(ApiError::new(protocol::ErrorCode::WorkerLost, "gone").into());
        let frames = chunks(&writer(1, false).write(0, &error));
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0]["error"]["message"], "gone");
    }

    #[test]
    fn thoughts_and_calls_have_deltas_of_their_own() {
        let mut writer = writer(1, false);
        let thought = TaskEvent::Reasoning(Reasoning { text: "hm".into(), choice: 0 });
        assert_eq!(choices(&mut writer, &thought)[0]["delta"], json!({"reasoning_content": "hm"}));
        let first = ToolCallDelta {
            id: Some("c1".into()),
            name: Some("f".into()),
            arguments: "{".into(),
            ..ToolCallDelta::default()
        };
        let expected = json!({"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}]});
        assert_eq!(choices(&mut writer, &TaskEvent::ToolCall(first))[0]["delta"], expected);
        let more = ToolCallDelta { arguments: "}".into(), ..ToolCallDelta::default() };
        let expected = json!({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]});
        assert_eq!(choices(&mut writer, &TaskEvent::ToolCall(more))[0]["delta"], expected);
    }

    #[test]
    fn log_probabilities_come_with_their_text() {
        let likely = LikelyToken { id: 5, text: "a".into(), bytes: vec![97], logprob: Some(-0.25) };
        let logprobs = vec![TokenLogprob { token: likely.clone(), top: vec![likely] }];
        let token = Token { token: "a".into(), logprobs, ..Token::default() };
        let chunk = &choices(&mut writer(1, false), &TaskEvent::Token(token))[0];
        let one = json!({"token": "a", "logprob": -0.25, "bytes": [97]});
        let mut expected = one.clone();
        expected["top_logprobs"] = json!([one]);
        assert_eq!(chunk["logprobs"], json!({"content": [expected], "refusal": null}));
    }
}
