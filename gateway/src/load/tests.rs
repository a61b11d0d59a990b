//! The generator against a small server on a port of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::client::Target;
use super::report::{Fault, Report};
use super::runner::{Profile, run};
use super::scenario::{Accept, Workload};
use super::setup::Setup;
use super::{LoadArgs, LoadError};

/// What the server does with the request of this number, counted from 0.
enum Reply {
    Answer(u16, Value),
    /// Answers 200 and closes the connection.
    Last,
    /// Answers 200 this much later.
    Late(Duration),
    /// Never answers.
    Never,
    /// Breaks the connection.
    Break,
}

/// Serves until the test's runtime ends; answers the server's URL.
async fn serve(reply: impl Fn(u64, &Request<Bytes>) -> Reply + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shared = Arc::new((reply, AtomicU64::new(0)));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let shared = Arc::clone(&shared);
            let service = service_fn(move |request: Request<Incoming>| {
                let shared = Arc::clone(&shared);
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let request = Request::from_parts(head, body);
                    let number = shared.1.fetch_add(1, Ordering::Relaxed);
                    respond(shared.0(number, &request)).await
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    url
}

async fn respond(reply: Reply) -> Result<Response<Full<Bytes>>, &'static str> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
    match reply {
        Reply::Answer(status, body) => {
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            *response.body_mut() = Full::new(Bytes::from(body.to_string()));
        }
        Reply::Last => {
            response.headers_mut().insert(CONNECTION, "close".parse().unwrap());
        }
        // sleep: the lateness itself is what this server plays
        Reply::Late(delay) => tokio::time::sleep(delay).await,
        Reply::Never => std::future::pending().await,
        Reply::Break => return Err("as the test wants it"),
    }
    Ok(response)
}

fn profile(connections: usize, rate: Option<u64>) -> Profile {
    Profile {
        connections,
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(300),
        drain: Duration::from_secs(5),
        rate,
    }
}

async fn measure(url: &str, accept: Accept, profile: &Profile) -> Result<Report, LoadError> {
    let target = Target::resolve(url).await?;
    let requests = vec![target.prepare(Method::POST, "/any", &[], Some(Bytes::new()))?];
    run("test", Workload { requests, accept, once: false }, profile, &target).await
}

fn count(report: &Report, fault: Fault) -> u64 {
    report.errors.iter().find(|error| error.kind == fault).map_or(0, |error| error.seen.count)
}

#[tokio::test]
async fn an_open_loop_sends_exactly_its_schedule_and_counts_what_was_refused() {
    let url = serve(|number, _| match number % 10 {
        3 => Reply::Answer(503, json!({ "error": "busy" })),
        7 => Reply::Break,
        _ => Reply::Answer(200, Value::Null),
    })
    .await;
    let report = measure(&url, Accept::Ok, &profile(8, Some(1_000))).await.unwrap();
    assert_eq!(report.requests, 240);
    assert_eq!(count(&report, Fault::Status(503)), 30);
    assert_eq!(count(&report, Fault::Connection), 30);
    assert_eq!(report.errors[0].seen.first, r#"{"error":"busy"}"#);
    assert!(report.reconnects > 0);
}

#[tokio::test]
async fn a_stall_is_paid_by_every_request_that_it_held_back() {
    let stall = Duration::from_millis(200);
    let late = move |number, _: &_| match number {
        10 => Reply::Late(stall),
        _ => Reply::Answer(200, Value::Null),
    };
    let url = serve(late).await;
    let open = measure(&url, Accept::Ok, &profile(1, Some(500))).await.unwrap();
    assert_eq!(open.requests, 150);
    assert_eq!(open.error_count, 0);
    // About 100 of 150 requests were due during the stall; half of them waited 100 ms or longer.
    assert!(open.latency_micros.p90 > 100_000, "{:?}", open.latency_micros);
    assert!(open.latency_micros.max >= 200_000);

    let url = serve(late).await;
    let closed = measure(&url, Accept::Ok, &profile(1, None)).await.unwrap();
    assert!(closed.requests > 20);
    assert!(closed.latency_micros.p90 < 100_000, "{:?}", closed.latency_micros);
}

#[tokio::test]
async fn a_closed_idle_connection_is_opened_again_and_is_no_error() {
    let url = serve(|number, _| match number % 4 {
        3 => Reply::Last,
        _ => Reply::Answer(201, Value::Null),
    })
    .await;
    let report = measure(&url, Accept::Created, &profile(2, Some(200))).await.unwrap();
    assert_eq!((report.requests, report.error_count), (60, 0), "{:?}", report.errors);
    assert!(report.reconnects >= 14, "{}", report.reconnects);
}

#[tokio::test]
async fn what_is_never_answered_or_never_sent_is_a_fault() {
    let url = serve(|_, _| Reply::Never).await;
    let profile = Profile { drain: Duration::from_millis(10), ..profile(2, Some(100)) };
    let report = measure(&url, Accept::Ok, &profile).await.unwrap();
    assert_eq!(report.requests, 0);
    assert_eq!(count(&report, Fault::Unanswered), 2);
    assert_eq!(count(&report, Fault::Unsent), 28);
}

#[tokio::test]
async fn the_warm_up_is_not_counted() {
    let url = serve(|_, _| Reply::Answer(200, Value::Null)).await;
    let warm_up = Duration::from_millis(100);
    let report = measure(&url, Accept::Ok, &Profile { warm_up, ..profile(4, Some(100)) }).await;
    assert_eq!(report.unwrap().requests, 30);
}

#[tokio::test]
async fn after_one_bad_item_every_answer_is_checked() {
    let good = || json!({ "status": "success" });
    let bad = || json!({ "status": "error", "error": "full" });
    let url = serve(move |number, _| match number {
        0 => Reply::Answer(200, json!([good(), bad()])),
        number if number % 2 == 0 => Reply::Answer(200, json!([good()])),
        _ => Reply::Answer(200, json!([good(), good()])),
    })
    .await;
    let report = measure(&url, Accept::Batch(2), &profile(1, Some(100))).await.unwrap();
    assert_eq!((report.requests, report.items), (15, 30));
    assert_eq!(count(&report, Fault::Item), 15);
    assert!(report.errors[0].seen.first.contains("full"));
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: LoadArgs,
}

fn args(url: &str, more: &[&str]) -> LoadArgs {
    let always = ["load", "--url", url, "--service-token", "s3rvice", "--operator-email"];
    let login = ["ops@example.com", "--operator-password", "letmein-please"];
    Cli::parse_from([&always[..], &login[..], more].concat()).args
}

/// As much of the platform as the scenarios need: what one request must show before the next.
/// A token of nobody's, as its holder reads it.
fn agent_token() -> String {
    use agents::token::{Claims, Grant, Seed, mint};
    let scopes = ["ledger:*"].into_iter().collect();
    let (expires_at_s, target, allowance, actors) = (60, None, None, Vec::new());
    let grant = Grant { scopes, expires_at_s, target, allowance, actors };
    let (token, agent, tenant) = (types::TokenId(1), types::AgentId(2), types::TenantId(3));
    let (epoch, issued_at_s, intent) = (1, 1, String::new());
    let claims = Claims { token, agent, tenant, epoch, issued_at_s, intent, grant };
    mint(&claims, &[0; 32], &Seed::from_bytes(&[1; 32]), |_| Some([0; 64])).unwrap()
}

fn platform(_: u64, request: &Request<Bytes>) -> Reply {
    let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = header(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
    let success = |data: Value| json!({ "status": "success", "data": data });
    let path: Vec<_> = request.uri().path().split('/').skip(2).collect();
    match (path.as_slice(), bearer) {
        (["auth", "register"], _) if header("x-service-token") == Some("s3rvice") => {
            let token = body["email"].as_str().unwrap().split('@').next().unwrap();
            Reply::Answer(201, json!({ "access_token": token, "expires_in": 900 }))
        }
        (["auth", "login"], _) if body["password"] == "letmein-please" => {
            Reply::Answer(200, json!({ "access_token": "operator" }))
        }
        (["auth", "me"], Some(user)) if user.starts_with("load-") => {
            let user = json!({ "imperal_id": user, "tenant_id": format!("of-{user}") });
            Reply::Answer(200, user)
        }
        (["operator", "tenants", tenant, "grants"], Some("operator"))
            if tenant.starts_with("of-load-") && body["kind"] == "paid" =>
        {
            Reply::Answer(201, Value::Null)
        }
        (["billing", "debits"], None)
            if header("x-service-token") == Some("s3rvice")
                && header("x-tenant-id").is_some_and(|tenant| tenant.starts_with("of-load-")) =>
        {
            Reply::Answer(201, Value::Null)
        }
        (["billing", "debits"], Some(user)) if user.starts_with("load-") => {
            Reply::Answer(201, Value::Null)
        }
        (["developer", "register"], Some(_)) => Reply::Answer(400, json!({ "error": "known" })),
        (["developer", "apps"], Some(_)) => Reply::Answer(201, Value::Null),
        (["admin", "apps", _, "approve"], None) if header("x-service-token").is_some() => {
            Reply::Answer(200, Value::Null)
        }
        (["agents"], Some(_)) => Reply::Answer(201, json!({ "id": "agt_1" })),
        (["tokens"], Some(_)) if body["agent_id"] == "agt_1" => {
            Reply::Answer(201, json!({ "token": agent_token() }))
        }
        (["tokens", "verify"], None) if body["token"].is_string() => {
            Reply::Answer(200, json!({ "valid": true }))
        }
        (["marketplace", "apps"], Some(_)) => Reply::Answer(200, json!({ "apps": [] })),
        (["extensions", "developer", "call"], Some(_)) if body["function"] == "deploy_ir" => {
            let params = &body["params"];
            assert_eq!(params["app_id"], params["ir_dict"]["app"]["id"]);
            Reply::Answer(200, success(Value::Null))
        }
        (["extensions", _, "call"], Some(user)) if body["user_id"] == user => {
            Reply::Answer(200, success(Value::Null))
        }
        (["extensions", _, "batch"], Some(user)) if body["user_id"] == user => {
            let outcomes = body["calls"].as_array().unwrap().iter().map(|call| {
                let known = call["params"]["id"] == "book" || call["params"]["title"].is_string();
                if known { success(json!({ "id": "book" })) } else { json!({ "status": "error" }) }
            });
            Reply::Answer(200, outcomes.collect())
        }
        _ => Reply::Answer(401, json!({ "error": "unauthorized" })),
    }
}

#[tokio::test]
async fn every_scenario_prepares_itself_through_the_public_interface() {
    let url = serve(platform).await;
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "load-1\n\nload-2\n").unwrap();
    let tokens = tokens.to_str().unwrap();
    let few = ["--wallets", "20", "--batch-size", "130", "--apps", "3"];
    let more = [&few[..], &["--token-file", tokens]].concat();
    let target = Target::resolve(&url).await.unwrap();
    let profile = Profile { duration: Duration::from_millis(100), ..profile(4, Some(200)) };
    let setup = Setup::new(args(&url, &more), target.clone(), profile.span()).unwrap();
    for scenario in super::scenario::SCENARIOS {
        let workload = (scenario.prepare)(&setup).await.unwrap();
        let prepared = match scenario.name {
            "me-cold" => 2,
            "debits" => 20,
            "call" => 100,
            "verify-cold" => super::verifying::TOKENS,
            "search" => super::search::QUESTIONS,
            _ => 1,
        };
        assert_eq!(workload.requests.len(), prepared, "{}", scenario.name);
        let report = run(scenario.name, workload, &profile, &target).await.unwrap();
        assert_eq!((report.requests, report.error_count), (20, 0), "{report:?}");
        let items = if scenario.name.starts_with("batch") { 20 * 130 } else { 0 };
        assert_eq!(report.items, items);
    }
}

#[tokio::test]
async fn the_command_measures_and_writes_its_results() {
    let url = serve(platform).await;
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let more = ["--rate", "100", "--duration", "1", "--connections", "2", "--scenario", "debit"];
    super::run(args(&url, &[&more[..], &["--json", json.to_str().unwrap()]].concat()))
        .await
        .unwrap();
    let results: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((&results["loop"], &results["rate"]), (&json!("open"), &json!(100)));
    let report = &results["scenarios"][0];
    assert_eq!((&report["scenario"], &report["requests"]), (&json!("debit"), &json!(100)));
    assert_eq!(report["errors"], json!([]));
}

#[tokio::test]
async fn a_scenario_that_cannot_be_prepared_does_not_keep_the_others_from_being_measured() {
    let url = serve(|number, request| match request.uri().path() {
        path if path.ends_with("/grants") => Reply::Answer(403, json!({ "error": "no_operator" })),
        _ => platform(number, request),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("load.json");
    let more = ["--rate", "50", "--duration", "1", "--json", json.to_str().unwrap()];
    let error = super::run(args(&url, &more)).await.unwrap_err();
    assert!(matches!(error, LoadError::Partly { failed: 6, chosen: 8 }), "{error}");
    let results: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(results["scenarios"][0]["requests"], 50);
    let reason = results["not_measured"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("403") && reason.contains("no_operator"), "{reason}");
}

#[tokio::test]
async fn a_login_storm_tells_what_it_does_to_others_and_who_is_put_off_comes_back() {
    let logins = AtomicU64::new(0);
    let url = serve(move |number, request| match request.uri().path() {
        // The first one is the operator's, who brings the users in.
        "/v1/auth/login" => match logins.fetch_add(1, Ordering::Relaxed) {
            1..=3 => Reply::Answer(503, json!({ "error": "busy" })),
            _ => Reply::Answer(200, json!({ "access_token": "operators" })),
        },
        "/v1/operator/users/import" => Reply::Answer(200, json!({ "failed": 0 })),
        "/readyz" => Reply::Answer(200, json!({})),
        _ => platform(number, request),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("storm.json");
    let name = super::storm::NAME;
    let more = ["--scenario", name, "--logins", "20", "--duration", "1", "--json"];
    let more = [&more[..], &[file.to_str().unwrap()]].concat();
    super::run(args(&url, &more)).await.unwrap();
    let found: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&found["succeeded"], &found["came_back"]), (&json!(20), &json!(3)), "{found}");
    for probe in ["me", "readyz"] {
        for part in ["quiet", "storm"] {
            let probe = &found["p99"][probe][part];
            assert!(probe["requests"].as_u64() > Some(100), "{found}");
            assert_eq!(probe["failures"], 0, "{found}");
        }
        assert!(found["p99"][probe]["ratio"].as_f64() > Some(0.0), "{found}");
    }
}

#[tokio::test]
async fn a_flood_tells_what_it_does_to_a_neighbour_and_what_it_was_answered() {
    let batches = AtomicU64::new(0);
    let url = serve(move |number, request| {
        // Some of the flood is refused; the first batches fill the shelves.
        let is_batch = request.uri().path().ends_with("/batch");
        match is_batch && batches.fetch_add(1, Ordering::Relaxed) > 2 {
            true => Reply::Answer(429, json!({ "error": "rate_limited" })),
            false => platform(number, request),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flood.json");
    let name = super::flood::NAME;
    let more = ["--scenario", name, "--connections", "4", "--rate", "400", "--duration", "1"];
    let more = [&more[..], &["--json", file.to_str().unwrap()]].concat();
    super::run(args(&url, &more)).await.unwrap();
    let found: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for status in ["200", "201", "429"] {
        assert!(found["flood_answers"][status].as_u64() > Some(0), "{found}");
    }
    for probe in ["me", "debit", "call"] {
        for part in ["quiet", "flood"] {
            let probe = &found["p99"][probe][part];
            assert!(probe["requests"].as_u64() > Some(10), "{found}");
            assert_eq!(probe["failures"], 0, "{found}");
        }
    }
}

#[tokio::test]
async fn hostile_hosts_are_set_and_what_their_calls_are_answered_is_counted() {
    let hosts = Arc::new(AtomicU64::new(0));
    let set = Arc::clone(&hosts);
    let url = serve(move |number, request| {
        let path = request.uri().path();
        match path {
            path if path.ends_with("/host") => {
                set.fetch_add(1, Ordering::Relaxed);
                Reply::Answer(200, json!({}))
            }
            path if path.ends_with("/call") && !path.contains("/developer/") => {
                let error = "the app's host: no whole answer came in time";
                Reply::Answer(200, json!({ "status": "error", "error": error }))
            }
            _ => platform(number, request),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hostile.json");
    let name = super::hostile::NAME;
    let more = ["--scenario", name, "--connections", "4", "--duration", "1", "--json"];
    let more = [&more[..], &[file.to_str().unwrap()]].concat();
    super::run(args(&url, &more)).await.unwrap();
    assert_eq!(hosts.load(Ordering::Relaxed), 5, "one that is well and four that are not");
    let found: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(found["hostile_answers"]["out of time"].as_u64() > Some(0), "{found}");
    assert_eq!(found["well_calls_taken"], 0, "this server calls no host");
    for part in ["quiet", "hostile"] {
        assert!(found["p99"]["call"][part]["requests"].as_u64() > Some(10), "{found}");
    }
}

#[tokio::test]
async fn a_scenario_without_one_success_is_a_failure() {
    let url = serve(|_, _| Reply::Answer(401, Value::Null)).await;
    let more = ["--rate", "20", "--duration", "1", "--scenario", "me", "--token", "old"];
    let error = super::run(args(&url, &more)).await.unwrap_err();
    assert!(matches!(error, LoadError::NoSuccess { scenario: "me" }), "{error}");
}

#[tokio::test]
async fn a_refusal_in_the_set_up_is_told_in_the_servers_words_and_no_secret_is() {
    let url = serve(|_, _| Reply::Answer(422, json!({ "error": "weak_password" }))).await;
    let target = Target::resolve(&url).await.unwrap();
    let setup = Setup::new(args(&url, &[]), target, Duration::from_secs(2)).unwrap();
    let refused = setup.register_member().await.unwrap_err().to_string();
    assert!(refused.contains("422") && refused.contains("weak_password"), "{refused}");
    let shown = format!("{setup:?}");
    assert!(!shown.contains("s3rvice") && !shown.contains("letmein"), "{shown}");
    let request = setup.me_request(&"t0ken".into()).unwrap();
    assert!(!format!("{request:?}").contains("t0ken"));
}

#[tokio::test]
async fn a_run_longer_than_its_token_is_refused_before_it_starts() {
    let url = serve(platform).await;
    let target = Target::resolve(&url).await.unwrap();
    let setup = Setup::new(args(&url, &[]), target, Duration::from_secs(901)).unwrap();
    assert!(matches!(setup.register_member().await, Err(LoadError::TokenLife { .. })));
}

#[tokio::test]
async fn only_plain_http_addresses_are_taken() {
    for url in ["https://localhost:1", "localhost", "http://", "http://user@host:1", "nonsense:"] {
        let error = Target::resolve(url).await.unwrap_err();
        assert!(matches!(error, LoadError::Url { .. }), "{url}: {error}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Target::resolve(&format!("http://{address}/")).await.unwrap_err();
    assert!(matches!(error, LoadError::Connect { .. }), "{error}");
}
