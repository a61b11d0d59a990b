//! Calls and completions: inside the app, to other apps, and what refuses them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Echo, NOW, app, call, reason_code, with_functions, with_steps};
use crate::ir::{
    ActionType, Documents, Host, Input, Limits, MemoryDocuments, Outcome, Progress, Reason,
    Request, Run, RunError, run, scopes_cover,
};

fn function(name: &str, action_type: &str, steps: Value) -> Value {
    json!({"name": name, "action_type": action_type,
        "impl": {"kind": "declarative", "steps": steps}})
}

fn calls(function: &str, params: Value) -> Value {
    json!([{"id": "c", "op": "call", "args": {"function": function, "params": params}}])
}

fn run_with(envelope: &Value, input: Input, host: &mut dyn Host) -> Result<Outcome, RunError> {
    let mut store = MemoryDocuments::new(NOW);
    let parts: (&mut dyn Documents, &mut dyn Host) = (&mut store, host);
    run(&app(envelope), "f", input, Limits::default(), parts, &|| false)
}

#[test]
fn a_call_within_the_app_shares_its_documents() {
    let app = app(&with_functions(json!([
        function(
            "f",
            "write",
            json!([
            {"id": "put", "op": "call", "args": {"function": "put", "params": {"n": "{{args.n}}"}}},
            {"id": "all", "op": "store.list", "args": {"kind": "k"}},
            {"id": "say", "op": "send", "args": {"message":
                "{{steps.put.id}} {{steps.all.docs.0.data.n}}"}}])
        ),
        function(
            "put",
            "write",
            json!([
            {"id": "new", "op": "store.create", "args": {"kind": "k", "data": "{{args}}"}}])
        )
    ])));
    let mut store = MemoryDocuments::new(NOW);
    let outcome = call(&app, "f", json!({"n": 7}), &mut store).unwrap();
    assert_eq!(outcome.result["message"], "doc_1 7");
    assert_eq!((outcome.steps_run, outcome.requests_answered), (4, 0));
}

#[test]
fn a_call_of_another_app_and_a_prompt_are_asked_for() {
    let envelope = with_steps(json!([
        {"id": "c", "op": "call", "args": {"app_id": "b", "function": "g",
            "params": {"x": "{{args.x}}"}}},
        {"id": "ai", "op": "ai.complete", "args": {"prompt": "say {{prev.x}}",
            "temperature": 0.5, "max_tokens": "{{args.no}}"}}]));
    let mut host = Echo::default();
    let outcome = run_with(&envelope, Input::new(json!({"x": 1})), &mut host).unwrap();
    assert_eq!(outcome.result, json!({"text": "say 1"}));
    assert_eq!(outcome.requests_answered, 2);
    let (app_id, function) = ("b".to_owned(), "g".to_owned());
    let called = Request::Call { app_id, function, params: json!({"x": 1}), call_depth: 1 };
    let (prompt, temperature) = ("say 1".to_owned(), Some(0.5));
    let prompted = Request::Complete { prompt, model: None, temperature, max_tokens: None };
    assert_eq!(host.asked, [called, prompted]);
}

#[test]
fn a_run_waits_for_its_answer_and_a_refusal_fails_the_step() {
    let app = app(&with_steps(json!([
        {"id": "c", "op": "call", "args": {"app_id": "b", "function": "g"}}])));
    let mut store = MemoryDocuments::new(NOW);
    let mut wait = || {
        let input = Input::new(Value::Null);
        let run = Run::start(&app, "f", input, Limits::default()).unwrap();
        match run.advance(&mut store, &|| false).unwrap() {
            Progress::Asks(waiting) => waiting,
            Progress::Done(outcome) => panic!("{outcome:?}"),
        }
    };
    let refused = wait().answer(Err(Reason::new("busy", "try later"))).unwrap_err();
    assert_eq!(refused.code(), "step_failed");
    assert_eq!(refused.to_string(), "step \"c\" of \"f\": try later (busy)");
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(wait().answer(Ok(deep)).unwrap_err().code(), "size_exceeded");
    let run = wait().answer(Ok(json!([1]))).unwrap();
    let Progress::Done(outcome) = run.advance(&mut store, &|| false).unwrap() else { panic!() };
    assert_eq!(outcome.result, json!([1]));
}

#[test]
fn calls_nest_six_deep_and_never_in_a_circle_of_apps() {
    let endless = with_functions(json!([function("f", "write", calls("f", json!({})))]));
    let error = run_with(&endless, Input::new(json!({})), &mut Echo::default()).unwrap_err();
    assert_eq!(reason_code(error), "call_depth_exceeded");
    let mut functions = vec![function("f", "read", calls("f1", json!({})))];
    functions.extend(
        (1..6)
            .map(|i| function(&format!("f{i}"), "read", calls(&format!("f{}", i + 1), json!({})))),
    );
    functions.push(function("f6", "read", json!([])));
    let six = with_functions(json!(functions));
    assert!(run_with(&six, Input::new(json!({})), &mut Echo::default()).is_ok());
    let below = Input { call_depth: 1, ..Input::new(json!({})) };
    let error = run_with(&six, below, &mut Echo::default()).unwrap_err();
    assert_eq!(reason_code(error), "call_depth_exceeded");
    let back = with_steps(json!([
        {"id": "c", "op": "call", "args": {"app_id": "b", "function": "g"}}]));
    let apps_above = Arc::from(["b".to_owned()]);
    let called = Input { call_depth: 1, apps_above, ..Input::new(json!({})) };
    let error = run_with(&back, called, &mut Echo::default()).unwrap_err();
    assert_eq!(reason_code(error), "circular_call");
}

#[test]
fn an_inner_call_that_may_change_more_needs_a_scope() {
    let envelope = with_functions(json!([
        function("f", "read", calls("wipe", json!({}))),
        function("wipe", "destructive", json!([]))
    ]));
    let error = run_with(&envelope, Input::new(json!({})), &mut Echo::default()).unwrap_err();
    assert_eq!(reason_code(error), "scope_missing");
    let scopes = Arc::from(["a:destructive".to_owned()]);
    let allowed = Input { scopes, ..Input::new(json!({})) };
    assert!(run_with(&envelope, allowed, &mut Echo::default()).is_ok());
}

#[test]
fn scopes_cover_an_app_or_all_of_them() {
    let covers = |scope: &str| scopes_cover(&[scope.to_owned()], "notes", ActionType::Write);
    for scope in ["*", "notes:write", "notes.write", "notes:*", "notes.*", "extensions:write"] {
        assert!(covers(scope), "{scope}");
    }
    for scope in ["", "notes", "notes:read", "mail:write", "extensions:read", "**"] {
        assert!(!covers(scope), "{scope}");
    }
}

#[test]
fn inner_calls_are_checked_like_outer_ones() {
    let envelope = with_functions(json!([
        function("f", "read", calls("g", json!({"n": "{{args.n}}"}))),
        {"name": "g", "action_type": "read", "params_schema": {"n": {"type": "integer"}},
         "impl": {"kind": "code", "module": "m", "entry": "e"}},
        {"name": "h", "action_type": "read", "params_schema": {"n": {"type": "integer"}},
         "impl": {"kind": "declarative", "steps": []}}]));
    let mut host = Echo::default();
    assert!(run_with(&envelope, Input::new(json!({"n": 1})), &mut host).is_ok());
    assert!(matches!(&host.asked[0], Request::Call { app_id, .. } if app_id == "a"));
    let to_h = with_functions(json!([
        function("f", "read", calls("h", json!({"n": "text"}))),
        envelope["app"]["functions"][2]
    ]));
    let error = run_with(&to_h, Input::new(json!({})), &mut host).unwrap_err();
    assert_eq!(reason_code(error), "params_invalid");
    let to_nobody = with_functions(json!([function("f", "read", calls("x", json!({})))]));
    let error = run_with(&to_nobody, Input::new(json!({})), &mut host).unwrap_err();
    assert_eq!(reason_code(error), "function_not_found");
    let mut store = MemoryDocuments::new(NOW);
    let error = call(&app(&envelope), "g", json!({}), &mut store).unwrap_err();
    assert_eq!(error.code(), "not_declarative");
}

#[test]
fn many_small_calls_are_bounded_over_the_whole_run() {
    let again = |callee: &str| {
        json!([
        {"id": "c", "op": "call", "args": {"function": callee}},
        {"id": "again", "op": "conditional", "if": {"field": "x", "eq": "x"}, "then": "c"}])
    };
    let stop = json!([{"id": "s", "op": "conditional", "if": {"field": "x", "eq": "x"},
        "then": null}]);
    let twice = |callee: &str| {
        let steps: Vec<Value> = (0..60)
            .map(|i| json!({"id": format!("s{i}"), "op": "call", "args": {"function": callee}}))
            .collect();
        json!(steps)
    };
    let envelope = with_functions(json!([
        function("f", "read", again("g")),
        function("g", "read", twice("h")),
        function("h", "read", twice("i")),
        function("i", "read", stop)
    ]));
    let error = run_with(&envelope, Input::new(json!({})), &mut Echo::default()).unwrap_err();
    assert_eq!(error.code(), "steps_exceeded");
}
