//! A small app from its envelope to its answers, and the meaning of bindings and jumps.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{NOW, app, call, run_steps};
use crate::ir::{ActionType, App, Input, MemoryDocuments, RunError, smoke};

fn shelf() -> Arc<App> {
    app(&json!({"ir_version": "1.0", "app": {
        "id": "shelf", "version": "1.0.0", "title": "Reading shelf", "capabilities": ["store"],
        "functions": [
            {"name": "add_book", "action_type": "write",
             "params_schema": {"title": {"type": "string"}, "pages": {"type": "integer"}},
             "impl": {"kind": "declarative", "steps": [
                {"id": "put", "op": "store.create", "args": {"kind": "book", "data": {
                    "title": "{{args.title}}", "pages": "{{args.pages}}",
                    "label": "{{args.title}} ({{args.pages}} p.)"}}}]}},
            {"name": "books", "action_type": "read", "params_schema": {},
             "impl": {"kind": "declarative", "steps": [
                {"id": "all", "op": "store.list", "args": {"kind": "book", "limit": 50}}]}},
            {"name": "clear_if_full", "action_type": "destructive",
             "params_schema": {"max": {"type": "integer"}},
             "impl": {"kind": "declarative", "steps": [
                {"id": "all", "op": "store.list", "args": {"kind": "book"}},
                {"id": "full", "op": "conditional",
                 "if": {"field": "{{steps.all.count}}", "gt": "{{args.max}}"},
                 "then": "wipe", "else": null},
                {"id": "wipe", "op": "store.delete",
                 "args": {"kind": "book", "ids": "{{steps.all.ids}}"}}]}}]}}))
}

#[test]
fn the_shelf_fills_and_is_cleared_when_full() {
    let shelf = shelf();
    assert_eq!(shelf.functions[2].action_type, ActionType::Destructive);
    let mut store = MemoryDocuments::new(NOW);
    for (title, pages) in [("Emma", 474), ("Dune", 612)] {
        let params = json!({"title": title, "pages": pages});
        let outcome = call(&shelf, "add_book", params, &mut store).unwrap();
        assert_eq!(outcome.result["id"].as_str().map(|id| id.starts_with("doc_")), Some(true));
        assert_eq!(outcome.steps_run, 1);
    }
    let books = call(&shelf, "books", Value::Null, &mut store).unwrap().result;
    assert_eq!(books["count"], 2);
    assert_eq!(books["ids"], json!(["doc_1", "doc_2"]));
    assert_eq!(
        books["docs"][1],
        json!({"id": "doc_2", "created_at": NOW, "updated_at": NOW,
            "data": {"title": "Dune", "pages": 612, "label": "Dune (612 p.)"}})
    );
    let kept = call(&shelf, "clear_if_full", json!({"max": 2}), &mut store).unwrap();
    assert_eq!((kept.result, kept.steps_run, store.len()), (json!({"next": null}), 2, 2));
    let wiped = call(&shelf, "clear_if_full", json!({"max": 1}), &mut store).unwrap();
    assert_eq!((wiped.result, wiped.steps_run, store.len()), (json!({"count": 2}), 3, 0));
}

#[test]
fn trying_out_shows_each_step_and_keeps_nothing() {
    let shelf = shelf();
    let input = Input::new(json!({"title": "Emma", "pages": 474}));
    let tried = smoke(&shelf, "add_book", input.clone(), NOW, &|| false);
    assert!(tried.ok);
    assert_eq!(tried.result, json!({"id": "doc_1"}));
    assert_eq!(
        tried.trace["steps"],
        json!([{"function": "add_book", "step": "put", "op": "store.create",
            "result": {"id": "doc_1"}}])
    );
    assert_eq!(smoke(&shelf, "books", Input::new(json!({})), NOW, &|| false).result["count"], 0);
    let refused = Input::new(json!({"title": 5}));
    let refused = smoke(&shelf, "add_book", refused, NOW, &|| false);
    assert!(!refused.ok);
    assert_eq!(refused.trace["error"]["code"], "params_invalid");
    assert_eq!(refused.trace["error"]["issues"][0]["path"], "params.title");
    let unknown = smoke(&shelf, "burn", input, NOW, &|| false);
    assert_eq!(unknown.trace["error"]["code"], "function_not_found");
}

/// What a text in `metadata.value` becomes.
fn bound(text: &str, params: Value) -> Value {
    let steps = json!([
        {"id": "one", "op": "send", "args": {"message": "m"}},
        {"id": "two", "op": "send", "args": {"message": "m", "metadata": {"value": text}}}]);
    run_steps(steps, params).unwrap().result["metadata"]["value"].take()
}

#[test]
fn one_binding_takes_the_value_itself() {
    let params = json!({"n": 5, "f": 1.5, "b": true, "z": null, "list": [1, {"x": "y"}]});
    assert_eq!(bound("{{args.n}}", params.clone()), json!(5));
    assert_eq!(bound("{{ event.list }}", params.clone()), json!([1, {"x": "y"}]));
    assert_eq!(bound("{{args.list.1.x}}", params.clone()), json!("y"));
    assert_eq!(bound("{{args.z}}", params.clone()), Value::Null);
    assert_eq!(bound("{{args}}", params.clone()), params);
    assert_eq!(bound("{{prev.message}}{{steps.one.action}}", params), json!("msend"));
    assert_eq!(bound("{{steps}}", json!({})), json!({"one": {"action": "send", "message": "m"}}));
}

#[test]
fn inside_text_a_binding_becomes_text() {
    let params = json!({"n": 5, "f": 1.5, "b": true, "z": null, "o": {"a": [1]}});
    let text = "{{args.n}}/{{args.f}}/{{args.b}}/{{args.z}}/{{args.o}}";
    assert_eq!(bound(text, params), json!("5/1.5/true//{\"a\":[1]}"));
}

#[test]
fn a_path_to_nowhere_is_empty_and_no_path_is_plain_text() {
    let empty = ["{{args.no}}", "{{steps.later.x}}", "{{no.root}}", "{{args.n.x}}", "{{args.l.7}}"];
    for text in empty {
        assert_eq!(bound(text, json!({"n": 1, "l": []})), json!(""), "{text}");
    }
    for text in ["{{ a b }}", "{{", "{{}}", "}} {{args.n", "{{args..n}}", "{ {args.n}}"] {
        assert_eq!(bound(text, json!({"n": 1})), json!(text));
    }
    assert_eq!(bound("{{{args.n}}}", json!({"n": 1})), json!("{1}"));
    assert_eq!(bound("{{ {{args.n}}", json!({"n": 1})), json!("{{ 1"));
}

/// Whether the run goes to `yes`.
fn holds(condition: Value, params: Value) -> bool {
    let steps = json!([
        {"id": "if", "op": "conditional", "if": condition, "then": "yes"},
        {"id": "yes", "op": "send", "args": {"message": "m"}}]);
    run_steps(steps, params).unwrap().result["action"] == "send"
}

#[test]
fn conditions_compare_as_the_format_says() {
    let params = json!({"n": 5, "t": "5", "e": "", "l": [1, "a"], "o": {"k": 0}, "x": []});
    let cases = [
        (json!({"field": "{{args.n}}", "eq": "5"}), true),
        (json!({"field": "{{args.no}}", "eq": ""}), true),
        (json!({"field": "{{args.n}}", "eq": "{{args.t}}"}), true),
        (json!({"field": "{{args.n}}", "neq": 5}), false),
        (json!({"field": "{{args.t}}", "gt": 4.5}), true),
        (json!({"field": "{{args.t}}", "lt": "10"}), true),
        (json!({"field": "{{args.l}}", "gt": 0}), false),
        (json!({"field": "{{args.e}}", "lt": 1}), false),
        (json!({"field": "{{args.l}}", "in": "a"}), true),
        (json!({"field": "{{args.l}}", "in": 1.0}), true),
        (json!({"field": "{{args.l}}", "in": "1"}), false),
        (json!({"field": "a {{args.n}} b", "in": 5}), true),
        (json!({"field": "{{args.o}}", "in": "k"}), true),
        (json!({"field": "{{args.n}}", "in": 5}), false),
        (json!({"field": "{{args.n}}", "exists": true}), true),
        (json!({"field": "{{args.e}}", "exists": true}), false),
        (json!({"field": "{{args.x}}", "exists": true}), false),
        (json!({"field": "{{args.no}}", "exists": false}), true),
    ];
    for (condition, expected) in cases {
        assert_eq!(holds(condition.clone(), params.clone()), expected, "{condition}");
    }
}

#[test]
fn a_jump_back_is_stopped() {
    let steps = json!([
        {"id": "send", "op": "send", "args": {"message": "m"}},
        {"id": "again", "op": "conditional", "if": {"field": "x", "eq": "x"}, "then": "send"}]);
    let error = run_steps(steps, json!({})).unwrap_err();
    assert_eq!(error, RunError::StepsExceeded { function: "f".to_owned(), limit: 64 });
    let mut steps = vec![json!({"id": "loop", "op": "conditional",
        "if": {"field": "x", "eq": "x"}, "then": "loop"})];
    steps.extend((0..9).map(|i| {
        json!({"id": format!("s{i}"), "op": "send",
        "args": {"message": "m"}})
    }));
    let error = run_steps(json!(steps), json!({})).unwrap_err();
    assert_eq!(error, RunError::StepsExceeded { function: "f".to_owned(), limit: 80 });
}

#[test]
fn a_function_without_steps_answers_an_empty_object() {
    assert_eq!(run_steps(json!([]), json!({})).unwrap().result, json!({}));
}
