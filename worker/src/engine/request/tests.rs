use serde_json::json;

use super::*;

fn parse(json: Value) -> Result<GenerationRequest, ApiError> {
    serde_json::from_value::<ExecuteRequest>(json).unwrap().try_into()
}

/// A request that would be fine without `extra`.
fn with(extra: &Value) -> Value {
    let mut request = json!({"prompt": "a"});
    request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    request
}

/// A conversation that would be fine without `extra`.
fn chat(extra: &Value) -> Value {
    let mut request = json!({"messages": [{"role": "user", "content": "b"}]});
    request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    request
}

fn assert_refused(request: &Value, param: &str) {
    let error = parse(request.clone()).expect_err(&request.to_string());
    assert_eq!(error.param.as_deref(), Some(param), "{request}: {error}");
}

#[test]
fn one_input_is_given_and_it_is_not_empty() {
    for (request, param) in [
        (json!({}), "prompt"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"instruction": ""}), "prompt"),
        (json!({"prompt_tokens": []}), "prompt_tokens"),
        (json!({"messages": []}), "messages"),
        (json!({"prompt": "a", "instruction": "b"}), "prompt"),
        (json!({"prompt": "a", "prompt_tokens": [1]}), "prompt"),
        (chat(&json!({"prompt": "a"})), "prompt"),
    ] {
        assert_refused(&request, param);
    }
    let request = parse(json!({"instruction": "a"})).unwrap();
    assert_eq!(request.input, Input::Instruction("a".to_owned()));
    assert_eq!(parse(json!({"prompt_tokens": [3, 1]})).unwrap().input, Input::Tokens(vec![3, 1]));
}

#[test]
fn the_field_out_of_range_is_named_with_the_numbers() {
    for (extra, param) in [
        (json!({"temperature": 2.1}), "temperature"),
        (json!({"temperature": -0.1}), "temperature"),
        (json!({"temperature": 1e39}), "temperature"),
        (json!({"top_p": -0.1}), "top_p"),
        (json!({"top_p": 1.5}), "top_p"),
        (json!({"min_p": 1.5}), "min_p"),
        (json!({"typical_p": -1}), "typical_p"),
        (json!({"presence_penalty": 2.5}), "presence_penalty"),
        (json!({"frequency_penalty": -2.5}), "frequency_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"repetition_penalty": 11}), "repetition_penalty"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5"),
        (json!({"n": 0}), "n"),
        (json!({"n": 129}), "n"),
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"min_tokens": 6, "max_tokens": 5}), "min_tokens"),
        (json!({"stop": vec!["x"; 17]}), "stop"),
        (json!({"stop": ["x", ""]}), "stop[1]"),
        (json!({"request_id": ""}), "request_id"),
        (json!({"request_id": "x".repeat(129)}), "request_id"),
        (json!({"template_options": {"enable_thinking": false}}), "template_options"),
    ] {
        assert_refused(&with(&extra), param);
    }
    let error = parse(with(&json!({"logprobs": 21}))).unwrap_err();
    assert_eq!(error.message, "'logprobs' must be from 0 to 20; it is 21.");
    assert_refused(&chat(&json!({"echo": true})), "echo");
}

#[test]
fn tools_have_names_messages_and_a_choice_that_fits() {
    let tool = |name: &str| json!({"name": name, "parameters": {"type": "object"}});
    let tools = |tools: Vec<Value>| json!({"tools": tools});
    assert_refused(&with(&tools(vec![tool("f")])), "tools");
    for (extra, param) in [
        (tools(vec![tool("f"), tool("a b")]), "tools[1].name"),
        (tools(vec![tool("")]), "tools[0].name"),
        (tools(vec![tool(&"f".repeat(129))]), "tools[0].name"),
        (tools(vec![tool("f"), tool("f")]), "tools[1].name"),
        (tools((0..129).map(|index| tool(&format!("f{index}"))).collect()), "tools"),
        (tools(vec![json!({"name": "f", "parameters": [1]})]), "tools[0].parameters"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": {"named": "f"}}), "tool_choice"),
        (json!({"tools": [tool("g")], "tool_choice": {"named": "f"}}), "tool_choice"),
    ] {
        assert_refused(&chat(&extra), param);
    }
    let request = parse(chat(&json!({"tools": [tool("f-1_B")], "parallel_tool_calls": false}))).unwrap();
    let used = request.tools.unwrap();
    assert_eq!((used.tools.len(), used.choice, used.parallel), (1, ToolChoice::Auto, false));
    let none = json!({"tools": [tool("f")], "tool_choice": "none", "constraint": {"type": "json_object"}});
    let request = parse(chat(&none)).unwrap();
    assert_eq!((request.tools, request.constraint), (None, Some(Constraint::JsonObject)));
}

#[test]
fn what_is_absent_takes_its_default() {
    let request = parse(with(&json!({"max_tokens": 0, "seed": 5}))).unwrap();
    assert_eq!(request.sampling, Sampling { seed: 5, ..Sampling::default() });
    assert_eq!((request.max_tokens, request.choices, request.echo), (Some(0), 1, false));
    assert!(request.constraint.is_none() && request.tools.is_none() && request.template_options.is_empty());
}

#[test]
fn everything_given_arrives() {
    let request = parse(with(&json!({
        "temperature": 0.5, "top_k": 4, "top_p": 0.6, "min_p": 0.1, "typical_p": 0.7, "presence_penalty": 1,
        "frequency_penalty": -1, "repetition_penalty": 1.5, "logit_bias": {"7": -100, "3": 1}, "seed": 9,
        "min_tokens": 2, "max_tokens": 4, "ignore_eos": true, "logprobs": 0, "n": 3, "echo": true,
    })))
    .unwrap();
    let expected = Sampling {
        temperature: 0.5,
        top_k: 4,
        top_p: 0.6,
        min_p: 0.1,
        typical_p: 0.7,
        presence_penalty: 1.0,
        frequency_penalty: -1.0,
        repetition_penalty: 1.5,
        logit_bias: vec![(3, 1.0), (7, -100.0)],
        seed: 9,
        min_tokens: 2,
        ignore_eos: true,
        logprobs: Some(0),
    };
    assert_eq!(request.sampling, expected);
    assert_eq!((request.choices, request.echo), (3, true));
}

#[test]
fn tokens_are_the_models() {
    let prompt = parse(json!({"prompt_tokens": [0, 9, 10]})).unwrap();
    assert!(prompt.check_vocabulary(11).is_ok());
    let error = prompt.check_vocabulary(10).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("prompt_tokens[2]"));
    let biased = parse(with(&json!({"logit_bias": {"10": 1}}))).unwrap();
    assert!(biased.check_vocabulary(11).is_ok());
    let error = biased.check_vocabulary(10).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("logit_bias"));
    assert!(error.message.contains("0 to 9; 10 is none"), "{}", error.message);
}
