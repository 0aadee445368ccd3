//! Answers that must be something: a real model, by chance at a temperature that makes it ramble, through the worker's door.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::oracle::model_path;
use crate::process::Worker;

static WORKER: LazyLock<Worker> =
    LazyLock::new(|| Worker::ready(&model_path("smollm2-135m-instruct.gguf"), &["--context-limit", "2048"]));

/// What is asked, at a temperature at which a model of this size writes nothing of sense by itself.
fn asked(question: &str, constraint: &Value, seed: u64) -> Value {
    json!({
        "messages": [{"role": "user", "content": question}],
        "constraint": constraint,
        "temperature": 1.5,
        "seed": seed,
        "max_tokens": 200,
        "stream": false,
    })
}

/// The answers of ten seeds that ended by themselves; most must.
fn whole_answers(question: &str, constraint: &Value) -> Vec<String> {
    let answers: Vec<(String, String)> = std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..10).map(|seed| scope.spawn(move || answer(&asked(question, constraint, seed)))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let whole: Vec<String> =
        answers.iter().filter(|(_, reason)| reason == "stop").map(|(text, _)| text.clone()).collect();
    assert!(whole.len() >= 8, "only {} of 10 end in time: {answers:#?}", whole.len());
    whole
}

/// Text and finish reason, once there is a slot.
fn answer(request: &Value) -> (String, String) {
    loop {
        let answer = WORKER.post("/v1/execute", request);
        if answer.status == 503 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            continue;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
        let choice = answer.json()["choices"][0].clone();
        let text = |name: &str| choice[name].as_str().unwrap().to_owned();
        return (text("text"), text("finish_reason"));
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_schema_is_kept_to() {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "likes": {"type": "array", "items": {"enum": ["tea", "rain", "chess"]}, "minItems": 1, "maxItems": 3},
            "home": {"$ref": "#/$defs/place"},
        },
        "required": ["name", "age", "likes", "home"],
        "additionalProperties": false,
        "$defs": {"place": {
            "type": "object",
            "properties": {"city": {"type": "string", "pattern": "^[A-Z][a-z]{2,10}$"}},
            "required": ["city"],
            "additionalProperties": false,
        }},
    });
    let constraint = json!({"type": "json_schema", "schema": schema});
    for text in whole_answers("Make up a person, as JSON.", &constraint) {
        let person = parsed(&text);
        assert_eq!(person.as_object().unwrap().len(), 4, "{text}");
        assert!((1..=20).contains(&person["name"].as_str().unwrap().chars().count()), "{text}");
        assert!((0..=120).contains(&person["age"].as_u64().unwrap()), "{text}");
        let likes = person["likes"].as_array().unwrap();
        assert!((1..=3).contains(&likes.len()), "{text}");
        assert!(likes.iter().all(|like| like == "tea" || like == "rain" || like == "chess"), "{text}");
        let city = person["home"]["city"].as_str().unwrap();
        let (first, rest) = city.split_at(1);
        assert!(first.bytes().all(|byte| byte.is_ascii_uppercase()), "{text}");
        assert!(
            (2..=10).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_lowercase()),
            "{text}"
        );
    }
}

/// Nothing bounds a text here but the model's own sense, of which a lower temperature leaves it some.
#[test]
fn any_object_is_an_object() {
    let mut whole = 0;
    for seed in 0..5 {
        let question = "Give the capital of France as JSON with one key.";
        let mut request = asked(question, &json!({"type": "json_object"}), seed);
        request["temperature"] = json!(0.5);
        let (text, reason) = answer(&request);
        if reason == "stop" {
            whole += 1;
            assert!(parsed(&text).is_object(), "{text}");
        } else {
            assert!(text.starts_with('{'), "{text}");
        }
    }
    assert!(whole >= 2, "{whole} of 5 ended");
}

#[test]
fn an_expression_and_a_grammar_are_kept_to() {
    let regex = json!({"type": "regex", "pattern": "(yes|no), [1-9][0-9]? times"});
    for text in whole_answers("Have you seen the sea?", &regex) {
        let (said, count) = text.strip_suffix(" times").unwrap().split_once(", ").unwrap();
        assert!(said == "yes" || said == "no", "{text}");
        assert!((1..100).contains(&count.parse::<u8>().unwrap()), "{text}");
    }
    let lark = json!({"type": "lark", "grammar": "start: term (\" + \" term)~0..3\nterm: /[0-9]/ | \"(\" term \" * \" term \")\""});
    for text in whole_answers("Write a sum.", &lark) {
        assert!(text.bytes().all(|byte| b"0123456789+*() ".contains(&byte)), "{text}");
        assert_eq!(text.matches('(').count(), text.matches(')').count(), "{text}");
        assert!(text.split(" + ").count() <= 4, "{text}");
    }
}

#[test]
fn a_token_limit_cuts_and_says_so() {
    let mut request = asked("Tell me a story.", &json!({"type": "regex", "pattern": "[a-z ]{2000}"}), 1);
    request["max_tokens"] = json!(5);
    let (text, reason) = answer(&request);
    assert_eq!(reason, "length");
    assert!(!text.is_empty() && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_lowercase()), "{text}");
}

#[test]
fn a_stream_and_company_change_nothing() {
    let constraint = json!({"type": "json_object"});
    let mut request = asked("Describe a dog in a few words, as JSON.", &constraint, 4);
    request["max_tokens"] = json!(60);
    let alone = answer(&request);
    let mut streamed = request.clone();
    streamed["stream"] = json!(true);
    // Every slot may be taken by the other tests.
    let worker = Worker::ready(&model_path("smollm2-135m-instruct.gguf"), &["--context-limit", "2048"]);
    let (text, end) = worker.generate(&streamed);
    assert_eq!((&text, end["finish_reason"].as_str().unwrap()), (&alone.0, alone.1.as_str()));
    let together: Vec<(String, String)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..3).map(|_| scope.spawn(|| answer(&request))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(together, vec![alone; 3]);
}

#[test]
fn what_cannot_be_kept_to_is_a_400_that_points_at_it() {
    for (constraint, param, pointer) in [
        (
            json!({"type": "json_schema", "schema": {"properties": {"a": {"items": {"not": {}}}}}}),
            "constraint.schema",
            json!("/properties/a/items/not"),
        ),
        (
            json!({"type": "json_schema", "schema": {"items": {"pattern": "a(?=b)"}}}),
            "constraint.schema",
            json!("/items/pattern"),
        ),
        (json!({"type": "regex", "pattern": "("}), "constraint.pattern", Value::Null),
        (json!({"type": "lark", "grammar": "begin: \"a\""}), "constraint.grammar", Value::Null),
    ] {
        let answer = WORKER.post("/v1/execute", &asked("Hello.", &constraint, 1));
        assert_eq!(answer.status, 400, "{}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!((&error["param"], &error["details"]["pointer"]), (&json!(param), &pointer), "{error}");
    }
}
