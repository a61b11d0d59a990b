//! Params against their schema: both forms, defaults, every checked keyword.

use serde_json::{Value, json};

use super::{app, paths, with_functions};
use crate::ir::App;
use std::sync::Arc;

fn with_schema(schema: Value) -> Value {
    with_functions(json!([{"name": "f", "params_schema": schema,
        "impl": {"kind": "declarative", "steps": []}}]))
}

fn admit(app: &Arc<App>, mut params: Value) -> Result<Value, Vec<String>> {
    match app.functions[0].admit_params(&mut params) {
        Ok(()) => Ok(params),
        Err(issues) => Err(issues.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn each_keyword_is_checked_with_its_place() {
    let app = app(&with_schema(json!({"type": "object", "required": ["title"], "properties": {
        "title": {"type": "string", "minLength": 2, "maxLength": 3},
        "size": {"enum": ["s", "m"]},
        "pages": {"type": "integer", "minimum": 1, "maximum": 9},
        "ratio": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "tags": {"type": "array", "minItems": 1, "maxItems": 2,
            "items": {"type": ["string", "null"]}},
        "who": {"type": "object", "additionalProperties": false,
            "properties": {"name": {"const": "me"}}},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "never": false}, "additionalProperties": {"type": "boolean"}})));
    let cases = [
        (json!({"title": "ab", "pages": 5.0, "tags": ["x", null], "extra": true}), ""),
        (json!({}), "params.title: is required"),
        (json!([]), "params: must be an object, not a list"),
        (json!({"title": 5}), "params.title: must be string, not a number"),
        (json!({"title": "é"}), "params.title: must have at least 2 characters"),
        (json!({"title": "éàüö"}), "params.title: must have at most 3 characters"),
        (json!({"title": "ab", "size": "l"}), "params.size: must be one of \"s\", \"m\""),
        (json!({"title": "ab", "pages": 1.5}), "params.pages: must be integer, not a number"),
        (json!({"title": "ab", "pages": 0}), "params.pages: must be at least 1"),
        (json!({"title": "ab", "pages": 10}), "params.pages: must be at most 9"),
        (json!({"title": "ab", "ratio": 0}), "params.ratio: must be greater than 0"),
        (json!({"title": "ab", "ratio": 1}), "params.ratio: must be less than 1"),
        (json!({"title": "ab", "tags": []}), "params.tags: must have at least 1 items"),
        (
            json!({"title": "ab", "tags": ["a", 1]}),
            "params.tags[1]: must be string or null, not a number",
        ),
        (json!({"title": "ab", "who": {"name": "you"}}), "params.who.name: must be one of \"me\""),
        (json!({"title": "ab", "who": {"age": 1}}), "params.who.age: is not allowed"),
        (
            json!({"title": "ab", "either": true}),
            "params.either: matches none of the alternatives of its schema",
        ),
        (json!({"title": "ab", "never": 1}), "params.never: is not allowed"),
        (json!({"title": "ab", "extra": 1}), "params.extra: must be boolean, not a number"),
    ];
    for (params, expected) in cases {
        let found = admit(&app, params.clone()).err().unwrap_or_default().join("; ");
        assert_eq!(found, expected, "{params}");
    }
}

#[test]
fn a_bare_map_may_hold_properties_of_any_name() {
    let app = app(&with_schema(json!({
        "type": {"type": "string", "required": true}, "title": {"type": "string"},
        "required": {"type": "boolean"}, "properties": {"type": "array"}})));
    assert!(admit(&app, json!({"type": "t", "required": true, "properties": [], "x": 1})).is_ok());
    assert_eq!(admit(&app, json!({})).unwrap_err(), ["params.type: is required"]);
}

#[test]
fn defaults_fill_what_is_absent_at_every_level() {
    let app = app(&with_schema(json!({
        "limit": {"type": "integer", "default": 10, "required": true},
        "rows": {"items": {"properties": {"on": {"default": true}}}}})));
    assert_eq!(admit(&app, Value::Null).unwrap(), json!({"limit": 10}));
    let filled = admit(&app, json!({"limit": 3, "rows": [{}, {"on": false}]})).unwrap();
    assert_eq!(filled, json!({"limit": 3, "rows": [{"on": true}, {"on": false}]}));
}

#[test]
fn defaults_cannot_multiply_without_bound() {
    let text = "x".repeat(10_000);
    let app = app(&with_schema(json!({"rows": {"items": {"properties":
        {"text": {"default": text}}}}})));
    let rows: Vec<Value> = (0..1_000).map(|_| json!({})).collect();
    let refused = admit(&app, json!({"rows": rows})).unwrap_err();
    assert!(refused[0].contains("too large"), "{refused:?}");
}

#[test]
fn malformed_schemas_are_refused_with_their_place() {
    let envelope = with_schema(json!({"type": "object", "required": "a", "properties": {
        "a": {"type": "text"}, "b": {"enum": []}, "c": {"minimum": "1"}, "d": {"maxLength": -1},
        "e": {"items": [1]}, "f": 5, "g": {"pattern": 5}}}));
    let mut found = paths(&envelope);
    found.sort();
    let at = |place: &str| format!("app.functions[0].params_schema.{place}");
    let mut expected = [
        at("properties.a.type"),
        at("properties.b.enum"),
        at("properties.c.minimum"),
        at("properties.d.maxLength"),
        at("properties.e.items"),
        at("properties.f"),
        at("required"),
    ];
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(paths(&with_schema(json!({"a": 5}))), ["app.functions[0].params_schema.a"]);
}
