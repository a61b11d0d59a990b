//! The OpenAPI document is the route table, and every entry of it is tried.
//!
//! Each declared operation is really routed; without a credential it is 401 where it needs one;
//! with a plain user's it is 403 where it needs more; a JSON body that is none is 400, one over the
//! limit 413. What the router files declare is what the document has, what they serve beside it is
//! listed here, and the document is pinned in a file so that a change of the API shows in a review.
//!
//! Limit: the router files are read as text, so a route must be declared in the usual way.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

#[path = "coverage/foreign.rs"]
mod foreign;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gateway::extract::{BODY_BYTES_MAX, CALL_BODY_BYTES_MAX};
use hyper::Method;
use journeys::{Api, Call, Server, User};
use serde_json::{Value, json};

/// What is served without being in the document: probes, documents and pages.
const UNDOCUMENTED: &[&str] = &[
    "/accept-invitation",
    "/assets/{file}",
    "/confirmations/{confirmation_id}",
    "/console",
    "/console/{file}",
    "/device",
    "/docs",
    "/docs/{file}",
    "/health",
    "/healthz",
    "/metrics",
    "/oauth/connect",
    "/openapi/{name}",
    "/readyz",
    "/reset-password",
    "/sandbox/checkout/{page_id}",
    "/sandbox/portal/{page_id}",
    "/v1/health",
    "/v1/openapi.json",
    "/verify-email",
];

/// Who may use an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nobody,
    Member,
    Service,
    Operator,
}

/// One operation of the document.
#[derive(Clone, Debug)]
struct Operation {
    method: Method,
    path: String,
    needs: Needs,
    takes_json: bool,
    is_call: bool,
}

impl Operation {
    fn of(path: &str, method: &str, operation: &Value) -> Self {
        let schemes = operation["security"].as_array().map(|all| {
            all.iter().flat_map(|one| one.as_object().unwrap().keys().cloned()).collect::<Vec<_>>()
        });
        let is_tagged = |tag: &str| operation["tags"].as_array().unwrap().contains(&json!(tag));
        let needs = match schemes.as_deref() {
            Some([]) => Needs::Nobody,
            Some([only]) if only == "service_token" => Needs::Service,
            _ if is_tagged("operator") => Needs::Operator,
            _ => Needs::Member,
        };
        Self {
            method: method.to_uppercase().parse().unwrap(),
            path: path.to_owned(),
            needs,
            takes_json: operation["requestBody"]["content"].get("application/json").is_some(),
            is_call: is_tagged("extensions"),
        }
    }

    /// A request for it, with something in place of every parameter.
    fn request(&self, api: &Api) -> Call {
        let filled =
            self.path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
        api.request(self.method.clone(), &filled.collect::<Vec<_>>().join("/"))
    }
}

fn document() -> Value {
    serde_json::to_value(gateway::routes::document()).unwrap()
}

fn operations() -> Vec<Operation> {
    let document = document();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            all.push(Operation::of(path, method, operation));
        }
    }
    assert!(all.len() > 30, "the document has {} operations only", all.len());
    all
}

/// A server and one credential of each sort.
struct World {
    server: Server,
    user: User,
    operator: User,
}

impl World {
    async fn start() -> Self {
        let server = Server::start().await;
        let (user, operator) = (server.api.user("ada").await, server.api.operator().await);
        Self { server, user, operator }
    }

    /// A request with a credential that is good enough.
    fn allowed(&self, operation: &Operation) -> Call {
        let request = operation.request(&self.server.api);
        match operation.needs {
            Needs::Nobody => request,
            Needs::Member => request.as_user(&self.user),
            Needs::Service => request.service(),
            Needs::Operator => request.as_user(&self.operator),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_routed_and_lets_in_who_may() {
    let world = World::start().await;
    for operation in operations() {
        let what = format!("{} {}", operation.method, operation.path);
        let nobody = operation.request(&world.server.api).send().await;
        if operation.needs == Needs::Nobody {
            let answer = nobody.text();
            assert_ne!(nobody.status, 405, "{what}: {answer}");
            assert!(!answer.contains("no such route"), "{what}: {answer}");
            // What everybody may see of something is not there where there is no such thing.
            let is_of_one = operation.path.contains('{') && nobody.status == 404;
            let known = [200, 400, 401, 422].contains(&nobody.status) || is_of_one;
            assert!(known, "{what}: {} {answer}", nobody.status);
            continue;
        }
        nobody.problem(401, "unauthorized");
        let wrong = operation.request(&world.server.api).bearer("nonsense").send().await;
        assert_eq!(wrong.status, 401, "{what}: {}", wrong.text());
        if matches!(operation.needs, Needs::Operator | Needs::Service) {
            let plain = operation.request(&world.server.api).as_user(&world.user).send().await;
            plain.problem(403, "forbidden");
        }
        if operation.needs == Needs::Operator {
            let service = operation.request(&world.server.api).service().send().await;
            service.problem(401, "unauthorized");
        }
    }
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_is_read_with_care() {
    let world = World::start().await;
    let mut tried = 0;
    for operation in operations().into_iter().filter(|operation| operation.takes_json) {
        tried += 1;
        let malformed = world.allowed(&operation).json("{\"a\": ").send().await;
        malformed.problem(400, "malformed_json");
        let limit = if operation.is_call { CALL_BODY_BYTES_MAX } else { BODY_BYTES_MAX };
        let at_limit = world.allowed(&operation).json(vec![b' '; limit]).send().await;
        at_limit.problem(400, "malformed_json");
        let over = world.allowed(&operation).json(vec![b' '; limit + 1]).send().await;
        over.problem(413, "body_too_large");
    }
    assert!(tried > 10, "{tried} operations take a body");
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_served_beside_the_document_is_for_everyone() {
    let world = World::start().await;
    for path in UNDOCUMENTED {
        let path = match *path {
            "/openapi/{name}" => "/openapi/accounts.json",
            "/assets/{file}" => "/assets/palette.css",
            "/confirmations/{confirmation_id}" => "/confirmations/x",
            "/console/{file}" => "/console/console.js",
            "/docs/{file}" => "/docs/docs.js",
            // These open for whoever has the secret in their address.
            "/sandbox/checkout/{page_id}" | "/sandbox/portal/{page_id}" => continue,
            path => path,
        };
        let answer = world.server.api.get(path).send().await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(!answer.bytes.is_empty(), "{path} is empty");
    }
    let served = world.server.api.get("/v1/openapi.json").send().await.ok(200);
    assert_eq!(served, document());
    world.server.stop().await;
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What stands between `before` and `after`, each time.
fn between<'a>(text: &'a str, before: &'a str, after: char) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(move |rest| Some(rest.split_once(after)?.0.trim()))
}

#[test]
fn the_document_has_what_the_router_files_declare() {
    let (mut declared, mut beside) = (BTreeSet::new(), BTreeSet::new());
    for entry in std::fs::read_dir(root().join("gateway/src/routes")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for declaration in between(&text, "#[utoipa::path(", ')') {
            let method = declaration.split(',').next().unwrap().trim();
            let path = between(declaration, "path = \"", '"').next().unwrap();
            declared.insert((method.to_uppercase(), path.to_owned()));
        }
        for path in between(&text, ".route(", ',') {
            beside.insert(path.trim_matches('"').to_owned());
        }
    }
    let documented: BTreeSet<_> = operations()
        .into_iter()
        .map(|operation| (operation.method.to_string(), operation.path))
        .collect();
    assert_eq!(declared, documented);
    assert_eq!(beside, UNDOCUMENTED.iter().map(|path| (*path).to_owned()).collect());
}

#[test]
fn the_document_is_the_pinned_one() {
    let pinned = std::fs::read_to_string(root().join("openapi.json")).unwrap_or_default();
    let document = gateway::routes::document().to_pretty_json().unwrap();
    assert!(
        pinned.trim_end() == document.trim_end(),
        "the API has changed. If that is meant, pin it: \
         cargo run -q -p gateway -- openapi > openapi.json"
    );
}
