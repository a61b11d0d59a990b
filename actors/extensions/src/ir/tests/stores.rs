//! The store steps, filters, and what bounds a run.

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::{NOW, app, call, reason_code, run_steps, with_steps};
use crate::ir::{
    Document, Documents, Filter, Host, Input, Limits, MemoryDocuments, NoHost, Outcome, Query,
    Reason, RunError, run,
};

/// A store with three books.
fn store() -> MemoryDocuments {
    let mut store = MemoryDocuments::new(NOW);
    let books = [
        json!({"title": "Emma", "pages": 474, "tags": ["novel"], "by": {"name": "Austen"}}),
        json!({"title": "Dune", "pages": 612, "tags": ["novel", "desert"], "lent": null}),
        json!({"title": "Tractatus", "pages": 75.0, "lent": "Ann"}),
    ];
    for book in books {
        store.create("book", book.as_object().unwrap().clone()).unwrap();
    }
    store
}

fn on_books(steps: Value, params: Value) -> (Result<Outcome, RunError>, MemoryDocuments) {
    let mut store = store();
    (call(&app(&with_steps(steps)), "f", params, &mut store), store)
}

fn one(op: &str, args: Value, params: Value) -> Value {
    let steps = json!([{"id": "s", "op": op, "args": args}]);
    on_books(steps, params).0.unwrap().result
}

fn titles(filter: Value) -> Vec<String> {
    let listed = one("store.list", json!({"kind": "book", "where": filter}), json!({}));
    let docs = listed["docs"].as_array().unwrap();
    docs.iter().map(|doc| doc["data"]["title"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn filters_match_as_documented() {
    let cases = [
        (json!({}), "Emma Dune Tractatus"),
        (json!({"pages": 75}), "Tractatus"),
        (json!({"title": {"neq": "Dune"}}), "Emma Tractatus"),
        (json!({"pages": {"gt": 75, "lt": "600"}}), "Emma"),
        (json!({"title": {"in": ["Dune", "Emma"]}}), "Emma Dune"),
        (json!({"tags": {"in": "desert"}}), "Dune"),
        (json!({"lent": {"exists": true}}), "Tractatus"),
        (json!({"lent": {"exists": false}}), "Emma Dune"),
        (json!({"lent": {"neq": "Ann"}}), "Emma Dune"),
        (json!({"by.name": "Austen"}), "Emma"),
        (json!({"by": {"eq": {"name": "Austen"}}}), "Emma"),
        (json!({"pages": "75"}), ""),
    ];
    for (filter, expected) in cases {
        assert_eq!(titles(filter.clone()).join(" "), expected, "{filter}");
    }
}

#[test]
fn a_bound_value_never_becomes_a_comparator() {
    let args = json!({"kind": "book", "where": {"title": "{{args.title}}"}});
    let listed = one("store.list", args, json!({"title": {"exists": true}}));
    assert_eq!(listed["count"], 0);
    let whole = json!({"kind": "book", "where": "{{args.filter}}"});
    let listed = one("store.list", whole.clone(), json!({"filter": {"pages": {"gt": 100}}}));
    assert_eq!(listed["count"], 2);
    assert_eq!(one("store.list", whole.clone(), json!({}))["count"], 3);
    let steps = json!([{"id": "s", "op": "store.list", "args": whole}]);
    let (refused, _) = on_books(steps, json!({"filter": {"pages": {"over": 1}}}));
    let RunError::StepFailed { reason, .. } = refused.unwrap_err() else { panic!() };
    assert_eq!(reason.code, "argument_invalid");
    assert!(reason.message.starts_with("where.pages.over"), "{}", reason.message);
}

#[test]
fn an_index_can_read_the_equalities_of_a_filter() {
    let filter = Filter::parse(&json!({"a": 1, "b": {"gt": 2, "eq": 3}})).unwrap();
    let found: Vec<(&str, &Value)> = filter.equalities().collect();
    assert_eq!(found, [("a", &json!(1)), ("b", &json!(3))]);
}

#[test]
fn documents_are_got_listed_changed_and_removed() {
    let got = one("store.get", json!({"kind": "book", "id": "doc_1"}), json!({}));
    assert_eq!(got["doc"]["data"]["title"], "Emma");
    assert_eq!(got["doc"]["created_at"], NOW);
    let other_kind = one("store.get", json!({"kind": "film", "id": "doc_1"}), json!({}));
    assert_eq!(other_kind, json!({"doc": null}));
    let some = json!({"kind": "book", "ids": ["doc_3", "doc_1"], "limit": "{{args.limit}}"});
    assert_eq!(one("store.list", some.clone(), json!({}))["ids"], json!(["doc_1", "doc_3"]));
    assert_eq!(one("store.list", some, json!({"limit": 1}))["count"], 1);

    let steps = json!([
        {"id": "up", "op": "store.update", "args": {"kind": "book",
            "ids": ["doc_1", "doc_9"], "set": {"pages": 1, "read": true}}},
        {"id": "by", "op": "store.update", "args": {"kind": "book",
            "where": {"pages": {"gt": 600}}, "set": {"long": true}}},
        {"id": "gone", "op": "store.delete", "args": {"kind": "book",
            "where": {"title": "Tractatus"}}},
        {"id": "none", "op": "store.delete", "args": {"kind": "book", "id": "{{args.no}}"}},
        {"id": "all", "op": "store.list", "args": {"kind": "book"}},
        {"id": "see", "op": "open", "args": {"target": "x", "params": {"steps": "{{steps}}"}}}]);
    let (outcome, store) = on_books(steps, json!({}));
    let bound = outcome.unwrap().result["params"]["steps"].take();
    assert_eq!(bound["up"], json!({"ids": ["doc_1"], "count": 1}));
    assert_eq!(bound["by"], json!({"ids": ["doc_2"], "count": 1}));
    assert_eq!((&bound["gone"], &bound["none"]), (&json!({"count": 1}), &json!({"count": 0})));
    assert_eq!(store.len(), 2);
    let first = &bound["all"]["docs"][0]["data"];
    assert_eq!(
        (&first["title"], &first["pages"], &first["read"]),
        (&json!("Emma"), &json!(1), &json!(true))
    );
}

#[test]
fn what_is_missing_never_widens_a_removal() {
    for chosen in ["ids", "where"] {
        let steps = json!([{"id": "s", "op": "store.delete",
            "args": {"kind": "book", (chosen): "{{args.no}}"}}]);
        let (refused, store) = on_books(steps, json!({}));
        assert_eq!(reason_code(refused.unwrap_err()), "argument_invalid");
        assert_eq!(store.len(), 3);
    }
}

#[test]
fn resolved_arguments_have_their_types() {
    let cases = [
        ("store.list", json!({"kind": "{{args.no}}"})),
        ("store.list", json!({"kind": "book", "limit": "{{args.text}}"})),
        ("store.list", json!({"kind": "book", "limit": "{{args.big}}"})),
        ("store.create", json!({"kind": "book", "data": "{{args.text}}"})),
        ("store.get", json!({"kind": "book", "id": "{{args.list}}"})),
        ("store.list", json!({"kind": "book", "ids": "{{args.list}}"})),
        ("ai.complete", json!({"prompt": "p", "temperature": "{{args.text}}"})),
    ];
    for (op, args) in cases {
        let steps = json!([{"id": "s", "op": op, "args": args}]);
        let params = json!({"text": "t", "list": [1], "big": 1_000_000});
        assert_eq!(reason_code(on_books(steps, params).0.unwrap_err()), "argument_invalid");
    }
    let steps = json!([{"id": "s", "op": "store.create",
        "args": {"kind": "book", "data": {"text": "{{args.text}}"}}}]);
    let heavy = json!({"text": "x".repeat(2 << 20)});
    assert_eq!(reason_code(on_books(steps, heavy).0.unwrap_err()), "document_too_large");
}

#[test]
fn directives_carry_their_arguments() {
    let steps = json!([
        {"id": "say", "op": "send", "args": {"message": "{{args.n}}", "channel": "{{args.no}}"}},
        {"id": "go", "op": "navigate", "args": {"url": "/b/{{args.n}}", "target": "_blank"}}]);
    let outcome = run_steps(steps, json!({"n": 5})).unwrap();
    let say = json!({"action": "send", "message": "5"});
    let go = json!({"action": "navigate", "url": "/b/5", "target": "_blank"});
    assert_eq!(outcome.result, go);
    assert_eq!(outcome.directives, [say, go]);
}

#[test]
fn doubling_and_nesting_values_are_stopped() {
    let looped = |metadata: Value| {
        json!([
            {"id": "a", "op": "send", "args": {"message": "m", "metadata": metadata}},
            {"id": "b", "op": "conditional", "if": {"field": "x", "eq": "x"}, "then": "a"}])
    };
    let own = "{{steps.a.metadata}}";
    let too_much = [
        (looped(json!({"l": own, "r": own, "x": "xxxxxxxx"})), "the values are too large"),
        (looped(json!({"in": {"in": {"in": own}}})), "the values are nested too deep"),
    ];
    for (steps, expected) in too_much {
        let RunError::SizeExceeded { what, .. } = run_steps(steps, json!({})).unwrap_err() else {
            panic!("{expected}");
        };
        assert_eq!(what, expected);
    }
    let too_deep = (0..70).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(run_steps(json!([]), json!({"d": too_deep})).unwrap_err().code(), "size_exceeded");
}

#[test]
fn the_answer_and_the_time_are_bounded() {
    let list = json!([{"id": "s", "op": "store.list", "args": {"kind": "book"}}]);
    let app = app(&with_steps(list));
    let limits = Limits { result_bytes_max: 100, ..Limits::default() };
    let mut books = store();
    let parts: (&mut dyn Documents, &mut dyn Host) = (&mut books, &mut NoHost);
    let error = run(&app, "f", Input::new(json!({})), limits, parts, &|| false).unwrap_err();
    assert_eq!(error.code(), "size_exceeded");

    let asked = Cell::new(0);
    let expired = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    let wipe = with_steps(json!([{"id": "s", "op": "store.delete",
        "args": {"kind": "book", "where": {}}}]));
    let mut books = store();
    let parts: (&mut dyn Documents, &mut dyn Host) = (&mut books, &mut NoHost);
    let wipe = super::app(&wipe);
    let error = run(&wipe, "f", Input::new(json!({})), Limits::default(), parts, &expired);
    assert_eq!(error.unwrap_err(), RunError::TimeExceeded { function: "f".to_owned() });
    assert_eq!(books.len(), 2);
}

/// A store that matches more documents than one step may change.
struct Endless;

impl Documents for Endless {
    fn get(&mut self, _: &str, _: &str) -> Result<Option<Document>, Reason> {
        Ok(None)
    }

    fn list(&mut self, _: &Query<'_>) -> Result<Vec<Document>, Reason> {
        Ok(Vec::new())
    }

    fn find(&mut self, query: &Query<'_>) -> Result<Vec<String>, Reason> {
        Ok((0..query.limit).map(|number| number.to_string()).collect())
    }

    fn create(&mut self, _: &str, _: Map<String, Value>) -> Result<String, Reason> {
        Err(Reason::new("read_only", "nothing is made here"))
    }

    fn update(&mut self, _: &str, _: &str, _: &Map<String, Value>) -> Result<bool, Reason> {
        panic!("a change was begun that cannot be finished")
    }

    fn delete(&mut self, _: &str, _: &str) -> Result<bool, Reason> {
        panic!("a removal was begun that cannot be finished")
    }
}

#[test]
fn a_change_of_too_many_documents_changes_none() {
    let changes = [
        ("store.delete", json!({"kind": "k", "where": {}}), "too_many_documents"),
        ("store.update", json!({"kind": "k", "where": {}, "set": {}}), "too_many_documents"),
        ("store.create", json!({"kind": "k", "data": {}}), "read_only"),
    ];
    for (op, args, code) in changes {
        let app = app(&with_steps(json!([{"id": "s", "op": op, "args": args}])));
        let parts: (&mut dyn Documents, &mut dyn Host) = (&mut Endless, &mut NoHost);
        let input = Input::new(json!({}));
        let error = run(&app, "f", input, Limits::default(), parts, &|| false).unwrap_err();
        assert_eq!(reason_code(error), code);
    }
}
