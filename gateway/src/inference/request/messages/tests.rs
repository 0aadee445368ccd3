use protocol::worker::{Message, ToolCall, ToolChoice};
use serde_json::json;

use super::*;

fn order(extra: &Value) -> Result<MessageOrder, ApiError> {
    let mut body = json!({"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    message_order(serde_json::from_value(body).unwrap(), None)
}

fn asked(extra: &Value) -> ExecuteRequest {
    order(extra).unwrap().request.order
}

fn turns(extra: &Value) -> Vec<Message> {
    asked(extra).messages.unwrap()
}

fn assert_refused(extra: &Value, param: &str) {
    let error = order(extra).expect_err(&extra.to_string());
    assert_eq!((error.param.as_deref(), error.code.status()), (Some(param), 400), "{extra}: {error}");
    assert!(error.message.contains(&format!("'{param}'")), "{error}");
}

fn tool(name: &str) -> Value {
    json!({"name": name, "input_schema": {"type": "object"}})
}

/// A conversation whose assistant calls a tool.
fn called() -> Value {
    json!([
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
            {"type": "tool_use", "id": "t2", "name": "g", "input": {"INVALID_JSON": "{\"a\""}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [
                {"type": "text", "text": "sunny", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "warm"}]},
            {"type": "tool_result", "tool_use_id": "t2", "content": "broken", "is_error": true},
            {"type": "text", "text": "Go on."},
        ]},
    ])
}

#[test]
fn what_is_out_of_range_or_not_there_is_refused_by_name() {
    for (param, value) in [
        ("max_tokens", json!(null)),
        ("temperature", json!(1.1)),
        ("top_p", json!(-0.1)),
        ("stop_sequences", json!(vec!["a"; 17])),
        ("stop_sequences", json!([""])),
        ("messages", json!([])),
        ("container", json!("c")),
        ("mcp_servers", json!([{"type": "url", "url": "https://example.com", "name": "x"}])),
        ("compaction", json!({})),
        ("thread", json!({"type": "create"})),
        ("inference_geo", json!("us")),
        ("tool_choice", json!({"type": "any"})),
    ] {
        assert_refused(&json!({param: value}), param);
    }
    for (extra, param) in [
        (json!({"output_config": {"effort": "huge"}}), "output_config.effort"),
        (json!({"output_config": {"task_budget": {"total": 5}}}), "output_config.task_budget"),
        (json!({"output_config": {"format": {"type": "regex"}}}), "output_config.format.type"),
        (json!({"output_format": {"type": "json_schema"}}), "output_config.format.schema"),
        (json!({"thinking": {"type": "enabled"}}), "thinking.budget_tokens"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 1023}}), "thinking.budget_tokens"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}), "thinking.budget_tokens"),
        (json!({"thinking": {"type": "between_tools"}}), "thinking.type"),
        (json!({"thinking": {"type": "often"}}), "thinking.type"),
        (json!({"thinking": {"type": "adaptive", "display": "loud"}}), "thinking.display"),
        (json!({"tools": [tool("f"), tool("f")]}), "tools[1].name"),
        (json!({"tools": [tool("a b")]}), "tools[0].name"),
        (json!({"tools": [tool(&"f".repeat(129))]}), "tools[0].name"),
        (json!({"tools": [{"name": "f"}]}), "tools[0].input_schema"),
        (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [tool("f")], "tool_choice": {"type": "often"}}), "tool_choice.type"),
        (json!({"tools": [tool("f")], "tool_choice": {"type": "tool"}}), "tool_choice.name"),
        (json!({"tools": [tool("f")], "tool_choice": {"type": "tool", "name": "g"}}), "tool_choice.name"),
        (
            json!({"context_management": {"edits": [{"type": "compact_20260112"}]}}),
            "context_management.edits[0].type",
        ),
        (
            json!({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": 3}]}}),
            "context_management.edits[0].keep",
        ),
    ] {
        assert_refused(&extra, param);
    }
}

#[test]
fn blocks_that_are_no_text_or_stand_in_the_wrong_place_are_refused_by_their_place() {
    let user = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    for (extra, param) in [
        (user(json!({"type": "image", "source": {"type": "base64"}})), "messages[0].content[0]"),
        (user(json!({"type": "document", "source": {}})), "messages[0].content[0]"),
        (user(json!({"type": "search_result"})), "messages[0].content[0]"),
        (user(json!({"type": "server_tool_use"})), "messages[0].content[0]"),
        (user(json!({"type": "hologram"})), "messages[0].content[0]"),
        (user(json!({"type": "tool_use", "id": "t", "name": "f", "input": {}})), "messages[0].content[0]"),
        (user(json!({"type": "text"})), "messages[0].content[0].text"),
        (user(json!({"type": "tool_result"})), "messages[0].content[0].tool_use_id"),
        (
            user(json!({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]})),
            "messages[0].content[0].content[0]",
        ),
        (json!({"system": [{"type": "image"}]}), "system[0]"),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
            "messages[1]",
        ),
    ] {
        assert_refused(&extra, param);
    }
}

#[test]
fn what_clients_send_for_nothing_is_accepted() {
    let order = asked(&json!({
        "metadata": {"user_id": "u"}, "service_tier": "auto", "speed": "fast", "cache_control": {"type": "ephemeral"},
        "container": null, "mcp_servers": [], "inference_geo": "global", "diagnostics": {}, "fallbacks": "default",
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}, "unknown_field": 1,
        "stop_sequences": [], "tools": [], "tool_choice": {"type": "auto"}, "top_k": 5, "output_config": {},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    }));
    assert_eq!((order.max_tokens, order.top_k, order.cut_to_context), (Some(64), Some(5), true));
    assert!(order.tools.is_empty() && order.constraint.is_none());
    assert_eq!(order.messages.unwrap()[0].content, "Be brief.");
}

#[test]
fn calls_and_their_results_are_turns() {
    let messages = turns(&json!({"system": "Be brief.", "messages": called()}));
    let told: Vec<(&str, &str)> =
        messages.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect();
    assert_eq!(
        told,
        [
            ("system", "Be brief."),
            ("user", "go"),
            ("assistant", "I look."),
            ("tool", "sunny\nwarm"),
            ("tool", "Error: broken"),
            ("user", "Go on."),
        ]
    );
    let call = |id: &str, name: &str, arguments: &str| ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
    };
    assert_eq!(messages[2].tool_calls, [call("t1", "f", "{\"a\":1}"), call("t2", "g", "{\"a\"")]);
    assert_eq!(messages[2].reasoning.as_deref(), Some("hm"));
    assert_eq!((messages[4].tool_call_id.as_deref(), messages[4].name.as_deref()), (Some("t2"), Some("g")));
}

#[test]
fn turns_of_one_speaker_in_a_row_are_one() {
    let messages = turns(&json!({"messages": [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        {"role": "system", "content": "for now", "clear_at": "next_user_message"},
        {"role": "system", "content": "for ever"},
        {"role": "user", "content": "d"},
    ]}));
    let told: Vec<(&str, &str)> =
        messages.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect();
    assert_eq!(told, [("user", "a\nb\nc"), ("system", "for ever"), ("user", "d")]);
}

#[test]
fn thoughts_of_earlier_turns_are_left_out_as_far_as_that_is_asked_for() {
    let thought = |text: &str| {
        json!([{"role": "assistant", "content": [{"type": "thinking", "thinking": text, "signature": "s"},
            {"type": "text", "text": "so"}]}, {"role": "user", "content": "go on"}])
    };
    let messages: Vec<Value> =
        ["1", "2", "3"].iter().flat_map(|text| thought(text).as_array().unwrap().clone()).collect();
    let kept = |edit: Value| {
        let edits = json!({"edits": [edit]});
        let messages = turns(&json!({"messages": messages, "context_management": edits}));
        messages.into_iter().filter_map(|turn| turn.reasoning).collect::<String>()
    };
    let edit = |keep: Value| json!({"type": "clear_thinking_20251015", "keep": keep});
    assert_eq!(kept(edit(json!("all"))), "123");
    assert_eq!(kept(edit(json!({"type": "all"}))), "123");
    assert_eq!(kept(edit(json!({"type": "thinking_turns", "value": 2}))), "23");
    assert_eq!(kept(json!({"type": "clear_thinking_20251015"})), "3");
}

#[test]
fn tools_and_choices_of_every_shape() {
    let tools = json!([
        {"type": "custom", "name": "f", "description": "Does f.", "input_schema": {"type": "object"}, "strict": true,
            "input_examples": [{"a": 1}], "cache_control": {"type": "ephemeral"}, "allowed_callers": ["direct"]},
        tool(&"g".repeat(128)),
    ]);
    let asked = |choice: Value| asked(&json!({"tools": tools, "tool_choice": choice}));
    let order = asked(Value::Null);
    assert_eq!((order.tools.len(), order.tool_choice, order.parallel_tool_calls), (2, None, None));
    assert_eq!(order.tools[0].description.as_deref(), Some("Does f.\nExample of an input: {\"a\":1}"));
    assert!(order.tools[0].strict && !order.tools[1].strict);
    for (kind, choice) in
        [("auto", ToolChoice::Auto), ("any", ToolChoice::Required), ("none", ToolChoice::None)]
    {
        assert_eq!(asked(json!({"type": kind})).tool_choice, Some(choice));
    }
    let order = asked(json!({"type": "tool", "name": "f", "disable_parallel_tool_use": true}));
    assert_eq!(order.tool_choice, Some(ToolChoice::Named("f".into())));
    assert_eq!(order.parallel_tool_calls, Some(false));
}

#[test]
fn thinking_and_effort_are_told_in_templates_names() {
    let options = |extra: Value| Value::Object(asked(&extra).template_options.unwrap());
    assert_eq!(options(json!({})), json!({"enable_thinking": false}));
    assert_eq!(options(json!({"thinking": {"type": "disabled"}})), json!({"enable_thinking": false}));
    let enabled = json!({"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}});
    assert_eq!(options(enabled), json!({"enable_thinking": true}));
    let effort = json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}});
    assert_eq!(options(effort), json!({"enable_thinking": true, "reasoning_effort": "low"}));
    let thoughts = |thinking: Value| order(&json!({"thinking": thinking})).unwrap().thoughts;
    assert_eq!(thoughts(json!({"type": "adaptive", "display": "omitted"})), Thoughts::Omitted);
    assert_eq!(thoughts(json!({"type": "adaptive", "display": "summarized"})), Thoughts::Shown);
}

#[test]
fn formats_become_constraints_and_a_workers_refusal_names_the_callers_field() {
    let schema = json!({"type": "object"});
    let format = json!({"type": "json_schema", "schema": schema});
    let constraint = Some(Constraint::JsonSchema { schema });
    assert_eq!(asked(&json!({"output_config": {"format": format}})).constraint, constraint);
    assert_eq!(asked(&json!({"output_format": format})).constraint, constraint);
    let request = order(&json!({})).unwrap().request;
    for (ours, callers) in [
        ("constraint.schema/properties/x/not", "output_config.format.schema/properties/x/not"),
        ("constraint", "output_config.format"),
        ("tools[3].parameters/type", "tools[3].input_schema/type"),
        ("template_options", "thinking"),
        ("max_tokens", "max_tokens"),
    ] {
        let error = request.in_callers_words(ApiError::invalid(ours, "no"));
        assert_eq!(error.param.as_deref(), Some(callers));
    }
}
