//! The scenarios as data: a name and one function that prepares the requests.
//!
//! A new scenario is one function and one line in [`SCENARIOS`]. Preparing registers a user of its
//! own, so no scenario depends on what another left behind, and every token is fresh.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::Method;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::LoadError;
use super::client::{Answer, Prepared};
use super::search;
use super::setup::{Member, Setup};
use super::verifying;

/// What `all` stands for on the command line.
pub(crate) const ALL: &str = "all";

/// The books on the shelf that the reading calls ask for.
const BOOKS: usize = 100;

/// One in so many calls of a mixed batch writes.
const MIXED_WRITES_EVERY: usize = 10;

/// Credits granted to a wallet that many requests spend from: more than a run can use.
const CREDITS: u64 = 1_000_000_000_000;

/// One thing to measure.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Whether `all` includes it.
    pub(crate) in_all: bool,
    pub(crate) prepare: for<'a> fn(&'a Setup) -> BoxFuture<'a, Result<Workload, LoadError>>,
}

/// All scenarios, in the order in which `all` runs them.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "me", in_all: true, prepare: |setup| me(setup).boxed() },
    Scenario { name: "me-cold", in_all: false, prepare: |setup| me_cold(setup).boxed() },
    Scenario { name: "debit", in_all: true, prepare: |setup| debit(setup).boxed() },
    Scenario { name: "debits", in_all: true, prepare: |setup| debits(setup).boxed() },
    Scenario { name: "call", in_all: true, prepare: |setup| call(setup).boxed() },
    Scenario { name: "call-write", in_all: true, prepare: |setup| call_write(setup).boxed() },
    Scenario { name: "batch", in_all: true, prepare: |setup| batch(setup).boxed() },
    Scenario { name: "batch-write", in_all: true, prepare: |setup| batch_write(setup).boxed() },
    Scenario { name: "batch-mixed", in_all: false, prepare: |setup| batch_mixed(setup).boxed() },
    Scenario { name: "verify", in_all: true, prepare: |setup| verifying::warm(setup).boxed() },
    Scenario {
        name: "verify-cold",
        in_all: false,
        prepare: |setup| verifying::cold(setup).boxed(),
    },
    Scenario { name: "search", in_all: false, prepare: |setup| search::prepare(setup).boxed() },
];

/// The scenarios that a name on the command line stands for.
pub(crate) fn named(name: &str) -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.iter().filter(move |scenario| match name {
        ALL => scenario.in_all,
        name => scenario.name == name,
    })
}

/// The names that the command line accepts.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name).chain([ALL])
}

/// The requests of a scenario and how their answers are judged.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Sent in turn, over and over; at least one.
    pub(crate) requests: Vec<Prepared>,
    pub(crate) accept: Accept,
    /// Whether a request that is sent again no longer measures what the scenario is for.
    pub(crate) once: bool,
}

impl Workload {
    pub(crate) fn new(requests: Vec<Prepared>, accept: Accept) -> Self {
        Self { requests, accept, once: false }
    }
}

/// Which answers are successes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Accept {
    /// Status 200.
    Ok,
    /// Status 200 or 201.
    Created,
    /// Status 200 and `valid`.
    Valid,
    /// Status 200 and one outcome with status `success`.
    Call,
    /// Status 200 and this many outcomes, all with status `success`.
    Batch(usize),
}

/// The part of a function's outcome that decides.
#[derive(Deserialize)]
struct Outcome {
    status: String,
}

/// The part of a check of a token that decides.
#[derive(Deserialize)]
struct Verdict {
    valid: bool,
}

impl Outcome {
    fn succeeded(&self) -> bool {
        self.status == "success"
    }
}

impl Accept {
    /// Whether the status is one of a success.
    pub(crate) fn status(self, status: u16) -> bool {
        status == 200 || (status == 201 && matches!(self, Self::Created))
    }

    /// Whether the body says something that the status does not.
    pub(crate) fn has_items(self) -> bool {
        matches!(self, Self::Call | Self::Batch(_) | Self::Valid)
    }

    /// Whether every outcome in the body has succeeded.
    pub(crate) fn body(self, body: &[u8]) -> bool {
        match self {
            Self::Ok | Self::Created => true,
            Self::Valid => serde_json::from_slice(body).is_ok_and(|verdict: Verdict| verdict.valid),
            Self::Call => {
                serde_json::from_slice(body).is_ok_and(|outcome: Outcome| outcome.succeeded())
            }
            Self::Batch(items) => serde_json::from_slice(body).is_ok_and(|found: Vec<Outcome>| {
                found.len() == items && found.iter().all(Outcome::succeeded)
            }),
        }
    }

    /// The problem in an answer that was not accepted: the first outcome that failed, or the body.
    pub(crate) fn problem(self, answer: &Answer) -> String {
        let whole = || String::from_utf8_lossy(&answer.body).into_owned();
        match serde_json::from_slice(&answer.body) {
            Ok(Value::Array(outcomes)) => outcomes
                .iter()
                .find(|outcome| outcome["status"] != "success")
                .map_or_else(|| format!("{} outcomes", outcomes.len()), Value::to_string),
            _ => whole(),
        }
    }

    /// The items that one success counts for.
    pub(crate) fn items(self) -> u64 {
        match self {
            Self::Batch(items) => items as u64,
            Self::Ok | Self::Created | Self::Valid | Self::Call => 0,
        }
    }
}

/// Who am I, with one token all the time.
async fn me(setup: &Setup) -> Result<Workload, LoadError> {
    let token = match setup.token() {
        Some(token) => token.clone(),
        None => setup.register_member().await?.token,
    };
    Ok(Workload::new(vec![setup.me_request(&token)?], Accept::Ok))
}

/// Who am I, with another token each time.
async fn me_cold(setup: &Setup) -> Result<Workload, LoadError> {
    let tokens = setup.read_tokens().await?;
    let requests = tokens.iter().map(|token| setup.me_request(token));
    let workload = Workload::new(requests.collect::<Result<_, _>>()?, Accept::Ok);
    Ok(Workload { once: true, ..workload })
}

/// Debits of one hot wallet.
async fn debit(setup: &Setup) -> Result<Workload, LoadError> {
    let wallet = setup.register_wallet(CREDITS).await?;
    Ok(Workload::new(vec![debit_request(setup, &wallet)?], Accept::Created))
}

/// Debits spread over many wallets.
async fn debits(setup: &Setup) -> Result<Workload, LoadError> {
    let wallets = setup.register_wallets(CREDITS).await?;
    let requests = wallets.iter().map(|tenant| debit_request(setup, tenant));
    Ok(Workload::new(requests.collect::<Result<_, _>>()?, Accept::Created))
}

fn debit_request(setup: &Setup, tenant: &str) -> Result<Prepared, LoadError> {
    let body = json!({ "amount": 1, "reason": "load" });
    setup.service_request("/v1/billing/debits", tenant, &body)
}

/// One reading call at a time.
async fn call(setup: &Setup) -> Result<Workload, LoadError> {
    let shelf = Shelf::deploy(setup).await?;
    let books = shelf.fill(setup).await?;
    let requests = books.iter().map(|book| shelf.call_request(setup, get_book(book)));
    Ok(Workload::new(requests.collect::<Result<_, _>>()?, Accept::Call))
}

/// One writing call at a time.
async fn call_write(setup: &Setup) -> Result<Workload, LoadError> {
    let shelf = Shelf::deploy(setup).await?;
    Ok(Workload::new(vec![shelf.call_request(setup, add_book(0))?], Accept::Call))
}

/// Batches of reading calls.
async fn batch(setup: &Setup) -> Result<Workload, LoadError> {
    let shelf = Shelf::deploy(setup).await?;
    let books = shelf.fill(setup).await?;
    let size = setup.batch_size();
    let calls = books.iter().cycle().take(size).map(|book| get_book(book)).collect();
    Ok(Workload::new(vec![shelf.batch_request(setup, calls)?], Accept::Batch(size)))
}

/// Batches of writing calls.
async fn batch_write(setup: &Setup) -> Result<Workload, LoadError> {
    let shelf = Shelf::deploy(setup).await?;
    let size = setup.batch_size();
    let calls = (0..size).map(add_book).collect();
    Ok(Workload::new(vec![shelf.batch_request(setup, calls)?], Accept::Batch(size)))
}

/// Batches of reading calls, one in [`MIXED_WRITES_EVERY`] of which writes.
async fn batch_mixed(setup: &Setup) -> Result<Workload, LoadError> {
    let shelf = Shelf::deploy(setup).await?;
    let books = shelf.fill(setup).await?;
    let size = setup.batch_size();
    let call = |(number, book): (usize, &String)| match number % MIXED_WRITES_EVERY {
        0 => add_book(number),
        _ => get_book(book),
    };
    let calls = (0..size).zip(books.iter().cycle()).map(call).collect();
    Ok(Workload::new(vec![shelf.batch_request(setup, calls)?], Accept::Batch(size)))
}

/// What a tenant of its own may send: one request of each sort.
pub(crate) struct Neighbour {
    pub(crate) me: Prepared,
    pub(crate) debit: Prepared,
    pub(crate) call: Prepared,
    /// A batch of writing calls.
    pub(crate) batch: Prepared,
}

/// A tenant with a filled wallet and an app.
pub(crate) async fn neighbour(setup: &Setup) -> Result<Neighbour, LoadError> {
    let shelf = Shelf::deploy(setup).await?;
    let books = shelf.fill(setup).await?;
    let calls = (0..setup.batch_size()).map(add_book).collect();
    let debit = json!({ "amount": 1, "reason": "load" });
    Ok(Neighbour {
        me: setup.me_request(&shelf.owner.token)?,
        debit: shelf.request(setup, "/v1/billing/debits", &debit)?,
        call: shelf.call_request(setup, get_book(&books[0]))?,
        batch: shelf.batch_request(setup, calls)?,
    })
}

pub(crate) fn add_book(number: usize) -> Value {
    json!({
        "function": "add_book",
        "params": { "title": format!("Volume {number}"), "pages": 100 + number },
    })
}

fn get_book(book: &str) -> Value {
    json!({ "function": "get_book", "params": { "id": book } })
}

/// The app that the calls go to, under an id of its own, and its owner, who calls it.
pub(crate) struct Shelf {
    pub(crate) app_id: String,
    pub(crate) owner: Member,
}

/// An app of its own, and its owner.
pub(crate) struct Hosted {
    pub(crate) app_id: String,
    pub(crate) owner: Member,
}

/// Deploys an app of a new developer.
pub(crate) async fn deploy(
    setup: &Setup,
    document: fn(&str) -> Value,
) -> Result<Hosted, LoadError> {
    let owner = setup.register_member().await?;
    setup.grant_if_possible(&owner.tenant_id, CREDITS).await?;
    let app_id = setup.unique("load-shelf");
    let tier = json!({ "tier": "explorer", "nickname": setup.unique("load") });
    // A developer who is registered already is as good as a new one.
    match setup.post(&owner, "/v1/developer/register", &tier).await {
        Err(LoadError::Refused { status: 400, .. }) => {}
        other => drop(other?),
    }
    let app = json!({
        "app_id": app_id,
        "display_name": "Reading shelf",
        "git_url": "https://example.com/app.git",
    });
    setup.post(&owner, "/v1/developer/apps", &app).await?;
    let deploy = json!({
        "user_id": owner.user_id,
        "tenant_id": owner.tenant_id,
        "function": "deploy_ir",
        "params": { "app_id": app_id, "ir_dict": document(&app_id) },
    });
    let path = "/v1/extensions/developer/call";
    let outcome = setup.post(&owner, path, &deploy).await?;
    succeeded(path, &outcome)?;
    Ok(Hosted { app_id, owner })
}

impl Shelf {
    /// Deploys one, for an owner of its own with a filled wallet.
    pub(crate) async fn deploy(setup: &Setup) -> Result<Self, LoadError> {
        let Hosted { app_id, owner } = deploy(setup, shelf_document).await?;
        Ok(Self { app_id, owner })
    }

    /// Puts books on the shelf and answers their ids.
    async fn fill(&self, setup: &Setup) -> Result<Vec<String>, LoadError> {
        let calls = (0..BOOKS).map(add_book).collect();
        let (path, body) = self.batch_body(calls);
        let outcomes = setup.post(&self.owner, &path, &body).await?;
        let outcomes = outcomes.as_array().map_or(&[][..], Vec::as_slice);
        let missing = || LoadError::Answer { path: path.clone(), field: "[].data.id" };
        let mut books = Vec::new();
        for outcome in outcomes {
            succeeded(&path, outcome)?;
            books.push(outcome["data"]["id"].as_str().ok_or_else(missing)?.to_owned());
        }
        if books.len() == BOOKS { Ok(books) } else { Err(missing()) }
    }

    /// A call of the function that lists, which needs no book.
    pub(crate) fn list_request(&self, setup: &Setup) -> Result<Prepared, LoadError> {
        self.call_request(setup, json!({ "function": "books", "params": {} }))
    }

    pub(crate) fn call_request(
        &self,
        setup: &Setup,
        mut call: Value,
    ) -> Result<Prepared, LoadError> {
        call["user_id"] = json!(self.owner.user_id);
        call["tenant_id"] = json!(self.owner.tenant_id);
        let path = format!("/v1/extensions/{}/call", self.app_id);
        self.request(setup, &path, &call)
    }

    fn batch_request(&self, setup: &Setup, calls: Vec<Value>) -> Result<Prepared, LoadError> {
        let (path, body) = self.batch_body(calls);
        self.request(setup, &path, &body)
    }

    fn batch_body(&self, calls: Vec<Value>) -> (String, Value) {
        let body = json!({
            "user_id": self.owner.user_id,
            "tenant_id": self.owner.tenant_id,
            "calls": calls,
        });
        (format!("/v1/extensions/{}/batch", self.app_id), body)
    }

    fn request(&self, setup: &Setup, path: &str, body: &Value) -> Result<Prepared, LoadError> {
        let body = Bytes::from(body.to_string());
        setup.member_request(Method::POST, path, &self.owner.token, Some(body))
    }
}

/// A function that failed answers HTTP 200, so preparing looks at its outcome.
fn succeeded(path: &str, outcome: &Value) -> Result<(), LoadError> {
    if outcome["status"] == "success" {
        return Ok(());
    }
    Err(LoadError::Refused { path: path.to_owned(), status: 200, problem: outcome.to_string() })
}

/// The app: one function that writes, one that reads by id, one that lists.
fn shelf_document(app_id: &str) -> Value {
    let function = |name: &str, action: &str, params: Value, op: &str, args: Value| {
        json!({
            "name": name,
            "action_type": action,
            "params_schema": params,
            "impl": { "kind": "declarative", "steps": [{ "id": "only", "op": op, "args": args }] },
        })
    };
    let book = json!({
        "title": "{{args.title}}",
        "pages": "{{args.pages}}",
        "label": "{{args.title}} ({{args.pages}} p.)",
    });
    let text = json!({ "type": "string" });
    json!({
        "ir_version": "1.0",
        "app": {
            "id": app_id,
            "version": "1.0.0",
            "title": "Reading shelf",
            "capabilities": ["store"],
            "functions": [
                function(
                    "add_book",
                    "write",
                    json!({ "title": text, "pages": { "type": "integer" } }),
                    "store.create",
                    json!({ "kind": "book", "data": book }),
                ),
                function(
                    "get_book",
                    "read",
                    json!({ "id": text }),
                    "store.get",
                    json!({ "kind": "book", "id": "{{args.id}}" }),
                ),
                function(
                    "books",
                    "read",
                    json!({}),
                    "store.list",
                    json!({ "kind": "book", "limit": 50 }),
                ),
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_for_something_and_no_two_are_the_same() {
        let mut names: Vec<_> = names().collect();
        assert!(names.iter().all(|name| named(name).next().is_some()));
        assert!(named("nothing").next().is_none());
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn an_answer_is_a_success_only_if_all_its_items_are() {
        let good = br#"{"status":"success","data":{"status":"error"}}"#;
        let bad = br#"{"status":"error","error":"no such book"}"#;
        assert!(Accept::Call.body(good) && !Accept::Call.body(bad));
        let both = [b"[", &good[..], b",", &bad[..], b"]"].concat();
        let twice = [b"[", &good[..], b",", &good[..], b"]"].concat();
        assert!(Accept::Batch(2).body(&twice));
        assert!(!Accept::Batch(3).body(&twice), "an item is missing");
        assert!(!Accept::Batch(2).body(&both));
        assert!(!Accept::Batch(2).body(b"[") && !Accept::Call.body(b""));

        let answer = Answer { status: hyper::StatusCode::OK, body: both };
        assert!(Accept::Batch(2).problem(&answer).contains("no such book"));
        assert!(Accept::Created.status(201) && !Accept::Ok.status(201) && !Accept::Ok.status(204));
    }
}
