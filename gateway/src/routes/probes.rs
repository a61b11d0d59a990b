//! Probes, metrics and the documents about the API: for everyone, counted by nobody, but for the
//! metrics, which [`Watcher`] guards.

use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use identity::mail::PostOffice;
use persistence::Journal;
use serde_json::{Value, json};
use supervision::Refusal;
use types::rfc3339;

use crate::app::App;
use crate::assets::{self, Asset};
use crate::authenticate::Watcher;
use crate::openapi::Documents;
use crate::problem::Problem;

/// For how long what the writer has done says that it is well.
const PROGRESS_FRESH: Duration = Duration::from_secs(1);
/// How long the writer may have work and get nowhere before the server is not ready.
const STUCK: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const PROGRESS_PERIOD: Duration = Duration::from_millis(20);

/// The files of `/docs`.
const DOCS: &[Asset] = &[
    Asset { name: "docs.css", text: include_str!("../docs/docs.css") },
    Asset { name: "docs.js", text: include_str!("../docs/docs.js") },
];

pub(super) fn router(documents: Documents) -> Router<App> {
    let one = documents.clone();
    Router::new()
        .route("/healthz", get(healthz))
        .route("/health", get(healthz))
        .route("/v1/health", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/openapi.json", get(move || document(documents.clone(), "all".to_owned())))
        .route(
            "/openapi/{name}",
            get(move |Path(name): Path<String>| {
                document(one.clone(), name.trim_end_matches(".json").to_owned())
            }),
        )
        .route("/docs", get(docs))
        .route("/docs/{file}", get(docs_file))
}

async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// What the writer is known to have done answers this, so that a probe waits for nobody's work: it
/// is ready when it has nothing to do, or got on within [`PROGRESS_FRESH`]. One that did not may be
/// slow or stuck; it gets until [`STUCK`] to show which.
async fn readyz(State(app): State<App>) -> Response {
    if is_ready(app.system.journal()).await {
        // With little room on the disk it still serves: what finishes, frees or reads.
        let low_space = app.system.journal().is_low_on_space();
        let body = json!({ "status": "ready", "low_space": low_space, "mail": mail(&app) });
        return Json(body).into_response();
    }
    let status = StatusCode::SERVICE_UNAVAILABLE;
    (status, Json(json!({ "status": "the journal does not answer" }))).into_response()
}

async fn is_ready(journal: &Journal) -> bool {
    if journal.stuck_for().is_none() {
        // Something to do, so that the next probe hears of a writer that is gone.
        journal.ride(Box::new(|_| {}));
        return true;
    }
    loop {
        match journal.stuck_for() {
            Some(idle) if idle >= STUCK => return false,
            Some(idle) if idle >= PROGRESS_FRESH => tokio::time::sleep(PROGRESS_PERIOD).await,
            _ => return true,
        }
    }
}

/// How sending mail goes. A mail server that fails keeps nobody from being served.
fn mail(app: &App) -> Value {
    let office = app.system.port::<PostOffice>();
    let figures = office.figures();
    let (since, reason) = figures.failing.map(|(since, reason)| (rfc3339(since), reason)).unzip();
    json!({
        "status": if since.is_some() { "failing" } else { "ok" }, "by": office.mailer_name(),
        "waiting": figures.waiting, "failing_since": since, "reason": reason,
    })
}

async fn metrics(State(app): State<App>, _: Watcher) -> Response {
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    match app.metrics.render(&app.system, app.extensions.outside()) {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn document(documents: Documents, name: String) -> Result<Response, Problem> {
    let text = documents.get(&name).ok_or_else(|| Refusal::not_found("document"))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ];
    Ok((headers, text.to_string()).into_response())
}

async fn docs() -> Response {
    assets::page(include_str!("../docs/index.html"))
}

async fn docs_file(Path(name): Path<String>, asked: HeaderMap) -> Result<Response, Problem> {
    assets::serve(DOCS, &name, &asked)
}
