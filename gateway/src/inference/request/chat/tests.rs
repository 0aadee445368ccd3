use protocol::worker::ToolChoice;
use serde_json::json;

use super::*;

fn chat(extra: &Value) -> Result<InferenceRequest, ApiError> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    chat_request(serde_json::from_value(body).unwrap(), None)
}

fn order(extra: &Value) -> ExecuteRequest {
    chat(extra).unwrap().order
}

fn assert_refused(extra: &Value, param: &str) {
    let error = chat(extra).expect_err(&extra.to_string());
    assert_eq!((error.param.as_deref(), error.code.status()), (Some(param), 400), "{extra}");
}

fn function(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

#[test]
fn what_is_out_of_range_or_not_there_is_refused_by_name() {
    for (param, value) in [
        ("n", json!(0)),
        ("n", json!(129)),
        ("frequency_penalty", json!(2.5)),
        ("presence_penalty", json!(-2.5)),
        ("repetition_penalty", json!(0)),
        ("min_p", json!(1.5)),
        ("typical_p", json!(-1)),
        ("logit_bias", json!({"foo": 1})),
        ("top_logprobs", json!(3)),
        ("top_logprobs", json!(21)),
        ("functions", json!([{"name": "f"}])),
        ("function_call", json!({"name": "f"})),
        ("tool_choice", json!("required")),
        ("modalities", json!(["text", "audio"])),
        ("moderation", json!({"model": "m"})),
        ("web_search_options", json!({})),
        ("reasoning_effort", json!("enormous")),
        ("temperature", json!(2.1)),
        ("top_p", json!(-0.1)),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("messages", json!([])),
    ] {
        assert_refused(&json!({param: value}), param);
    }
    for (extra, param) in [
        (json!({"logit_bias": {"7": 101}}), "logit_bias.7"),
        (json!({"min_tokens": 3, "max_tokens": 2}), "min_tokens"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}),
            "response_format.json_schema.name",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"response_format": {"type": "regex"}}), "response_format.pattern"),
        (json!({"tools": [function("f"), function("f")]}), "tools[1].function.name"),
        (json!({"tools": [function("a b")]}), "tools[0].function.name"),
        (json!({"tools": [{"type": "custom", "custom": {"name": "x"}}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tools": [function("f")], "tool_choice": "often"}), "tool_choice"),
        (
            json!({"tools": [function("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
        ),
    ] {
        assert_refused(&extra, param);
    }
}

#[test]
fn what_sdks_send_for_nothing_is_accepted() {
    let accepted = json!({
        "n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": false,
        "response_format": {"type": "text"}, "tools": [], "tool_choice": "auto", "modalities": ["text"], "user": "u",
        "metadata": {}, "store": true, "service_tier": "auto", "verbosity": "low", "stream_options": {"include_usage": true},
        "unknown_field": 1, "max_tokens": 0, "functions": [], "function_call": "auto", "parallel_tool_calls": true
    });
    let order = order(&accepted);
    assert_eq!((order.max_tokens, order.constraint, order.logprobs), (Some(0), None, None));
    assert!(order.tools.is_empty() && order.tool_choice.is_none());
}

#[test]
fn any_json_number_is_a_seed_and_different_numbers_are_different_seeds() {
    let numbers = ["0", "1", "-1", "18446744073709551615", "1e300", "0.5"];
    let seed = |number: &str| {
        let number: Value = serde_json::from_str(number).unwrap();
        order(&json!({"seed": number})).seed.unwrap()
    };
    assert_eq!(seed("-1"), seed("-1"));
    let distinct: std::collections::HashSet<u64> = ["0", "1", "-1", "1e300", "0.5"].map(seed).into();
    assert_eq!(distinct.len(), 5, "of {numbers:?}, -1 and 2^64-1 alone share one");
}

#[test]
fn content_parts_are_joined_and_pictures_refused() {
    let parts = json!({"messages": [{"role": "developer", "content": [
        {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "assistant", "content": null}]});
    let messages = order(&parts).messages.unwrap();
    assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("system", "ab"));
    let picture = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]});
    assert_refused(&picture, "messages[0].content[0]");
}

#[test]
fn calls_and_their_answers_are_turns() {
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
    let messages = json!({"messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": null, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
        {"role": "function", "name": "old", "content": "done"},
    ]});
    let messages = order(&messages).messages.unwrap();
    let called = ToolCall { id: "c1".into(), name: "f".into(), arguments: "{\"a\": 1}".into() };
    assert_eq!(
        (messages[1].tool_calls.as_slice(), messages[1].reasoning.as_deref()),
        (&[called][..], Some("hm"))
    );
    assert_eq!((messages[2].role.as_str(), messages[2].name.as_deref()), ("tool", Some("f")));
    assert_eq!((messages[3].role.as_str(), messages[3].name.as_deref()), ("tool", Some("old")));
    for (message, param) in [
        (json!({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
        (json!({"role": "function", "content": "x"}), "messages[0].name"),
        (json!({"role": "user", "content": null}), "messages[0].content"),
        (json!({"role": "assistant", "function_call": {"name": "f"}}), "messages[0].function_call"),
    ] {
        assert_refused(&json!({"messages": [message]}), param);
    }
}

#[test]
fn formats_become_constraints() {
    let schema = json!({"type": "object"});
    for (format, constraint) in [
        (json!({"type": "json_object"}), Constraint::JsonObject),
        (
            json!({"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": schema}}),
            Constraint::JsonSchema { schema },
        ),
        (json!({"type": "regex", "pattern": "a+"}), Constraint::Regex { pattern: "a+".into() }),
        (
            json!({"type": "lark", "grammar": "start: \"a\""}),
            Constraint::Lark { grammar: "start: \"a\"".into() },
        ),
    ] {
        assert_eq!(order(&json!({"response_format": format})).constraint, Some(constraint));
    }
}

#[test]
fn tools_and_choices_of_every_shape() {
    let tools = json!([function("f"), function("g")]);
    let asked = |choice: Value| {
        let order = order(&json!({"tools": tools, "tool_choice": choice}));
        let names: Vec<String> = order.tools.into_iter().map(|tool| tool.name).collect();
        (names.join(" "), order.tool_choice)
    };
    assert_eq!(asked(Value::Null), ("f g".into(), None));
    assert_eq!(asked(json!("none")), ("f g".into(), Some(ToolChoice::None)));
    assert_eq!(asked(json!("required")), ("f g".into(), Some(ToolChoice::Required)));
    let named = json!({"type": "function", "function": {"name": "g"}});
    assert_eq!(asked(named.clone()), ("f g".into(), Some(ToolChoice::Named("g".into()))));
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}});
    assert_eq!(asked(allowed), ("g".into(), Some(ToolChoice::Required)));
}

#[test]
fn effort_is_told_in_templates_names() {
    let options = |extra: Value| order(&extra).template_options.map(Value::Object);
    assert_eq!(options(json!({})), None);
    assert_eq!(options(json!({"reasoning_effort": "none"})), Some(json!({"enable_thinking": false})));
    let given =
        json!({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false, "x": 1}});
    let expected = json!({"enable_thinking": false, "reasoning_effort": "low", "x": 1});
    assert_eq!(options(given), Some(expected));
}

#[test]
fn log_probabilities_are_asked_for_by_two_fields() {
    assert_eq!(order(&json!({"logprobs": true})).logprobs, Some(0));
    assert_eq!(order(&json!({"logprobs": true, "top_logprobs": 5})).logprobs, Some(5));
    assert_eq!(order(&json!({"top_logprobs": 0})).logprobs, None);
}
