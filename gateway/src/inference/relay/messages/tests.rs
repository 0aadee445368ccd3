use protocol::ApiError;
use protocol::events::{Reasoning, Started, Timings, Token};
use protocol::worker::ExecuteChoice;

use super::*;

fn head(thoughts: Thoughts) -> MessageHead {
    MessageHead { id: "msg_1".into(), model: "m".into(), thoughts, max_tokens: 9 }
}

/// The frames' data; each frame's name is its data's type.
fn frames(bytes: &Bytes) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    let frame = |frame: &str| {
        let (name, data) = frame.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        data
    };
    text.split_terminator("\n\n").map(frame).collect()
}

fn written(thoughts: Thoughts, events: &[TaskEvent]) -> Vec<Value> {
    let mut writer = MessageWriter::new(head(thoughts));
    events.iter().flat_map(|event| frames(&writer.write(0, event))).collect()
}

fn token(text: &str) -> TaskEvent {
    TaskEvent::Token(Token { token: text.into(), ..Token::default() })
}

fn thought(text: &str) -> TaskEvent {
    TaskEvent::Reasoning(Reasoning { text: text.into(), choice: 0 })
}

fn call(id: Option<&str>, arguments: &str) -> TaskEvent {
    TaskEvent::ToolCall(ToolCallDelta {
        id: id.map(str::to_owned),
        name: id.map(|_| "f".to_owned()),
        arguments: arguments.into(),
        ..ToolCallDelta::default()
    })
}

fn usage() -> TokenUsage {
    TokenUsage { prompt_tokens: 10, completion_tokens: 5, cached_tokens: 8, reasoning_tokens: 2 }
}

fn end(finish_reason: FinishReason, stop_sequence: Option<&str>) -> TaskEvent {
    TaskEvent::End(End {
        done: true,
        total_tokens: 5,
        finish_reason,
        finish_reasons: Vec::new(),
        stop_sequences: stop_sequence.map(|text| Some(text.to_owned())).into_iter().collect(),
        usage: usage(),
        timings: Timings::default(),
    })
}

fn names(frames: &[Value]) -> String {
    let name = |frame: &Value| match frame["type"].as_str().unwrap() {
        "content_block_delta" => frame["delta"]["type"].as_str().unwrap().to_owned(),
        name => name.replace("content_block_", ""),
    };
    frames.iter().map(name).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_stream_has_blocks_between_its_start_and_its_end() {
    let started = TaskEvent::Started(Started { worker_id: "w".into(), prompt_tokens: 10, seed: 1 });
    let events = [
        started,
        thought("h"),
        thought("m"),
        token("say \"é\""),
        token("\n"),
        call(Some("t1"), "{"),
        call(None, "}"),
        call(Some("t2"), ""),
        end(FinishReason::ToolCalls, None),
    ];
    let frames = written(Thoughts::Shown, &events);
    assert_eq!(
        names(&frames),
        "message_start ping start thinking_delta thinking_delta signature_delta stop start text_delta text_delta stop \
         start input_json_delta input_json_delta stop start stop message_delta message_stop"
    );
    let message = &frames[0]["message"];
    assert_eq!(
        (&message["id"], &message["content"], &message["stop_reason"]),
        (&json!("msg_1"), &json!([]), &Value::Null)
    );
    assert_eq!(
        (&message["usage"]["input_tokens"], &message["usage"]["output_tokens"]),
        (&json!(10), &json!(0))
    );
    assert_eq!(frames[7]["content_block"], json!({"type": "text", "text": ""}));
    assert_eq!((&frames[8]["index"], &frames[8]["delta"]["text"]), (&json!(1), &json!("say \"é\"")));
    assert_eq!(frames[9]["delta"], json!({"type": "text_delta", "text": "\n"}));
    assert_eq!(
        frames[11]["content_block"],
        json!({"type": "tool_use", "id": "t1", "name": "f", "input": {}})
    );
    assert_eq!((&frames[15]["index"], &frames[15]["content_block"]["id"]), (&json!(3), &json!("t2")));
    let [.., delta, _] = &frames[..] else { panic!("a delta comes before the stop") };
    assert_eq!(delta["delta"], json!({"stop_reason": "tool_use", "stop_sequence": null}));
    assert_eq!(
        (&delta["usage"]["input_tokens"], &delta["usage"]["cache_read_input_tokens"]),
        (&json!(2), &json!(8))
    );
}

#[test]
fn thoughts_that_are_omitted_leave_an_empty_block() {
    let frames = written(Thoughts::Omitted, &[thought("h"), thought("m"), token("a")]);
    assert_eq!(names(&frames), "start signature_delta stop start text_delta");
}

#[test]
fn an_error_comes_last_in_its_envelope_and_a_silent_stream_pings() {
    let error = ApiError::new(protocol::ErrorCode::WorkerLost, "gone");
    let frames = written(Thoughts::Shown, &[TaskEvent::Error(error.into())]);
    assert_eq!(frames[0]["error"]["type"], "api_error");
    let writer = MessageWriter::new(head(Thoughts::Shown));
    assert_eq!(writer.keep_alive(), "event: ping\ndata: {\"type\":\"ping\"}\n\n");
}

#[test]
fn reasons_are_anthropics() {
    let reason = |end: TaskEvent| written(Thoughts::Shown, &[end])[0]["delta"].clone();
    for (finish, stop, told) in [
        (FinishReason::Stop, None, json!({"stop_reason": "end_turn", "stop_sequence": null})),
        (FinishReason::Stop, Some("X"), json!({"stop_reason": "stop_sequence", "stop_sequence": "X"})),
        (FinishReason::ToolCalls, Some("X"), json!({"stop_reason": "tool_use", "stop_sequence": null})),
        // Five tokens of nine that the caller allowed.
        (
            FinishReason::Length,
            None,
            json!({"stop_reason": "model_context_window_exceeded", "stop_sequence": null}),
        ),
    ] {
        assert_eq!(reason(end(finish, stop)), told);
    }
    let head = MessageHead { max_tokens: 5, ..head(Thoughts::Shown) };
    assert_eq!(head.end(FinishReason::Length, None, usage()).stop_reason, StopReason::MaxTokens);
}

#[test]
fn a_whole_answer_has_the_same_blocks() {
    let call = |arguments: &str| ToolCall { id: "t".into(), name: "f".into(), arguments: arguments.into() };
    let choice = ExecuteChoice {
        text: "hi".into(),
        reasoning: "hm".into(),
        tool_calls: vec![call("{\"a\": 1}"), call(""), call("{\"a\"")],
        logprobs: Vec::new(),
        finish_reason: FinishReason::ToolCalls,
        stop_sequence: None,
    };
    let completed = || Completed { choices: vec![choice.clone()], prompt: None, usage: usage() };
    let answer = serde_json::to_value(message(&head(Thoughts::Shown), completed())).unwrap();
    let call = |input: Value| json!({"type": "tool_use", "id": "t", "name": "f", "input": input});
    assert_eq!(
        answer["content"],
        json!([
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "hi"},
            call(json!({"a": 1})),
            call(json!({})),
            call(json!({"INVALID_JSON": "{\"a\""})),
        ])
    );
    assert_eq!(
        (&answer["type"], &answer["role"], &answer["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("tool_use"))
    );
    let omitted = message(&head(Thoughts::Omitted), completed());
    assert_eq!(omitted.content[0], AnswerBlock::Thinking { thinking: String::new(), signature: "" });
}
