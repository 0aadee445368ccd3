use protocol::ErrorCode;
use protocol::events::{
    FinishReason, LikelyToken, Queued, Reasoning, Started, Timings, Token, TokenLogprob, TokenUsage,
};
use protocol::openai::responses::{Reasoning as ReasoningConfig, TextConfig, ToolChoice};
use protocol::worker::ToolCall;
use serde_json::{Value, json};

use super::*;

fn draft(summary: Option<&str>) -> Response {
    Response {
        id: "resp_1".into(),
        object: "response".into(),
        created_at: 7,
        status: ResponseStatus::InProgress,
        completed_at: None,
        error: None,
        incomplete_details: None,
        instructions: None,
        max_output_tokens: None,
        max_tool_calls: None,
        model: "m".into(),
        output: Vec::new(),
        parallel_tool_calls: true,
        previous_response_id: None,
        prompt_cache_key: None,
        reasoning: ReasoningConfig { summary: summary.map(str::to_owned), ..ReasoningConfig::default() },
        safety_identifier: None,
        service_tier: "default".into(),
        store: false,
        background: false,
        temperature: 1.0,
        text: TextConfig::default(),
        tool_choice: ToolChoice::Mode("auto".into()),
        tools: Vec::new(),
        top_logprobs: 0,
        top_p: 1.0,
        truncation: "disabled".into(),
        usage: None,
        user: None,
        metadata: std::collections::BTreeMap::new(),
    }
}

fn started() -> TaskEvent {
    TaskEvent::Started(Started { worker_id: "w".into(), prompt_tokens: 3, seed: 1 })
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

const USAGE: TokenUsage =
    TokenUsage { prompt_tokens: 3, completion_tokens: 4, cached_tokens: 1, reasoning_tokens: 2 };

fn end(finish_reason: FinishReason) -> TaskEvent {
    TaskEvent::End(End {
        done: true,
        total_tokens: 4,
        finish_reason,
        finish_reasons: Vec::new(),
        stop_sequences: Vec::new(),
        usage: USAGE,
        timings: Timings::default(),
    })
}

/// The data of all events that a stream of these tells; each frame's name is its data's type, and the numbers are in order.
fn told(writer: &mut ResponseWriter, events: &[TaskEvent]) -> Vec<Value> {
    let frames: Vec<u8> = events.iter().flat_map(|event| writer.write(0, event)).collect();
    let text = String::from_utf8(frames).unwrap();
    let frames = text.split_terminator("\n\n").filter(|frame| !frame.starts_with(':'));
    let data = frames.enumerate().map(|(number, frame)| {
        let (name, data) = frame.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        assert_eq!(data["sequence_number"], number);
        data
    });
    data.collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap().trim_start_matches("response.")).collect()
}

#[test]
fn thoughts_words_and_calls_are_items_one_after_the_other() {
    let mut writer = ResponseWriter::new(draft(None));
    let events = [
        started(),
        thought("h"),
        thought("m"),
        token("Let me "),
        token("look."),
        call(Some("c1"), ""),
        call(None, "{"),
        call(None, "}"),
        call(Some("c2"), "{}"),
        end(FinishReason::ToolCalls),
    ];
    let told = told(&mut writer, &events);
    let expected = "created in_progress \
         output_item.added content_part.added reasoning_text.delta reasoning_text.delta reasoning_text.done \
         content_part.done output_item.done \
         output_item.added content_part.added output_text.delta output_text.delta output_text.done content_part.done \
         output_item.done \
         output_item.added function_call_arguments.delta function_call_arguments.delta function_call_arguments.done \
         output_item.done \
         output_item.added function_call_arguments.delta function_call_arguments.done output_item.done completed";
    assert_eq!(types(&told).join(" "), expected);
    let response = &told.last().unwrap()["response"];
    assert_eq!(
        response["output"],
        json!([
            {"type": "reasoning", "id": "rs_10000", "status": "completed", "summary": [],
             "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "id": "msg_10001", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []}]},
            {"type": "function_call", "id": "fc_10002", "status": "completed", "call_id": "c1", "name": "f",
             "arguments": "{}"},
            {"type": "function_call", "id": "fc_10003", "status": "completed", "call_id": "c2", "name": "f",
             "arguments": "{}"},
        ])
    );
    assert_eq!(
        response["usage"],
        json!({"input_tokens": 3, "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
               "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 7})
    );
    let done: Vec<&Value> = told
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| &event["item"])
        .collect();
    assert_eq!(done, response["output"].as_array().unwrap().iter().collect::<Vec<_>>());
    let added = &told[2];
    assert_eq!((&added["output_index"], &added["item"]["status"]), (&json!(0), &json!("in_progress")));
}

#[test]
fn a_whole_response_is_the_one_that_a_stream_ends_with() {
    let choice = ExecuteChoice {
        text: "Hi".into(),
        reasoning: "hm".into(),
        tool_calls: vec![ToolCall { id: "c1".into(), name: "f".into(), arguments: "{}".into() }],
        logprobs: Vec::new(),
        finish_reason: FinishReason::ToolCalls,
        stop_sequence: None,
    };
    let whole = response(draft(None), Completed { choices: vec![choice], prompt: None, usage: USAGE });
    let mut writer = ResponseWriter::new(draft(None));
    let events = [
        started(),
        thought("hm"),
        token("H"),
        token("i"),
        call(Some("c1"), "{}"),
        end(FinishReason::ToolCalls),
    ];
    let mut streamed = told(&mut writer, &events).pop().unwrap()["response"].take();
    let mut whole = serde_json::to_value(whole).unwrap();
    // The two ended at different times.
    (streamed["completed_at"], whole["completed_at"]) = (Value::Null, Value::Null);
    assert_eq!(whole, streamed);
}

#[test]
fn a_summary_is_where_thoughts_are_told_if_it_was_asked_for() {
    let mut writer = ResponseWriter::new(draft(Some("auto")));
    let told = told(&mut writer, &[started(), thought("h"), thought("m"), end(FinishReason::Stop)]);
    let expected = "created in_progress output_item.added reasoning_summary_part.added reasoning_summary_text.delta \
         reasoning_summary_text.delta reasoning_summary_text.done reasoning_summary_part.done output_item.done completed";
    assert_eq!(types(&told).join(" "), expected);
    let item = &told.last().unwrap()["response"]["output"][0];
    assert_eq!(item["summary"], json!([{"type": "summary_text", "text": "hm"}]));
    assert_eq!(item.get("content"), None);
}

#[test]
fn what_waits_is_queued_once_and_its_place_is_told_in_comments() {
    let mut writer = ResponseWriter::new(draft(None));
    let queued = |position| TaskEvent::Queued(Queued { position, eta_ms: None });
    let first = writer.write(0, &queued(2));
    let first = std::str::from_utf8(&first).unwrap();
    assert!(
        first.contains("event: response.queued\n") && first.ends_with(": queue position=2\n\n"),
        "{first}"
    );
    assert_eq!(writer.write(0, &queued(1)), ": queue position=1\n\n");
    let next = writer.write(0, &started());
    assert!(std::str::from_utf8(&next).unwrap().contains("\"status\":\"in_progress\""));
}

#[test]
fn a_limit_leaves_a_response_incomplete_and_nothing_said_is_an_empty_message() {
    let mut writer = ResponseWriter::new(draft(None));
    let told = told(&mut writer, &[started(), end(FinishReason::Length)]);
    let last = told.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    let response = &last["response"];
    assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!((&response["status"], &response["completed_at"]), (&json!("incomplete"), &Value::Null));
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(response["output"][0]["content"][0]["text"], "");
}

#[test]
fn an_error_is_told_and_the_response_has_failed() {
    let mut writer = ResponseWriter::new(draft(None));
    let error = TaskEvent::Error(ApiError::new(ErrorCode::WorkerLost, "gone").into());
    let told = told(&mut writer, &[started(), token("H"), error]);
    let [.., event, failed] = &told[..] else { panic!("two events") };
    assert_eq!(
        (&event["type"], &event["code"], &event["message"], &event["param"]),
        (&json!("error"), &json!("WORKER_LOST"), &json!("gone"), &Value::Null)
    );
    assert_eq!(failed["type"], "response.failed");
    assert_eq!(failed["response"]["status"], "failed");
    assert_eq!(failed["response"]["error"], json!({"code": "server_error", "message": "gone"}));
}

#[test]
fn an_end_that_could_not_be_kept_is_a_failure_without_a_gap_in_the_numbers() {
    let mut writer = ResponseWriter::new(draft(None));
    let mut events = told(&mut writer, &[started(), token("H")]);
    let TaskEvent::End(last) = end(FinishReason::Stop) else { panic!("an end") };
    assert_eq!(writer.ended(&last).status, ResponseStatus::Completed);
    let error = TaskEvent::Error(ApiError::new(ErrorCode::InsufficientDisk, "full").into());
    let frames = writer.write(0, &error);
    let failed = std::str::from_utf8(&frames).unwrap();
    let number = events.pop().unwrap()["sequence_number"].as_u64().unwrap() + 1;
    assert!(failed.contains(&format!("\"sequence_number\":{number}")), "{failed}");
    assert!(failed.contains("\"status\":\"failed\"") && failed.contains("\"completed_at\":null"), "{failed}");
}

#[test]
fn log_probabilities_come_with_their_text_and_with_the_whole() {
    let likely = LikelyToken { id: 5, text: "a".into(), bytes: vec![97], logprob: Some(-0.25) };
    let logprobs = vec![TokenLogprob { token: likely.clone(), top: vec![likely] }];
    let event = TaskEvent::Token(Token { token: "a".into(), logprobs, ..Token::default() });
    let mut writer = ResponseWriter::new(draft(None));
    let told = told(&mut writer, &[started(), event, end(FinishReason::Stop)]);
    let one = json!({"token": "a", "logprob": -0.25, "bytes": [97]});
    let mut expected = one.clone();
    expected["top_logprobs"] = json!([one]);
    let of = |kind: &str| told.iter().find(|event| event["type"] == kind).unwrap()["logprobs"].clone();
    assert_eq!(of("response.output_text.delta"), json!([expected]));
    assert_eq!(of("response.output_text.done"), json!([expected]));
    let whole = &told.last().unwrap()["response"]["output"][0]["content"][0]["logprobs"];
    assert_eq!(*whole, json!([expected]));
}
