//! Documents in memory, and trying a function out on them (`smoke_ir`).
//!
//! The store is thrown away with its value. A try-out answers no request: a step that calls another
//! app or completes a prompt fails with `not_available`, so nothing leaves and nothing is paid.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::envelope::App;
use super::perform::{Document, Documents, Query, Reason, Request};
use super::run::{Host, Input, Limits, RunError, run};

/// Documents that a store in memory holds.
pub const MEMORY_DOCUMENTS_MAX: usize = 10_000;

/// What the ids of documents in memory begin with.
const ID_PREFIX: &str = "doc_";

/// A store in memory; ids count up from `doc_1`.
#[derive(Debug, Default)]
pub struct MemoryDocuments {
    now: String,
    made: u64,
    documents: BTreeMap<u64, (String, Document)>,
}

impl MemoryDocuments {
    /// An empty store in which every change happens at `now` (RFC 3339, UTC).
    #[must_use]
    pub fn new(now: impl Into<String>) -> Self {
        Self { now: now.into(), ..Self::default() }
    }

    /// The number of documents of all kinds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there is no document.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    fn held(&mut self, kind: &str, id: &str) -> Option<(u64, &mut Document)> {
        let number = id.strip_prefix(ID_PREFIX)?.parse().ok()?;
        let (held_kind, document) = self.documents.get_mut(&number)?;
        (held_kind == kind && document.id == id).then_some((number, document))
    }
}

impl Documents for MemoryDocuments {
    fn get(&mut self, kind: &str, id: &str) -> Result<Option<Document>, Reason> {
        Ok(self.held(kind, id).map(|(_, document)| document.clone()))
    }

    fn list(&mut self, query: &Query<'_>) -> Result<Vec<Document>, Reason> {
        let ids: Option<HashSet<&str>> =
            query.ids.map(|ids| ids.iter().map(String::as_str).collect());
        let asked = self.documents.values().filter(|(kind, document)| {
            kind == query.kind
                && ids.as_ref().is_none_or(|ids| ids.contains(document.id.as_str()))
                && query.filter.is_none_or(|filter| filter.matches(&document.data))
        });
        Ok(asked.take(query.limit).map(|(_, document)| document.clone()).collect())
    }

    fn create(&mut self, kind: &str, data: Map<String, Value>) -> Result<String, Reason> {
        if self.documents.len() >= MEMORY_DOCUMENTS_MAX {
            let message = format!("the store holds {MEMORY_DOCUMENTS_MAX} documents");
            return Err(Reason::new("store_full", message));
        }
        self.made += 1;
        let id = format!("{ID_PREFIX}{}", self.made);
        let (created_at, updated_at) = (self.now.clone(), self.now.clone());
        let document = Document { id: id.clone(), data, created_at, updated_at };
        self.documents.insert(self.made, (kind.to_owned(), document));
        Ok(id)
    }

    fn update(&mut self, kind: &str, id: &str, set: &Map<String, Value>) -> Result<bool, Reason> {
        let now = self.now.clone();
        let held = self.held(kind, id);
        Ok(held.map(|(_, document)| document.patch(set, now)).is_some())
    }

    fn delete(&mut self, kind: &str, id: &str) -> Result<bool, Reason> {
        let number = self.held(kind, id).map(|(number, _)| number);
        Ok(number.is_some_and(|number| self.documents.remove(&number).is_some()))
    }
}

/// A host that answers nothing.
#[derive(Debug, Default)]
pub struct NoHost;

impl Host for NoHost {
    fn answer(&mut self, request: &Request) -> Result<Value, Reason> {
        let what = match request {
            Request::Call { app_id, function, .. } => format!("{app_id}.{function}"),
            Request::Complete { .. } => "ai.complete".to_owned(),
        };
        Err(Reason::new("not_available", format!("{what} is not available in a try-out")))
    }
}

/// What trying a function out has shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Smoke {
    /// Whether the function ended well.
    pub ok: bool,
    /// Its answer; `{}` if it failed.
    pub result: Value,
    /// `{steps: [{function, step, op, result}], directives, steps_run}`, or, if it failed,
    /// `{error: {code, message}}` with `step`, `reason` and `issues` where they apply.
    pub trace: Value,
}

/// Tries a function out in a store of its own, which begins empty and is thrown away.
#[must_use]
pub fn smoke(
    app: &Arc<App>,
    function: &str,
    input: Input,
    now: &str,
    expired: &dyn Fn() -> bool,
) -> Smoke {
    let mut documents = MemoryDocuments::new(now);
    let input = Input { traced: true, ..input };
    let parts: (&mut dyn Documents, &mut dyn Host) = (&mut documents, &mut NoHost);
    match run(app, function, input, Limits::default(), parts, expired) {
        Ok(outcome) => Smoke {
            ok: true,
            result: outcome.result,
            trace: json!({
                "steps": outcome.trace,
                "directives": outcome.directives,
                "steps_run": outcome.steps_run,
            }),
        },
        Err(error) => Smoke {
            ok: false,
            result: Value::Object(Map::new()),
            trace: json!({ "error": describe(&error) }),
        },
    }
}

fn describe(error: &RunError) -> Value {
    let mut described = json!({ "code": error.code(), "message": error.to_string() });
    match error {
        RunError::StepFailed { step, reason, .. } => {
            described["step"] = json!(step);
            described["reason"] = json!(reason);
        }
        RunError::ParamsInvalid(issues) => described["issues"] = json!(issues),
        _ => {}
    }
    described
}
