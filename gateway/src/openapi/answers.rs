//! What every operation may answer beside what it declares itself, and what a refusal looks like.
//!
//! A family's file declares what is its own: what there is to conflict, what may be gone. What
//! follows from how a request is read and let in is the same everywhere and said here: a body has a
//! size and a type, a credential may be missing, a tenant frozen, the server busy, the disk full.
//!
//! Invariant: every answer of 400 and above that declares no content is one of the document's own
//! responses, `Refused404` and its like, whose content is a [`PROBLEM`].

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response, Schema, SecurityRequirement};

/// The name of the schema of refusals.
const PROBLEM: &str = "Problem";
/// Their media type (RFC 9457, section 3).
const PROBLEM_TYPE: &str = "application/problem+json";

/// Declares the answers of every operation, and gives each an id of its own.
pub fn declare(document: &mut OpenApi) {
    name_apart(document);
    let mut refusals = BTreeSet::new();
    let nobody = SecurityRequirement::default();
    let is_open = |security: &[SecurityRequirement]| security.iter().all(|it| *it == nobody);
    for item in document.paths.paths.values_mut() {
        let operations = [
            (&mut item.get, false),
            (&mut item.head, false),
            (&mut item.put, true),
            (&mut item.post, true),
            (&mut item.delete, true),
            (&mut item.patch, true),
        ];
        for (operation, may_change) in operations {
            let Some(operation) = operation else { continue };
            let is_public = operation.security.as_deref().is_some_and(is_open);
            for code in codes(operation, is_public, may_change) {
                let answers = &mut operation.responses.responses;
                answers.entry(code.to_string()).or_insert_with(|| RefOr::T(Response::new("")));
            }
            let answers = operation.responses.responses.iter_mut();
            answers.for_each(|(code, answer)| describe(code, answer, &mut refusals));
        }
    }
    let components = document.components.get_or_insert_default();
    let schema: Result<RefOr<Schema>, _> = serde_json::from_value(problem());
    components.schemas.extend(schema.ok().map(|schema| (PROBLEM.to_owned(), schema)));
    let refusals = refusals.into_iter().map(|code| (refused(code), RefOr::T(refusal(code))));
    components.responses.extend(refusals);
}

/// Handlers are called alike in many families: such operations get the words of their path, too.
fn name_apart(document: &mut OpenApi) {
    let mut known: HashMap<String, usize> = HashMap::new();
    each_operation(document, |_, operation| {
        *known.entry(operation.operation_id.clone().unwrap_or_default()).or_default() += 1;
    });
    each_operation(document, |path, operation| {
        let Some(id) = operation.operation_id.as_mut().filter(|id| known[*id] > 1) else { return };
        let parts = path.split('/').filter(|part| !matches!(*part, "" | "v1"));
        for part in parts {
            id.push('_');
            id.push_str(&part.replace(['{', '}', '.'], "").replace('-', "_"));
        }
    });
}

fn each_operation(document: &mut OpenApi, mut change: impl FnMut(&str, &mut Operation)) {
    for (path, item) in &mut document.paths.paths {
        let all = [
            &mut item.get,
            &mut item.head,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.patch,
        ];
        all.into_iter().flatten().for_each(|operation| change(path, operation));
    }
}

/// What may be answered for how a request is read and let in.
fn codes(operation: &Operation, is_public: bool, may_change: bool) -> Vec<u16> {
    let mut codes = vec![429, 503];
    let parameters = operation.parameters.iter().flatten();
    let place = |parameter: &RefOr<utoipa::openapi::path::Parameter>| match parameter {
        RefOr::T(parameter) => Some(parameter.parameter_in.clone()),
        RefOr::Ref(_) => None,
    };
    let places: Vec<ParameterIn> = parameters.filter_map(place).collect();
    if !is_public {
        // Which tenant and user a service acts for is read from its headers.
        codes.extend([401, 403, 404, 410, 422]);
    }
    if places.contains(&ParameterIn::Path) {
        codes.extend([400, 404]);
    }
    if places.iter().any(|place| matches!(place, ParameterIn::Query | ParameterIn::Header)) {
        codes.push(422);
    }
    if operation.request_body.is_some() {
        codes.extend([400, 408, 413, 415, 422]);
    }
    if may_change {
        codes.push(507);
    }
    codes
}

/// Gives an answer its words; a refusal that says nothing more becomes the document's own.
fn describe(code: &str, answer: &mut RefOr<Response>, refusals: &mut BTreeSet<u16>) {
    let RefOr::T(own) = answer else { return };
    let number: u16 = code.parse().unwrap_or_default();
    if number >= 400 && own.content.is_empty() && own.headers.is_empty() {
        refusals.insert(number);
        *answer = RefOr::Ref(Ref::new(format!("#/components/responses/{}", refused(number))));
    } else if own.description.is_empty() {
        own.description = words(number).to_owned();
    }
}

fn refused(code: u16) -> String {
    format!("Refused{code}")
}

/// The answer to what is refused with this status.
fn refusal(code: u16) -> Response {
    let mut answer = Response::new(words(code));
    let content = Content::new(Some(RefOr::<Schema>::Ref(Ref::from_schema_name(PROBLEM))));
    answer.content.insert(PROBLEM_TYPE.to_owned(), RefOr::T(content));
    answer
}

fn words(code: u16) -> &'static str {
    match code {
        200 => "Done",
        201 => "Made",
        202 => "Begun",
        204 => "Done, with nothing to say",
        302 | 303 => "Elsewhere",
        400 => "The request is malformed",
        401 => "A credential is missing or does not hold",
        402 => "The balance or a limit does not cover it",
        403 => "The credential does not cover it",
        404 => "There is no such thing, or it is another tenant's",
        405 => "This path does not take this method",
        408 => "The body did not arrive in time",
        409 => "The present state does not allow it",
        410 => "It was consumed, expired or erased",
        413 => "The body is too large",
        415 => "The body's media type is not taken",
        422 => "A value is not valid; `details` says which",
        429 => "Too many requests; `Retry-After` says when to go on",
        502 => "Something outside has failed",
        503 => "Busy, or closing; nothing was changed unless `error` is `outcome_unknown`",
        507 => "The disk is nearly full; nothing was changed",
        _ => "See `error`",
    }
}

/// A refusal's schema: RFC 9457 with the names that clients of the other APIs read.
fn problem() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "description": "Why a request was refused: `application/problem+json` (RFC 9457). More \
            members may be there, as `error` says.",
        "required": ["type", "title", "status", "detail", "instance", "error", "message",
            "trace_id"],
        "properties": {
            "type": text("A URN of `error`"),
            "title": text("The status in words"),
            "status": {"type": "integer", "description": "The status"},
            "detail": {
                "description": "For people; on secrets and automations an object with `error_code`",
                "oneOf": [{"type": "string"}, {"type": "object"}]
            },
            "instance": text("The path"),
            "error": text("A stable code to branch on"),
            "message": text("For people"),
            "trace_id": text("The request"),
            "details": {
                "type": "array",
                "description": "What is not valid, one a field",
                "items": {
                    "type": "object",
                    "required": ["field", "message"],
                    "properties": {
                        "field": text("Which"),
                        "message": text("Why"),
                        "loc": {"type": "array", "items": {"type": "string"}},
                        "msg": text("As `message`"),
                        "type": text("The sort of mistake")
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_shape_and_every_answer_its_words() {
        let document = serde_json::to_value(crate::routes::document()).unwrap();
        let mut ids = std::collections::HashSet::new();
        assert!(document["components"]["schemas"][PROBLEM]["required"].is_array());
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let answers = operation["responses"].as_object().unwrap();
                assert!(answers.contains_key("503"), "{method} {path}");
                let id = operation["operationId"].as_str().unwrap().to_owned();
                assert!(ids.insert(id), "{method} {path} has another's id");
                for (code, answer) in answers {
                    let refusal = answer["$ref"].as_str();
                    let refusal = refusal.map(|it| document.pointer(it.trim_start_matches('#')));
                    let answer = refusal.map_or(answer, Option::unwrap);
                    let what = format!("{method} {path} {code}");
                    assert!(!answer["description"].as_str().unwrap().is_empty(), "{what}");
                    if code.parse::<u16>().unwrap() >= 400 {
                        assert!(answer["content"].is_object(), "{what}");
                    }
                }
            }
        }
    }
}
