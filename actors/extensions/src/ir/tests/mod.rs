//! Behaviour of declarative apps, from the envelope to the outcome.

mod arbitrary;
mod calls;
mod panels;
mod params;
mod refusals;
mod shelf;
mod stores;

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    App, Host, Input, Issue, Limits, MemoryDocuments, NoHost, Outcome, Reason, Request, RunError,
    parse, run,
};

const NOW: &str = "2026-01-02T03:04:05Z";

fn app(envelope: &Value) -> Arc<App> {
    Arc::new(parse(envelope).unwrap_or_else(|issues| panic!("{issues:#?}")))
}

/// An envelope with the given functions.
fn with_functions(functions: Value) -> Value {
    json!({"ir_version": "1.0", "app": {"id": "a", "version": "1", "title": "A",
        "functions": functions}})
}

/// An app with one function `f` of these steps and a bare map of params.
fn with_steps(steps: Value) -> Value {
    with_functions(json!([{"name": "f", "action_type": "write", "params_schema": {},
        "impl": {"kind": "declarative", "steps": steps}}]))
}

fn issues(envelope: &Value) -> Vec<Issue> {
    parse(envelope).err().unwrap_or_default()
}

fn paths(envelope: &Value) -> Vec<String> {
    issues(envelope).into_iter().map(|issue| issue.path).collect()
}

fn call(
    app: &Arc<App>,
    function: &str,
    params: Value,
    documents: &mut MemoryDocuments,
) -> Result<Outcome, RunError> {
    let parts: (&mut dyn super::Documents, &mut dyn Host) = (documents, &mut NoHost);
    run(app, function, Input::new(params), Limits::default(), parts, &|| false)
}

/// Runs `f` of an app with these steps in an empty store.
fn run_steps(steps: Value, params: Value) -> Result<Outcome, RunError> {
    call(&app(&with_steps(steps)), "f", params, &mut MemoryDocuments::new(NOW))
}

fn reason_code(error: RunError) -> String {
    match error {
        RunError::StepFailed { reason, .. } => reason.code.into_owned(),
        other => panic!("no step failed: {other}"),
    }
}

/// A host that answers every call with its params and every prompt with itself.
#[derive(Default)]
struct Echo {
    asked: Vec<Request>,
}

impl Host for Echo {
    fn answer(&mut self, request: &Request) -> Result<Value, Reason> {
        self.asked.push(request.clone());
        Ok(match request {
            Request::Call { params, .. } => params.clone(),
            Request::Complete { prompt, .. } => json!(prompt),
        })
    }
}
