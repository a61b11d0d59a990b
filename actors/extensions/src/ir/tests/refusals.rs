//! What is refused when an app is read, and where the issue points.

use serde_json::{Value, json};

use super::{issues, paths, with_functions, with_steps};
use crate::ir::{ActionType, FUNCTIONS_MAX, ISSUES_MAX, STEPS_MAX, parse};

/// The only issue's path within the steps.
fn step_path(steps: Value) -> String {
    let found = paths(&with_steps(steps));
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].strip_prefix("app.functions[0].impl.").unwrap_or(&found[0]).to_owned()
}

fn one_step(op: &str, args: Value) -> Value {
    json!([{"id": "s", "op": op, "args": args}])
}

#[test]
fn the_least_envelope_is_enough() {
    let least = json!({"ir_version": "1.0", "app": {"id": "a", "version": "", "title": ""}});
    assert!(parse(&least).unwrap().functions.is_empty());
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    let envelope = json!({"ir_version": "1.0", "x1": 1, "app": {
        "id": "a", "version": "1", "title": "A", "x2": 1,
        "data": {"x3": 1, "kinds": {"book": {"indexes": ["author"], "x4": 1}}},
        "functions": [{"name": "f", "x5": 1, "impl": {"kind": "declarative", "x6": 1, "steps": [
            {"id": "s", "op": "store.get", "x7": 1, "args": {"kind": "k", "id": "i", "x8": 1}},
            {"id": "c", "op": "conditional", "x9": 1, "then": "s",
             "if": {"field": "a", "eq": "a", "x10": 1}}]}}],
        "ui": {"x11": 1, "panels": [{"panel_id": "p", "slot": "left", "x12": 1,
            "render": {"kind": "static", "x13": 1, "tree": {"type": "T", "x14": 1}}}]},
        "skeleton": [{"section": "s", "x15": 1, "producer":
            {"kind": "code", "module": "m", "entry": "e", "x16": 1}}]}});
    let mut expected = vec![
        "x1",
        "app.x2",
        "app.data.x3",
        "app.data.kinds.book.x4",
        "app.functions[0].x5",
        "app.functions[0].impl.x6",
        "app.functions[0].impl.steps[0].x7",
        "app.functions[0].impl.steps[0].args.x8",
        "app.functions[0].impl.steps[1].x9",
        "app.functions[0].impl.steps[1].if.x10",
        "app.ui.x11",
        "app.ui.panels[0].x12",
        "app.ui.panels[0].render.x13",
        "app.ui.panels[0].render.tree.x14",
        "app.skeleton[0].x15",
        "app.skeleton[0].producer.x16",
    ];
    let mut found = paths(&envelope);
    found.sort();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_function_says_whether_it_goes_on_in_the_background_and_says_it_as_a_boolean() {
    let function = |key: &str, value: Value| {
        json!([{"name": "f", "action_type": "read", key: value,
            "impl": {"kind": "declarative", "steps": []}}])
    };
    for key in ["background", "long_running"] {
        let declared = |value| parse(&with_functions(function(key, value)));
        assert!(declared(json!(true)).unwrap().is_background("f"), "{key}");
        assert!(!declared(json!(false)).unwrap().is_background("f"));
        assert!(!declared(Value::Null).unwrap().is_background("f"), "null counts as absent");
        let found = paths(&with_functions(function(key, json!("yes"))));
        assert_eq!(found, [format!("app.functions[0].{key}")]);
    }
}

#[test]
fn missing_and_wrong_parts_of_the_envelope_are_named() {
    assert_eq!(paths(&json!([])), [""]);
    assert_eq!(paths(&json!({})), ["ir_version", "app"]);
    let wrong = json!({"ir_version": "2.0", "contract_version": 1, "app": {
        "id": "", "version": 1, "capabilities": ["a", 2], "functions": [7, {"name": "f"}],
        "events": [], "automations": [1], "data": {"kinds": {"k": {"indexes": [""]}}},
        "ui": {"panels": [{"panel_id": "p", "slot": "left", "render": {"kind": "x"}}]}}});
    let mut found = paths(&wrong);
    found.sort();
    let expected = [
        "app.automations[0]",
        "app.capabilities[1]",
        "app.data.kinds.k.indexes[0]",
        "app.events",
        "app.functions[0]",
        "app.functions[1].impl",
        "app.id",
        "app.title",
        "app.ui.panels[0].render.kind",
        "app.version",
        "contract_version",
        "ir_version",
    ];
    assert_eq!(found, expected);
}

#[test]
fn functions_and_panels_have_names_of_their_own() {
    let code = json!({"kind": "code", "module": "m", "entry": "e"});
    let envelope = json!({"ir_version": "1.0", "app": {"id": "a", "version": "1", "title": "A",
        "functions": [
            {"name": "f", "impl": code}, {"name": "f", "impl": code}, {"name": "", "impl": code},
            {"name": "__panel__p", "impl": code, "action_type": "erase"}],
        "ui": {"panels": [
            {"panel_id": "p", "slot": "left", "render": code},
            {"panel_id": "p", "slot": "left", "render": code}]}}});
    let mut found = paths(&envelope);
    found.sort();
    let expected = [
        "app.functions[1].name",
        "app.functions[2].name",
        "app.functions[3].action_type",
        "app.functions[3].name",
        "app.ui.panels[1].panel_id",
    ];
    assert_eq!(found, expected);
}

#[test]
fn steps_are_checked_one_by_one() {
    let cases = [
        (json!({}), "steps"),
        (json!([1]), "steps[0]"),
        (json!([{"op": "store.get", "args": {"kind": "k", "id": "i"}}]), "steps[0].id"),
        (json!([{"id": "s", "args": {}}]), "steps[0].op"),
        (one_step("store.drop", json!({})), "steps[0].op"),
        (one_step("store.get", json!([])), "steps[0].args"),
        (one_step("store.get", json!({"kind": "k"})), "steps[0].args.id"),
        (one_step("store.get", json!({"kind": 1, "id": "i"})), "steps[0].args.kind"),
        (one_step("store.get", json!({"kind": "", "id": "i"})), "steps[0].args.kind"),
        (
            one_step("store.create", json!({"kind": "k", "data": "x {{args}}"})),
            "steps[0].args.data",
        ),
        (one_step("store.list", json!({"kind": "k", "limit": "5"})), "steps[0].args.limit"),
        (one_step("store.list", json!({"kind": "k", "limit": 0})), "steps[0].args.limit"),
        (one_step("store.list", json!({"kind": "k", "ids": ["a", 5]})), "steps[0].args.ids[1]"),
        (one_step("store.delete", json!({"kind": "k"})), "steps[0].args"),
        (one_step("store.delete", json!({"kind": "k", "id": "i", "ids": []})), "steps[0].args"),
        (
            one_step("ai.complete", json!({"prompt": "p", "max_tokens": 0})),
            "steps[0].args.max_tokens",
        ),
        (one_step("navigate", json!({})), "steps[0].args.url"),
        (
            json!([{"id": "s", "op": "open", "args": {"target": "t"}},
            {"id": "s", "op": "open", "args": {"target": "t"}}]),
            "steps[1].id",
        ),
    ];
    for (steps, path) in cases {
        assert_eq!(step_path(steps.clone()), path, "{steps}");
    }
}

#[test]
fn conditionals_need_a_known_target_and_one_comparator() {
    let conditional = |condition: Value, then: Value, otherwise: Value| {
        step_path(json!([{"id": "c", "op": "conditional", "if": condition, "then": then,
            "else": otherwise}]))
    };
    let fine = json!({"field": "x", "eq": "x"});
    assert_eq!(conditional(fine.clone(), json!("gone"), Value::Null), "steps[0].then");
    assert_eq!(conditional(fine.clone(), json!("c"), json!("gone")), "steps[0].else");
    assert_eq!(conditional(fine, json!("c"), json!(5)), "steps[0].else");
    let two = json!({"field": "x", "eq": "x", "gt": 1});
    assert_eq!(conditional(two, json!("c"), Value::Null), "steps[0].if");
    assert_eq!(conditional(json!({"field": "x"}), json!("c"), Value::Null), "steps[0].if");
    assert_eq!(conditional(json!({"eq": "x"}), json!("c"), Value::Null), "steps[0].if.field");
    let without_then = json!([{"id": "c", "op": "conditional", "if": {"field": "x", "eq": "x"}}]);
    assert_eq!(step_path(without_then), "steps[0].then");
    let with_args = json!([{"id": "c", "op": "conditional", "if": {"field": "x", "eq": "x"},
        "then": "c", "args": {"a": 1}}]);
    assert_eq!(step_path(with_args), "steps[0].args");
}

#[test]
fn filters_know_their_comparators() {
    let list =
        |filter: Value| step_path(one_step("store.list", json!({"kind": "k", "where": filter})));
    assert_eq!(list(json!({"pages": {"gte": 5}})), "steps[0].args.where.pages.gte");
    assert_eq!(list(json!({"pages": {}})), "steps[0].args.where.pages");
    assert_eq!(list(json!([])), "steps[0].args.where");
    assert_eq!(list(json!("x {{args.w}}")), "steps[0].args.where");
}

#[test]
fn limits_are_named() {
    let step = |i: usize| json!({"id": format!("s{i}"), "op": "open", "args": {"target": "t"}});
    let steps: Vec<Value> = (0..=STEPS_MAX).map(step).collect();
    assert_eq!(step_path(json!(steps)), "steps");
    assert!(issues(&with_steps(json!(steps[..STEPS_MAX]))).is_empty());
    let function = |i: usize| json!({"name": format!("f{i}"), "impl": {"kind": "declarative"}});
    let functions: Vec<Value> = (0..=FUNCTIONS_MAX).map(function).collect();
    assert_eq!(paths(&with_functions(json!(functions))), ["app.functions"]);
    let deep = (0..60).fold(json!(1), |inner, _| json!([inner]));
    let found = issues(&with_steps(one_step("send", json!({"message": "m", "metadata": deep}))));
    assert!(found[0].message.contains("deeper"), "{found:?}");
    let heavy = json!({"ir_version": "1.0", "app": {"title": "x".repeat(5 << 20)}});
    assert!(issues(&heavy)[0].message.contains("limit"));
    let path = format!("{{{{args{}}}}}", ".a".repeat(40));
    assert_eq!(step_path(one_step("open", json!({"target": path}))), "steps[0].args.target");
    let many: Vec<u8> = vec![0; ISSUES_MAX + 20];
    assert_eq!(issues(&with_functions(json!(many))).len(), ISSUES_MAX);
}

#[test]
fn an_action_type_left_out_is_the_least_that_covers_the_steps() {
    let least = |steps: Value| {
        let envelope = with_functions(json!([{"name": "f",
            "impl": {"kind": "declarative", "steps": steps}}]));
        parse(&envelope).unwrap().functions[0].action_type
    };
    assert_eq!(least(one_step("store.list", json!({"kind": "k"}))), ActionType::Read);
    assert_eq!(least(one_step("send", json!({"message": "m"}))), ActionType::Write);
    let delete = json!({"kind": "k", "id": "i"});
    assert_eq!(least(one_step("store.delete", delete)), ActionType::Destructive);
}

#[test]
fn declared_indexes_are_found_by_kind() {
    let envelope = json!({"ir_version": "1.0", "app": {"id": "a", "version": "1", "title": "A",
        "data": {"kinds": {"book": {"indexes": ["author", "year"]}, "note": {}}}}});
    let app = parse(&envelope).unwrap();
    assert_eq!(app.indexes("book"), ["author", "year"]);
    assert!(app.indexes("note").is_empty() && app.indexes("else").is_empty());
}
