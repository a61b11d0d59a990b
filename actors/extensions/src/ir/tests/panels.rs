//! Panels: static trees, bindings, repetitions, conditions.

use serde_json::{Value, json};

use super::{NOW, app, call, paths};
use crate::ir::{Callable, Input, MemoryDocuments, RunError, smoke};

fn with_render(render: Value) -> Value {
    json!({"ir_version": "1.0", "app": {"id": "a", "version": "1", "title": "A", "ui":
        {"panels": [{"panel_id": "p", "slot": "left", "title": "P", "render": render}]}}})
}

fn rendered(tree: Value, params: Value) -> Result<Value, RunError> {
    let app = app(&with_render(json!({"kind": "template", "tree": tree})));
    call(&app, "__panel__p", params, &mut MemoryDocuments::new(NOW)).map(|outcome| outcome.result)
}

#[test]
fn a_static_panel_is_answered_as_written() {
    let tree = json!({"type": "Text", "props": {"value": "{{args.x}}", "$if": 1}});
    let app = app(&with_render(json!({"kind": "static", "tree": tree})));
    assert!(matches!(app.callable("__panel__p"), Some(Callable::Panel(panel)) if panel.id == "p"));
    assert!(app.callable("__panel__q").is_none() && app.callable("p").is_none());
    let answer = call(&app, "__panel__p", Value::Null, &mut MemoryDocuments::new(NOW)).unwrap();
    assert_eq!(answer.result, tree);
    let list = call(&app, "__panel__p", json!([]), &mut MemoryDocuments::new(NOW));
    assert_eq!(list.unwrap_err().code(), "params_invalid");
}

#[test]
fn a_template_repeats_drops_and_binds() {
    let tree = json!({"type": "Stack", "props": {
        "title": "{{args.title}}!",
        "children": {"$repeat": "{{args.books}}", "as": "book", "node": {"type": "Card", "props": {
            "title": "{{book.title}}",
            "tags": {"$repeat": "{{book.tags}}", "node":
                {"type": "Tag", "props": {"label": "{{book.title}}: {{item}}"}}},
            "long": {"$if": {"field": "{{book.pages}}", "gt": 500},
                "node": {"type": "Badge", "props": {"count": "{{book.pages}}"}}}}}}}});
    let params = json!({"title": "Shelf", "books": [
        {"title": "Emma", "pages": 474, "tags": []},
        {"title": "Dune", "pages": 612, "tags": ["a", "b"]}]});
    let tag = |label: &str| json!({"type": "Tag", "props": {"label": label}});
    let expected = json!({"type": "Stack", "props": {"title": "Shelf!", "children": [
        {"type": "Card", "props": {"title": "Emma", "tags": [], "long": {}}},
        {"type": "Card", "props": {"title": "Dune", "tags": [tag("Dune: a"), tag("Dune: b")],
            "long": {"type": "Badge", "props": {"count": 612}}}}]}});
    assert_eq!(rendered(tree.clone(), params).unwrap(), expected);
    let empty = json!({"type": "Stack", "props": {"title": "!", "children": []}});
    assert_eq!(rendered(tree, json!({"books": "none"})).unwrap(), empty);
}

#[test]
fn in_a_list_nodes_are_spliced_and_left_out() {
    let text = |value: &str| json!({"type": "Text", "props": {"value": value}});
    let tree = json!({"type": "Stack", "props": {"children": [
        text("first"),
        {"$if": {"left": "{{args.on}}", "op": "eq", "right": true}, "node": text("on")},
        {"$repeat": "{{args.l}}", "node":
            {"$if": {"field": "{{item}}", "neq": "b"}, "node": text("{{item}}")}},
        {"plain": {"deep": ["{{args.on}}"]}}]}});
    let children =
        |params: Value| rendered(tree.clone(), params).unwrap()["props"]["children"].take();
    let plain = |on: Value| json!({"plain": {"deep": [on]}});
    assert_eq!(
        children(json!({"on": true, "l": ["a", "b", "c"]})),
        json!([text("first"), text("on"), text("a"), text("c"), plain(json!(true))])
    );
    assert_eq!(children(json!({})), json!([text("first"), plain(json!(""))]));
}

#[test]
fn a_dropped_root_is_empty_and_inner_aliases_hide_outer_ones() {
    let root = json!({"$if": {"field": "{{args.on}}", "exists": true},
        "node": {"type": "T", "props": {}}});
    assert_eq!(rendered(root.clone(), json!({})).unwrap(), json!({}));
    assert_eq!(rendered(root, json!({"on": 1})).unwrap(), json!({"type": "T", "props": {}}));
    let nested = json!({"type": "T", "props": {"rows": {"$repeat": "{{args.rows}}", "node":
        {"cells": {"$repeat": "{{item}}", "node": "{{item}}"}}}, "after": "{{item}}"}});
    assert_eq!(
        rendered(nested, json!({"rows": [[1, 2], []]})).unwrap()["props"],
        json!({"rows": [{"cells": [1, 2]}, {"cells": []}], "after": ""})
    );
}

#[test]
fn malformed_panels_are_refused_with_their_place() {
    let tree = json!({"type": "T", "props": {
        "a": {"$repeat": "text", "node": {"type": "T", "props": {}}},
        "b": {"$repeat": "{{args.x}}"},
        "c": {"$if": {"field": "x"}, "node": {"type": 5, "props": {}}},
        "d": [{"$if": {"left": "x", "op": "about"}, "node": "n", "else": 1}]}});
    let mut found = paths(&with_render(json!({"kind": "template", "tree": tree})));
    found.sort();
    let at = |place: &str| format!("app.ui.panels[0].render.tree.props.{place}");
    let expected = [
        at("a.$repeat"),
        at("b.node"),
        at("c.$if"),
        at("c.node.type"),
        at("d[0].$if.op"),
        at("d[0].else"),
    ];
    assert_eq!(found, expected);
    let rootless = with_render(json!({"kind": "template", "tree": {"$repeat": "{{args.x}}"}}));
    assert_eq!(paths(&rootless).len(), 2);
    assert_eq!(paths(&with_render(json!({"kind": "static"}))), ["app.ui.panels[0].render.tree"]);
}

#[test]
fn repetitions_are_bounded() {
    let tree = json!({"type": "T", "props": {"a": {"$repeat": "{{args.l}}", "as": "x", "node":
        {"b": {"$repeat": "{{args.l}}", "as": "y", "node":
            {"c": {"$repeat": "{{args.l}}", "node": "{{x}}{{y}}{{item}}"}}}}}}});
    let list: Vec<u32> = (0..500).collect();
    assert_eq!(rendered(tree, json!({"l": list})).unwrap_err().code(), "size_exceeded");
}

#[test]
fn a_panel_can_be_tried_out() {
    let app = app(&with_render(json!({"kind": "template",
        "tree": {"type": "T", "props": {"v": "{{args.v}}"}}})));
    let tried = smoke(&app, "__panel__p", Input::new(json!({"v": 1})), NOW, &|| false);
    assert_eq!((tried.ok, &tried.result["props"]["v"]), (true, &json!(1)));
}
