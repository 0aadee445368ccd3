use super::*;

fn copied(schema: &Value) -> Value {
    let mut copy = prepare(schema, "schema").unwrap();
    let manner = copy.as_object_mut().unwrap().remove("x-guidance");
    assert!(manner.is_some());
    copy
}

fn pointer(schema: &Value) -> String {
    let error = prepare(schema, "schema").expect_err(&schema.to_string());
    assert_eq!(error.param.as_deref(), Some("schema"));
    let pointer = error.details["pointer"].as_str().unwrap().to_owned();
    assert!(pointer.is_empty() || error.message.contains(&pointer), "{}", error.message);
    pointer
}

#[test]
fn what_is_not_kept_to_is_pointed_at() {
    for keyword in UNSUPPORTED.into_iter().chain(["uniqueItems"]) {
        let schema = json!({"properties": {"a/b": {"items": [true, {keyword: {}}]}}});
        assert_eq!(pointer(&schema), format!("/properties/a~1b/items/1/{keyword}"));
    }
    for (schema, expected) in [
        (json!({"anyOf": [{"type": "text"}]}), "/anyOf/0/type"),
        (json!({"enum": []}), "/enum"),
        (json!({"required": "a"}), "/required"),
        (json!({"minLength": -1}), "/minLength"),
        (json!({"minLength": 1.5}), "/minLength"),
        (json!({"minItems": 30_000}), "/minItems"),
        (json!({"minimum": "1"}), "/minimum"),
        (json!({"multipleOf": 0}), "/multipleOf"),
        (json!({"pattern": 1}), "/pattern"),
        (json!({"format": "iri"}), "/format"),
        (json!({"type": ["string", "null"], "format": "int32"}), "/format"),
        (json!({"properties": []}), "/properties"),
        (json!({"allOf": {}}), "/allOf"),
        (json!({"additionalProperties": 1}), "/additionalProperties"),
        (json!({"required": ["a"], "minProperties": 3}), "/minProperties"),
        (json!({"$ref": "https://example.com/schema"}), "/$ref"),
        (json!({"$ref": "#anchor"}), "/$ref"),
        (json!({"items": {"$ref": "#/$defs/b"}, "$defs": {"a": {}}}), "/items/$ref"),
        (json!({"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"not": {}}}}), "/$defs/a/not"),
        (json!(false), ""),
        (json!([]), ""),
    ] {
        assert_eq!(pointer(&schema), expected, "{schema}");
    }
}

#[test]
fn what_does_not_count_goes() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "a", "title": "A", "description": "b",
        "default": 1, "examples": [1], "deprecated": true, "x-anything": {"not": {}}, "uniqueItems": false,
        "maxItems": 4_000_000_000_u64, "additionalItems": {"not": {}}, "type": "array", "minItems": 2.0,
        "items": {"type": "integer", "format": "int32"},
    });
    assert_eq!(copied(&schema), json!({"type": "array", "minItems": 2, "items": {"type": "integer"}}));
    assert_eq!(copied(&json!(true)), json!({}));
    // A property may have any name.
    let named = json!({"properties": {"not": {"type": "null"}}});
    assert_eq!(copied(&named), named);
}

#[test]
fn references_get_plain_names_wherever_they_lead() {
    let schema = json!({
        "properties": {"a": {"$ref": "#/$defs/x~1y%25"}, "b": {"$ref": "#/properties/a"}, "c": {"$ref": "#"}},
        "$defs": {"x/y%": {"items": {"$ref": "#/$defs/x~1y%25"}}, "unused": {"type": "null"}},
    });
    let expected = json!({
        "properties": {"a": {"$ref": "#/$defs/r0"}, "b": {"$ref": "#/$defs/r1"}, "c": {"$ref": "#"}},
        "$defs": {"r0": {"items": {"$ref": "#/$defs/r0"}}, "r1": {"$ref": "#/$defs/r0"}},
    });
    assert_eq!(copied(&schema), expected);
}

#[test]
fn alternatives_of_one_of_are_copied_in_once() {
    let schema = json!({
        "oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}],
        "$defs": {"a": {"type": "array", "items": {"oneOf": [{"$ref": "#/$defs/a"}]}}},
    });
    let expected = json!({
        "oneOf": [{"type": "array", "items": {"oneOf": [{"$ref": "#/$defs/r0"}]}}, {"type": "null"}],
        "$defs": {"r0": {"type": "array", "items": {"oneOf": [{"type": "array", "items": {"oneOf": [{"$ref": "#/$defs/r0"}]}}]}}},
    });
    assert_eq!(copied(&schema), expected);
}

#[test]
fn number_and_depth_of_schemas_have_limits() {
    let mut deep = json!({});
    for _ in 0..=DEPTH_MAX {
        deep = json!({"items": deep});
    }
    assert_eq!(pointer(&deep).matches("/items").count(), DEPTH_MAX + 1);
    let many = json!({"anyOf": vec![json!({}); SCHEMAS_MAX]});
    assert_eq!(pointer(&many), format!("/anyOf/{}", SCHEMAS_MAX - 1));
    // Each doubles the one before it.
    let mut definitions = Map::new();
    for index in 0..40 {
        let next = json!({"$ref": format!("#/$defs/d{}", index + 1)});
        definitions.insert(format!("d{index}"), json!({"oneOf": [next.clone(), next]}));
    }
    definitions.insert("d40".to_owned(), json!({}));
    assert!(prepare(&json!({"$ref": "#/$defs/d0", "$defs": definitions}), "schema").is_err());
}
