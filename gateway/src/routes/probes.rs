//! Probes, metrics and the documents about the API: for everyone, counted by nobody.

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use supervision::Refusal;

use crate::app::App;
use crate::console::CONTENT_SECURITY_POLICY;
use crate::openapi::Documents;
use crate::problem::Problem;

pub(super) fn router(documents: Documents) -> Router<App> {
    let one = documents.clone();
    Router::new()
        .route("/healthz", get(healthz))
        .route("/health", get(healthz))
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
        .route("/docs/docs.js", get(docs_script))
        .route("/docs/docs.css", get(docs_style))
}

async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn readyz(State(app): State<App>) -> Response {
    // Only the writer can answer this: it is ready when it commits.
    let settled = tokio::time::timeout(std::time::Duration::from_secs(5), app.system.settle());
    match settled.await {
        // With little room on the disk it still serves: what finishes, frees or reads.
        Ok(()) => {
            let low_space = app.system.journal().is_low_on_space();
            Json(json!({ "status": "ready", "low_space": low_space })).into_response()
        }
        Err(_) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            (status, Json(json!({ "status": "the journal does not answer" }))).into_response()
        }
    }
}

async fn metrics(State(app): State<App>) -> Response {
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    match app.metrics.render(&app.system) {
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

async fn docs() -> impl IntoResponse {
    let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(include_str!("../docs/index.html")))
}

async fn docs_script() -> impl IntoResponse {
    let kind = HeaderValue::from_static("text/javascript; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], include_str!("../docs/docs.js"))
}

async fn docs_style() -> impl IntoResponse {
    let kind = HeaderValue::from_static("text/css; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], include_str!("../docs/docs.css"))
}
