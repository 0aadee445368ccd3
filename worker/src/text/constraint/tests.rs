use std::time::Instant;

use candle_core::quantized::gguf_file::Value as Stored;
use serde_json::{Value, json};

use super::*;
use crate::file::gguf::Header;
use crate::file::gguf::tests::with_pairs;
use crate::text::sampler::{Next, Sampler, Sampling};
use crate::text::vocabulary::byte_alphabet;

/// All bytes, so that their ids are bytes, some longer pieces, a control token and an end of turn.
const PIECES: [&str; 8] = ["true", "null", "Ġ\"", "\":", "\",", "12", "<|tool|>", "<|im_end|>"];
const END: u32 = 256 + PIECES.len() as u32 - 1;

fn vocabulary() -> Arc<Vocabulary> {
    let tokens: Vec<String> =
        byte_alphabet().iter().map(char::to_string).chain(PIECES.map(str::to_owned)).collect();
    let kinds = tokens.iter().map(|text| Stored::I32(if text.starts_with("<|") { 3 } else { 1 })).collect();
    let tokens = tokens.into_iter().map(Stored::String).collect();
    let file = with_pairs(&[
        ("tokenizer.ggml.model", Stored::String("gpt2".to_owned())),
        ("tokenizer.ggml.tokens", Stored::Array(tokens)),
        ("tokenizer.ggml.token_type", Stored::Array(kinds)),
    ]);
    Arc::new(Vocabulary::read(Header::read(&file).unwrap().metadata(&file)).unwrap())
}

struct Bench {
    vocabulary: Arc<Vocabulary>,
    grammars: Arc<Grammars>,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let vocabulary = vocabulary();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { grammars: Arc::new(Grammars::new(vocabulary.clone())), vocabulary, runtime }
    }

    fn get(&self, constraint: &Constraint) -> Result<Arc<Grammar>, ApiError> {
        self.runtime.block_on(self.grammars.get(constraint))
    }

    fn schema(&self, schema: Value) -> Result<Arc<Grammar>, ApiError> {
        self.get(&Constraint::JsonSchema { schema })
    }

    fn regex(&self, pattern: &str) -> Result<Arc<Grammar>, ApiError> {
        self.get(&Constraint::Regex { pattern: pattern.to_owned() })
    }

    fn lark(&self, grammar: &str) -> Result<Arc<Grammar>, ApiError> {
        self.get(&Constraint::Lark { grammar: grammar.to_owned() })
    }

    /// A text by draws that know nothing but the grammar; none if it does not end in time.
    fn any_text(&self, grammar: &Grammar, seed: u64) -> Option<String> {
        let sampling = Sampling { seed, ..Sampling::default() };
        let mut sampler = Sampler::new(sampling, 0, &[], self.vocabulary.ends(), Some(grammar.guide()));
        let mut bytes = Vec::new();
        for _ in 0..3_000 {
            match sampler.next(&mut vec![0.0; self.vocabulary.size()]).unwrap() {
                Next::Token(chosen) => self.vocabulary.append_bytes(chosen.token, &mut bytes),
                Next::End => return Some(String::from_utf8(bytes).unwrap()),
            }
            if sampler.is_over() {
                return Some(String::from_utf8(bytes).unwrap());
            }
        }
        None
    }

    /// Texts of 20 seeds, most of which must end.
    fn texts(&self, grammar: &Grammar) -> Vec<String> {
        let texts: Vec<String> = (0..20).filter_map(|seed| self.any_text(grammar, seed)).collect();
        assert!(texts.len() > 14, "only {} of 20 end", texts.len());
        texts
    }
}

/// The tokens that may come next.
fn allowed(guide: &mut Guide, size: usize) -> Vec<u32> {
    let mut logits = vec![0.0; size];
    guide.mask(&mut logits).unwrap();
    (0..).zip(&logits).filter(|(_, logit)| **logit == 0.0).map(|(id, _)| id).collect()
}

#[test]
fn an_end_is_possible_exactly_where_the_grammar_may_end() {
    let bench = Bench::new();
    let size = bench.vocabulary.size();
    let mut guide = bench.regex("^ab*$").unwrap().guide();
    assert_eq!(allowed(&mut guide, size), [u32::from(b'a')]);
    guide.accept(u32::from(b'a')).unwrap();
    assert!(!guide.is_over());
    assert_eq!(allowed(&mut guide, size), [u32::from(b'b'), END]);
    guide.accept(u32::from(b'b')).unwrap();
    assert_eq!(allowed(&mut guide, size), [u32::from(b'b'), END]);
}

#[test]
fn what_can_only_end_is_over() {
    let bench = Bench::new();
    for (grammar, text) in [
        (bench.regex("ab").unwrap(), "ab"),
        (bench.schema(json!({"const": {"a": 1}})).unwrap(), ""),
        (bench.schema(json!({"type": "object", "additionalProperties": false})).unwrap(), ""),
    ] {
        let mut guide = grammar.guide();
        for _ in 0..40 {
            let next = allowed(&mut guide, bench.vocabulary.size());
            assert!(!next.contains(&END), "{text} ends by itself");
            // Anything but a space or a line break, of which there may be one.
            let sign = next.into_iter().find(|id| *id != u32::from(b'\n') && *id != u32::from(b' ')).unwrap();
            guide.accept(sign).unwrap();
            if guide.is_over() {
                break;
            }
        }
        assert!(guide.is_over());
        assert!(allowed(&mut guide, bench.vocabulary.size()).is_empty());
    }
}

#[test]
fn json_objects_parse() {
    let bench = Bench::new();
    for text in bench.texts(&bench.get(&Constraint::JsonObject).unwrap()) {
        match serde_json::from_str::<Value>(&text) {
            Ok(value) => assert!(value.is_object(), "{text}"),
            // JSON has no highest number; its readers do.
            Err(error) => assert!(error.to_string().starts_with("number out of range"), "{text}: {error}"),
        }
    }
}

#[test]
fn json_fits_its_schema() {
    let bench = Bench::new();
    let grammar = bench
        .schema(json!({
            "type": "object",
            "properties": {
                "kind": {"enum": ["a", "b"]},
                "count": {"type": "integer", "minimum": 3, "maximum": 12},
                "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-c]{2}$"}, "minItems": 1, "maxItems": 3},
                "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]},
            },
            "required": ["kind", "count", "tags"],
            "additionalProperties": false,
            "$defs": {"leaf": {"type": "boolean"}},
        }))
        .unwrap();
    for text in bench.texts(&grammar) {
        let value: Value = serde_json::from_str(&text).unwrap();
        let count = value["count"].as_u64().unwrap();
        let tags = value["tags"].as_array().unwrap();
        assert!(value["kind"] == "a" || value["kind"] == "b", "{text}");
        assert!((3..=12).contains(&count) && (1..=3).contains(&tags.len()), "{text}");
        for tag in tags {
            let tag = tag.as_str().unwrap();
            assert!(tag.len() == 2 && tag.bytes().all(|byte| (b'a'..=b'c').contains(&byte)), "{text}");
        }
        let next = value.get("next").unwrap_or(&Value::Null);
        assert!(next.is_null() || next.is_boolean(), "{text}");
        assert!(value.as_object().unwrap().len() <= 4);
    }
}

#[test]
fn alternatives_that_are_told_apart_may_be_references() {
    let bench = Bench::new();
    let animal = |name: &str| json!({"type": "object", "properties": {"is": {"const": name}}, "required": ["is"], "additionalProperties": false});
    let schema = |cat: &str| {
        json!({
            "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
            "$defs": {"Cat": animal(cat), "Dog": animal("dog")},
        })
    };
    let text = bench.any_text(&bench.schema(schema("cat")).unwrap(), 1).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(value["is"] == "cat" || value["is"] == "dog");
    let error = bench.schema(schema("dog")).unwrap_err();
    assert_eq!((error.code, &error.details["pointer"]), (ErrorCode::InvalidRequest, &json!("/oneOf")));
}

#[test]
fn what_the_compiler_refuses_is_pointed_at_too() {
    let bench = Bench::new();
    for (schema, pointer) in [
        (json!({"properties": {"a": {"pattern": "a(?=b)"}}}), "/properties/a/pattern"),
        (json!({"patternProperties": {"(": {}}}), "/patternProperties/("),
        (json!({"properties": {"a": {}, "b": {}}, "maxProperties": 1}), "/maxProperties"),
        (json!({"type": "string", "minLength": 3, "maxLength": 2}), ""),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), ""),
    ] {
        let error = bench.schema(schema.clone()).expect_err(&schema.to_string());
        assert_eq!(error.param.as_deref(), Some("constraint.schema"));
        assert_eq!(error.details["pointer"], pointer, "{schema}: {}", error.message);
    }
}

#[test]
fn an_expression_matches_the_whole_text() {
    let bench = Bench::new();
    for text in bench.texts(&bench.regex("(true|[x-z]{1,3})-[0-9]{2}").unwrap()) {
        let (name, number) = text.split_once('-').unwrap();
        assert!(name == "true" || name.bytes().all(|byte| (b'x'..=b'z').contains(&byte)), "{text}");
        assert!(number.len() == 2 && number.parse::<u8>().is_ok(), "{text}");
    }
    for pattern in ["(", "a(?=b)", "", "\\"] {
        let error = bench.regex(pattern).expect_err(pattern);
        assert_eq!(error.param.as_deref(), Some("constraint.pattern"));
    }
}

#[test]
fn grammars_hold_schemas_and_control_tokens() {
    let bench = Bench::new();
    let schema = prepare_schema(
        &json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
        "additionalProperties": false}),
        "tools[0].parameters",
    )
    .unwrap();
    let grammar = bench.lark(&format!("start: <|tool|> call\ncall: %json {schema}")).unwrap();
    let mut guide = grammar.guide();
    assert_eq!(allowed(&mut guide, bench.vocabulary.size()), [256 + 6]);
    for seed in 0..5 {
        let value: Value = serde_json::from_str(&bench.any_text(&grammar, seed).unwrap()).unwrap();
        assert!(value["a"].is_boolean());
    }
    for text in ["", "start: other", "start: /(/", "other: \"a\"", "start: "] {
        let error = bench.lark(text).expect_err(text);
        assert_eq!(
            (error.code, error.param.as_deref()),
            (ErrorCode::InvalidRequest, Some("constraint.grammar")),
            "{text}"
        );
    }
}

/// Free text until a trigger comes, which binds what follows it.
#[test]
fn a_grammar_may_begin_to_bind_at_a_trigger() {
    let bench = Bench::new();
    let grammar = bench
        .lark("start: text | lead call\ntext: /[^<]*/\nlead[suffix=\"<call>\"]: /(.|\\n)*/\ncall: %json {\"type\": \"boolean\"} \"</call>\"")
        .unwrap();
    let mut guide = grammar.guide();
    let size = bench.vocabulary.size();
    for byte in b"hi <call>" {
        assert!(allowed(&mut guide, size).contains(&u32::from(*byte)), "{}", char::from(*byte));
        guide.accept(u32::from(*byte)).unwrap();
    }
    let next = allowed(&mut guide, size);
    assert!(
        next.contains(&u32::from(b't')) && next.contains(&u32::from(b'f')) && next.contains(&256),
        "{next:?}"
    );
    assert!(!next.contains(&u32::from(b'x')) && !next.contains(&END), "{next:?}");
    for byte in b"true</call>" {
        guide.accept(u32::from(*byte)).unwrap();
    }
    assert!(guide.is_over());
}

#[test]
fn a_grammar_is_compiled_once_and_its_answers_share_nothing() {
    let bench = Bench::new();
    let grammar = bench.regex("[ab]+").unwrap();
    assert!(Arc::ptr_eq(&grammar, &bench.regex("^[ab]+$").unwrap()));
    let (mut one, mut other) = (grammar.guide(), grammar.guide());
    one.accept(u32::from(b'a')).unwrap();
    assert!(allowed(&mut one, bench.vocabulary.size()).contains(&END));
    assert!(!allowed(&mut other, bench.vocabulary.size()).contains(&END));
    // A token that the mask ruled out is an error, not a crash.
    other.accept(u32::from(b'x')).unwrap();
    assert!(other.mask(&mut [0.0; 300]).is_err());
}

#[test]
fn spaces_between_signs_have_an_end() {
    let bench = Bench::new();
    let mut guide = bench.get(&Constraint::JsonObject).unwrap().guide();
    guide.accept(u32::from(b'{')).unwrap();
    for byte in b"\n                " {
        assert!(allowed(&mut guide, bench.vocabulary.size()).contains(&u32::from(*byte)));
        guide.accept(u32::from(*byte)).unwrap();
    }
    let next = allowed(&mut guide, bench.vocabulary.size());
    assert!(!next.contains(&u32::from(b' ')) && !next.contains(&u32::from(b'\n')), "{next:?}");
}

/// As many rows of a grammar as are allowed, nearly.
fn rows(row: impl Fn(usize) -> String) -> String {
    (0..3_900).map(row).collect::<Vec<_>>().concat()
}

/// Constraints that are made to cost: each gets an answer of either kind, soon, and its masks come or fail.
#[test]
fn hostile_constraints_end_in_time() {
    let bench = Bench::new();
    let regex = |pattern: &str| Constraint::Regex { pattern: pattern.to_owned() };
    let lark = |grammar: String| Constraint::Lark { grammar };
    let schema = |schema: Value| Constraint::JsonSchema { schema };
    let chain = |last: Value, link: &dyn Fn(String) -> Value| {
        let mut definitions = serde_json::Map::new();
        for index in 0..2_000 {
            definitions.insert(format!("d{index}"), link(format!("#/$defs/d{}", index + 1)));
        }
        definitions.insert("d2000".to_owned(), last);
        json!({"$ref": "#/$defs/d0", "$defs": definitions})
    };
    let product = json!({"allOf": (0..30).map(|index| {
        json!({"anyOf": [{"properties": {format!("a{index}"): {"type": "string"}}}, {"properties": {format!("b{index}"): {"type": "null"}}}]})
    }).collect::<Vec<_>>()});
    for (name, constraint) in [
        ("nested repeats", regex("((((a{1,1000}){1,1000}){1,1000}){1,1000})b")),
        ("repeats", regex("[a-z]{1,1000000}")),
        ("lookback", regex("(.*a.{40})|(.*b.{50})")),
        ("alternatives", regex(&vec!["[a-z]+x"; 20_000].join("|"))),
        ("deep expression", regex(&("(".repeat(199) + "a" + &")?".repeat(199)))),
        ("itself", schema(json!({"$ref": "#"}))),
        (
            "each other",
            schema(
                json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
            ),
        ),
        ("everything of itself", schema(json!({"allOf": [{"$ref": "#"}, {"type": "object"}]}))),
        ("chain", schema(chain(json!({"type": "null"}), &|next| json!({"$ref": next})))),
        (
            "chain of objects",
            schema(chain(
                json!({"type": "null"}),
                &|next| json!({"type": "object", "properties": {"a": {"$ref": next}}, "required": ["a"]}),
            )),
        ),
        (
            "chain of intersections",
            schema(chain(json!({}), &|next| json!({"allOf": [{"$ref": next}, {"type": "object"}]}))),
        ),
        (
            "doubling",
            schema(chain(
                json!({"type": "array"}),
                &|next| json!({"allOf": [{"$ref": next.clone()}, {"$ref": next}]}),
            )),
        ),
        ("product", schema(product)),
        (
            "long strings",
            schema(json!({"type": "string", "minLength": 20_000, "pattern": "^(a|b)*c(a|b){500}$"})),
        ),
        (
            "long lists",
            schema(
                json!({"type": "array", "minItems": 20_000, "items": {"type": "array", "minItems": 20_000}}),
            ),
        ),
        ("huge bounds", schema(json!({"type": "number", "minimum": -1e300, "maximum": 1e300}))),
        ("tiny steps", schema(json!({"type": "number", "multipleOf": 1e-12, "minimum": 0.001}))),
        (
            "many properties",
            schema(
                json!({"properties": (0..5_000).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect::<serde_json::Map<_, _>>()}),
            ),
        ),
        (
            "many patterns",
            schema(
                json!({"patternProperties": (0..300).map(|i| (format!("^p{i}.*x"), json!({}))).collect::<serde_json::Map<_, _>>()}),
            ),
        ),
        ("rules in a row", lark(rows(|i| format!("r{i}: r{}\n", i + 1)) + "r3900: \"a\"\nstart: r0")),
        (
            "tokens in a row",
            lark(rows(|i| format!("T{i}: \"a\" T{} | \"b\"\n", i + 1)) + "T3900: \"a\"\nstart: T0"),
        ),
        ("ambiguity", lark("start: s\ns: s s | \"a\" s | \"a\" |".to_owned())),
        ("deep brackets", lark("start: ".to_owned() + &"(".repeat(199) + "\"a\"" + &")*".repeat(199))),
        ("repeat of rules", lark("start: a{1000000}\na: b{1000000}\nb: \"c\"".to_owned())),
    ] {
        let started = Instant::now();
        let result = bench.get(&constraint);
        let compiled = started.elapsed();
        assert!(compiled < COMPILE_MAX * 2, "{name}: {compiled:?}");
        if let Ok(grammar) = result {
            let mut guide = grammar.guide();
            let size = bench.vocabulary.size();
            for _ in 0..50 {
                let mut logits = vec![0.0; size];
                if guide.is_over() || guide.mask(&mut logits).is_err() {
                    break;
                }
                let Some(token) = logits.iter().position(|logit| *logit == 0.0) else { break };
                if token as u32 == END {
                    break;
                }
                guide.accept(token as u32).unwrap();
            }
            drop(guide);
        } else if let Err(error) = result {
            assert_eq!(error.code, ErrorCode::InvalidRequest, "{name}: {error}");
        }
        let total = started.elapsed();
        println!("{name}: {compiled:?} to compile, {total:?} with 50 masks");
        assert!(total < COMPILE_MAX * 2, "{name}: {total:?}");
    }
}
