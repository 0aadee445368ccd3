use protocol::worker::{Message, ToolChoice as Choice};
use serde_json::json;

use super::*;

fn body(extra: &Value) -> ResponseRequest {
    let mut body = json!({"model": "m", "input": "hi"});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    serde_json::from_value(body).unwrap()
}

fn order(extra: &Value) -> ResponseOrder {
    response_order(body(extra), &Context::default(), None).unwrap_or_else(|error| panic!("{extra}: {error}"))
}

fn assert_refused(extra: &Value, param: &str) {
    let error = response_order(body(extra), &Context::default(), None).expect_err(&extra.to_string());
    assert_eq!(error.param.as_deref(), Some(param), "{extra}: {error}");
    assert!(matches!(error.code.status(), 400 | 501), "{extra}: {error}");
    assert!(error.message.contains(param.split('[').next().unwrap()), "{extra}: {error}");
}

fn turns(extra: &Value) -> Vec<Message> {
    order(extra).request.order.messages.unwrap()
}

fn function(name: &str) -> Value {
    json!({"type": "function", "name": name, "parameters": {"type": "object"}})
}

#[test]
fn what_is_out_of_range_or_not_there_is_refused_by_name() {
    for (param, value) in [
        ("conversation", json!("conv_1")),
        ("prompt", json!({"id": "pmpt_1"})),
        ("moderation", json!({"model": "x"})),
        ("context_management", json!([{"type": "compaction"}])),
        ("personality", json!("friendly")),
        ("truncation", json!("auto")),
        ("truncation", json!("some")),
        ("temperature", json!(2.1)),
        ("top_p", json!(-0.1)),
        ("top_logprobs", json!(21)),
        ("tool_choice", json!("required")),
        ("tool_choice", json!("often")),
        ("input", json!([])),
        ("input", json!(null)),
    ] {
        assert_refused(&json!({param: value}), param);
    }
    let schema = |schema: Value| json!({"text": {"format": schema}});
    for (extra, param) in [
        (json!({"include": ["message.output_text.logprobs", "x"]}), "include[1]"),
        (json!({"metadata": {"k": "v".repeat(513)}}), "metadata.k"),
        (json!({"reasoning": {"effort": "enormous"}}), "reasoning.effort"),
        (json!({"reasoning": {"summary": "long"}}), "reasoning.summary"),
        (json!({"reasoning": {"context": "none"}}), "reasoning.context"),
        (json!({"reasoning": {"mode": "pro"}}), "reasoning.mode"),
        (json!({"text": {"verbosity": "loud"}}), "text.verbosity"),
        (schema(json!({"type": "xml"})), "text.format.type"),
        (schema(json!({"type": "json_schema", "schema": {}})), "text.format.name"),
        (schema(json!({"type": "json_schema", "name": "a b", "schema": {}})), "text.format.name"),
        (schema(json!({"type": "json_schema", "name": "a"})), "text.format.schema"),
        (schema(json!({"type": "regex"})), "text.format.pattern"),
        (json!({"tools": [{"type": "custom", "name": "x"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].name"),
        (json!({"tools": [function("f"), function("a b")]}), "tools[1].name"),
        (json!({"tools": [function("f"), function("f")]}), "tools[1].name"),
        (json!({"tools": [{"type": "function", "name": "f", "parameters": 1}]}), "tools[0].parameters"),
        (
            json!({"tools": [{"type": "function", "name": "f", "defer_loading": true}]}),
            "tools[0].defer_loading",
        ),
        (
            json!({"tools": [{"type": "function", "name": "f", "allowed_callers": ["programmatic"]}]}),
            "tools[0].allowed_callers",
        ),
        (json!({"tools": [function("f")], "tool_choice": {"type": "function", "name": "g"}}), "tool_choice"),
        (json!({"tools": [function("f")], "tool_choice": {"type": "web_search_preview"}}), "tool_choice"),
        (
            json!({"tools": [function("f")], "tool_choice": {"type": "allowed_tools", "mode": "often", "tools": [
                {"type": "function", "name": "f"}]}}),
            "tool_choice",
        ),
    ] {
        assert_refused(&extra, param);
    }
}

#[test]
fn items_that_make_no_sense_are_refused_by_their_place() {
    let picture =
        json!({"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image"}]});
    for (item, param) in [
        (json!({"role": "user"}), "input[0].content"),
        (json!({"type": "message", "content": "x"}), "input[0].role"),
        (json!({"role": "tool", "content": "x"}), "input[0].role"),
        (picture, "input[0].content[1]"),
        (json!({"role": "user", "content": [{"type": "input_text"}]}), "input[0].content[0]"),
        (json!({"role": "user", "content": [{"type": "poem", "text": "x"}]}), "input[0].content[0]"),
        (json!({"type": "web_search_call", "id": "ws_1"}), "input[0].type"),
        (json!({"type": "function_call", "call_id": "c", "name": "f"}), "input[0].arguments"),
        (json!({"type": "function_call_output", "call_id": "c", "output": "x"}), "input[0].call_id"),
        (json!({"type": "item_reference", "id": "msg_1"}), "input[0].id"),
        (json!({"id": "msg_1"}), "input[0].id"),
        (json!({"type": "item_reference"}), "input[0].id"),
        (json!({"type": "reasoning", "summary": [], "encrypted_content": "x"}), "input[0].encrypted_content"),
        (json!({"role": "user", "content": "x", "id": "x".repeat(129)}), "input[0].id"),
    ] {
        assert_refused(&json!({"input": [item]}), param);
    }
}

#[test]
fn what_sdks_send_for_nothing_is_accepted_and_told_again() {
    let accepted = json!({
        "background": false, "truncation": "disabled", "conversation": null, "prompt": null, "tools": [],
        "tool_choice": "auto", "parallel_tool_calls": true, "user": "u", "safety_identifier": "s",
        "prompt_cache_key": "k", "prompt_cache_retention": "24h", "service_tier": "auto", "max_tool_calls": 3,
        "include": ["reasoning.encrypted_content"], "text": {"format": {"type": "text"}, "verbosity": "low"},
        "stream_options": {"include_obfuscation": false}, "metadata": {"a": "b"}, "unknown_field": 1, "store": false,
        "reasoning": {"effort": null, "summary": null}
    });
    let ResponseOrder { request, draft, .. } = order(&accepted);
    assert!(request.order.tools.is_empty() && request.order.tool_choice.is_none());
    assert_eq!((request.order.constraint, request.order.logprobs), (None, None));
    assert_eq!((draft.user.as_deref(), draft.max_tool_calls, draft.store), (Some("u"), Some(3), false));
    let defaults = order(&json!({})).draft;
    assert!(defaults.store && defaults.parallel_tool_calls);
    assert_eq!((defaults.temperature, defaults.top_p), (1.0, 1.0));
    assert_eq!(serde_json::to_value(defaults.text).unwrap(), json!({"format": {"type": "text"}}));
    assert_eq!(serde_json::to_value(defaults.tool_choice).unwrap(), "auto");
}

#[test]
fn what_the_model_did_in_one_go_is_one_turn() {
    let input = json!([
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "I look.", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"role": "assistant", "content": "So."},
        {"role": "assistant", "content": "Then."},
    ]);
    let told = turns(&json!({"instructions": "Be brief.", "input": input}));
    let roles: Vec<&str> = told.iter().map(|turn| turn.role.as_str()).collect();
    assert_eq!(roles, ["system", "system", "user", "assistant", "tool", "tool", "assistant", "assistant"]);
    let contents: Vec<&str> = told.iter().map(|turn| turn.content.as_str()).collect();
    assert_eq!(contents, ["Be brief.", "Be kind.", "ab", "I look.", "two", "one", "So.", "Then."]);
    assert_eq!(told[3].reasoning.as_deref(), Some("hm"));
    assert_eq!(told[3].tool_calls.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(), ["c1", "c2"]);
    assert_eq!((told[4].name.as_deref(), told[4].tool_call_id.as_deref()), (Some("g"), Some("c2")));
}

#[test]
fn a_conversation_goes_on_and_items_stand_for_others() {
    let ResponseOrder { input: past, .. } = order(&json!({"input": [
        {"role": "user", "content": "What is it?"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    ]}));
    let context = |past: &[Item]| {
        let referenced = past.iter().map(|item| (item.id().to_owned(), item.clone())).collect();
        Context { past: past.to_vec(), referenced }
    };
    let output = json!({"input": [{"type": "function_call_output", "call_id": "c1", "output": "one"}]});
    let order = response_order(body(&output), &context(&past), None).unwrap();
    assert_eq!(order.request.order.messages.unwrap().len(), 3);
    assert_eq!(order.input.len(), 1, "only the request's own items are kept with it");
    let reference = json!({"input": [{"type": "item_reference", "id": past[0].id()}]});
    assert_eq!(references(body(&reference).input.as_ref()), [past[0].id()]);
    let known = Context { past: Vec::new(), ..context(&past) };
    let order = response_order(body(&reference), &known, None).unwrap();
    assert_eq!(order.input, past[..1]);
}

#[test]
fn thoughts_of_earlier_turns_are_forgotten_if_that_is_asked_for() {
    let thought =
        |text: &str| json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]});
    let input = json!([
        {"role": "user", "content": "1"}, thought("a"), {"role": "assistant", "content": "x"},
        {"role": "user", "content": "2"}, thought("b"),
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "y"},
    ]);
    let seen = |context: &str| {
        let turns = turns(&json!({"input": input, "reasoning": {"context": context}}));
        turns.into_iter().filter_map(|turn| turn.reasoning).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(seen("all_turns"), "a b");
    assert_eq!(seen("current_turn"), "b");
}

#[test]
fn tools_choices_and_formats_are_those_of_chat_completions() {
    let tools = json!([function("f"), {"type": "function", "name": "g", "strict": false}]);
    let asked = |choice: Value| {
        let ResponseOrder { request, draft, .. } = order(&json!({"tools": tools, "tool_choice": choice}));
        assert_eq!(serde_json::to_value(&draft.tools[0]).unwrap()["strict"], json!(true));
        if !choice.is_null() {
            assert_eq!(serde_json::to_value(&draft.tool_choice).unwrap(), choice);
        }
        let names: Vec<String> = request.order.tools.into_iter().map(|tool| tool.name).collect();
        (names.join(" "), request.order.tool_choice)
    };
    assert_eq!(asked(Value::Null), ("f g".into(), None));
    assert_eq!(asked(json!("required")), ("f g".into(), Some(Choice::Required)));
    let named = json!({"type": "function", "name": "g"});
    assert_eq!(asked(named.clone()), ("f g".into(), Some(Choice::Named("g".into()))));
    let allowed = json!({"type": "allowed_tools", "mode": "auto", "tools": [named]});
    assert_eq!(asked(allowed), ("g".into(), Some(Choice::Auto)));
    let strict: Vec<bool> =
        order(&json!({"tools": tools})).request.order.tools.iter().map(|tool| tool.strict).collect();
    assert_eq!(strict, [true, false]);
    let schema = json!({"type": "object"});
    let format = json!({"type": "json_schema", "name": "a", "schema": schema, "strict": true});
    let constraint = order(&json!({"text": {"format": format}})).request.order.constraint;
    assert_eq!(constraint, Some(Constraint::JsonSchema { schema }));
}

#[test]
fn log_probabilities_are_asked_for_by_either_of_two_fields() {
    let logprobs = |extra: Value| order(&extra).request.order.logprobs;
    assert_eq!(logprobs(json!({"include": ["message.output_text.logprobs"]})), Some(0));
    assert_eq!(logprobs(json!({"top_logprobs": 5})), Some(5));
    assert_eq!(logprobs(json!({"top_logprobs": 0})), None);
}
