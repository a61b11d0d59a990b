//! Whatever JSON comes, reading never panics, and what was read runs within its bounds.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{NOW, with_steps};
use crate::ir::{Input, parse, smoke};

/// Words of the format, so that arbitrary documents come near to valid ones.
const WORDS: [&str; 36] = [
    "ir_version",
    "app",
    "id",
    "version",
    "title",
    "functions",
    "name",
    "impl",
    "kind",
    "steps",
    "declarative",
    "op",
    "args",
    "store.list",
    "store.create",
    "call",
    "conditional",
    "if",
    "then",
    "field",
    "eq",
    "where",
    "ids",
    "set",
    "data",
    "1.0",
    "{{args.a}}",
    "x {{steps.s.ids}} {{",
    "{{prev}}",
    "$repeat",
    "$if",
    "node",
    "type",
    "props",
    "template",
    "params_schema",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::sample::select(&WORDS[..]).prop_map(str::to_owned),
        1 => "[a-z{}. ]{0,8}",
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((word(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A valid envelope that uses most of the format.
fn whole() -> Value {
    let mut envelope = with_steps(json!([
        {"id": "new", "op": "store.create", "args": {"kind": "k", "data": {"v": "{{args.a}}"}}},
        {"id": "s", "op": "store.list", "args": {"kind": "k", "where": {"v": {"gt": 1}}}},
        {"id": "if", "op": "conditional", "if": {"field": "{{prev.count}}", "gt": 0},
         "then": "del", "else": "new"},
        {"id": "del", "op": "store.delete", "args": {"kind": "k", "ids": "{{steps.s.ids}}"}},
        {"id": "say", "op": "send", "args": {"message": "{{prev}}", "metadata": {"a": "{{args}}"}}},
        {"id": "self", "op": "call", "args": {"function": "f", "params": {"a": "{{prev}}"}}}]));
    envelope["app"]["functions"][0]["params_schema"] =
        json!({"type": "object", "properties": {"a": {"default": 2, "minimum": 1}}});
    envelope["app"]["ui"] = json!({"panels": [{"panel_id": "p", "slot": "left", "render":
        {"kind": "template", "tree": {"type": "T", "props": {"l": {"$repeat": "{{args.a}}",
            "node": {"$if": {"field": "{{item}}", "exists": true}, "node": "{{item}}"}}}}}}]});
    envelope
}

/// Puts `value` at one of the places of the document, chosen by `at`.
fn put(document: &mut Value, at: &mut usize, value: &Value) {
    if *at == 0 {
        *document = value.clone();
    }
    *at = at.wrapping_sub(1);
    match document {
        Value::Array(items) => items.iter_mut().for_each(|item| put(item, at, value)),
        Value::Object(members) => members.values_mut().for_each(|member| put(member, at, value)),
        _ => {}
    }
}

fn read_and_run(envelope: &Value, params: &Value) {
    let Ok(app) = parse(envelope) else { return };
    let app = Arc::new(app);
    let panels = app.panels.iter().map(|panel| format!("__panel__{}", panel.id));
    let names = app.functions.iter().map(|function| function.name.clone()).chain(panels);
    for name in names.collect::<Vec<_>>() {
        let tried = smoke(&app, &name, Input::new(params.clone()), NOW, &|| false);
        assert!(tried.ok || tried.result == json!({}));
    }
}

#[test]
fn the_envelope_that_is_changed_here_is_valid() {
    assert!(parse(&whole()).is_ok(), "{:#?}", parse(&whole()).err());
}

proptest! {
    #[test]
    fn arbitrary_documents_never_panic(envelope in anything(), params in anything()) {
        read_and_run(&envelope, &params);
    }

    #[test]
    fn changed_envelopes_never_panic(
        value in anything(), at in 0usize..80, again in anything(), next in 0usize..80,
        params in anything(),
    ) {
        let mut envelope = whole();
        put(&mut envelope, &mut { at }, &value);
        put(&mut envelope, &mut { next }, &again);
        read_and_run(&envelope, &params);
        read_and_run(&whole(), &json!({"a": params}));
    }
}
